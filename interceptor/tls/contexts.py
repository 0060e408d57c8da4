"""What handshakes are made with: OpenSSL contexts of one version of the certificates, and sessions to resume.

A new version of the files makes a new ``Contexts``: whoever shakes hands next has it, streams that exist keep what they
began with, and a session of the old version cannot be resumed (the keys of its tickets are gone), so nobody whom the
new bundle does not trust comes in by an old ticket. Where each trust domain has authorities of its own none is resumed:
only a full handshake shows which authority vouches for a peer.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.errors import ConfigError
from interceptor.kernel import openssl
from interceptor.tls.vouching import Vouching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.tls.certificates import Material

# Istio's list for TLS 1.2 (MeshConfig); the suites of TLS 1.3 are all modern.
CIPHERS: Final = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
TICKETS: Final = (
    1  # in a TLS 1.3 handshake: OpenSSL's two are for clients that use each only once, which costs bytes
)
SESSIONS: Final = 512  # kept to resume, some 3 KB each


class Upstream(NamedTuple):
    """What a session belongs to: it must never be resumed towards anybody, or in any way, else."""

    address: str
    server_name: str | None
    expected: tuple[str, ...]
    alpn: tuple[str, ...]


class Contexts:
    """Contexts of one version of the certificates, made when they are first asked for."""

    def __init__(self, material: Material) -> None:
        """Raises ConfigError where OpenSSL refuses what cryptography read."""
        self.material = material
        self.vouching = Vouching(material.bundle)
        self._made: dict[tuple[bool, bool, tuple[str, ...]], ssl.SSLContext] = {}
        self._sessions: OrderedDict[Upstream, openssl.AnySession] = OrderedDict()
        if material.pair_pem is not None:
            self.server(())
        self.client(())

    def server(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """To be called by a peer of the mesh, who must present a certificate."""
        return self._get(server=True, check_host=False, alpn=alpn)

    def client(self, alpn: tuple[str, ...], *, check_host: bool = False) -> ssl.SSLContext:
        """To call an upstream; the caller compares its names unless the host is checked by OpenSSL."""
        return self._get(server=False, check_host=check_host, alpn=alpn)

    def session(self, upstream: Upstream) -> openssl.AnySession | None:
        """A session to resume."""
        return self._sessions.get(upstream)

    def serves_on(self, upstream: Upstream, now: float) -> bool:
        """Whether the session with an upstream is young enough to be resumed once more."""
        session = self._sessions.get(upstream)
        return session is not None and now - session.time < session.timeout / 2

    def keep(self, upstream: Upstream, session: openssl.AnySession | None, *, by_id: bool = False) -> None:
        """Remember the newest session with an upstream; the least recently renewed ones are forgotten.

        Up to TLS 1.2 (``by_id``) a server may keep it itself, and give no ticket but an id.
        """
        if session is None or self.material.anchors or not (session.has_ticket or (by_id and session.id)):
            return
        self._sessions[upstream] = session
        self._sessions.move_to_end(upstream)
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)

    def _get(self, *, server: bool, check_host: bool, alpn: tuple[str, ...]) -> ssl.SSLContext:
        key = (server, check_host, alpn)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._make(server=server, check_host=check_host, alpn=alpn)
        return found

    def _make(self, *, server: bool, check_host: bool, alpn: tuple[str, ...]) -> ssl.SSLContext:
        made = openssl.make_context(
            server=server, resumption=not self.material.anchors, check_host=check_host
        )
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.maximum_version = ssl.TLSVersion.TLSv1_3
        made.set_ciphers(CIPHERS)
        made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        made.options &= (
            ~ssl.OP_IGNORE_UNEXPECTED_EOF
        )  # Python's default takes a cut connection for an orderly end
        made.verify_mode = ssl.CERT_REQUIRED
        if server:
            made.num_tickets = 0 if self.material.anchors else TICKETS
        if alpn:
            made.set_alpn_protocols(alpn)
        try:
            if self.material.pair_pem is not None:
                with _as_file(self.material.pair_pem) as path:
                    made.load_cert_chain(path)
            if self.material.bundle_pem is None:
                made.load_default_certs(ssl.Purpose.SERVER_AUTH)
            elif self.material.bundle_pem:
                made.load_verify_locations(cadata=self.material.bundle_pem.decode("ascii", "replace"))
        except ssl.SSLError as error:
            raise ConfigError(
                f"OpenSSL refuses the certificates: {error.reason or error}; issue new ones"
            ) from None
        return made


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Bytes under a path, which is all that ``load_cert_chain`` takes; they never touch a disk.

    A pair is so loaded from what was judged, whatever happens to the files meanwhile.
    """
    descriptor = os.memfd_create("pair")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
