"""Who stands above the certificates of peers and upstreams, as the full handshakes by one version of the files showed.

A certificate names who issued it. Where that is no authority of the trust bundle but one between, the root is asked for,
which has to stay in the bundle, and those between, which may be revoked; a resumed session shows neither, and is of a
certificate that was seen before. Where nobody stands between nothing is asked, and nothing kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from interceptor.tls import certificates, judgement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.tls.judgement import Facts, PeerCertificate

KEPT: Final = 4096  # certificates, some 300 bytes each; more than there are sessions to resume


class Vouching:
    """Of the authorities of one trust bundle."""

    def __init__(self, bundle: Sequence[Facts]) -> None:
        self._authorities = judgement.authorities(bundle)
        self._seen: OrderedDict[bytes, tuple[str, tuple[tuple[str, int], ...]]] = OrderedDict()

    def traced(
        self, peer: PeerCertificate, der: bytes, chain: Callable[[], Sequence[bytes]]
    ) -> PeerCertificate:
        """A certificate with the authority of the bundle that vouches for it; ``chain`` is as the handshake showed it."""
        if not self._authorities or peer.authority in self._authorities:
            return peer
        key = hashlib.sha256(der).digest()
        found = self._seen.get(key)
        if found is None:
            _, *above = chain() or (der,)
            if not above:
                return peer
            *between, root = map(certificates.parsed, above)
            found = root.key_id or root.subject, tuple((each.issuer, each.serial) for each in between)
            self._seen[key] = found
            if len(self._seen) > KEPT:
                self._seen.popitem(last=False)
        return peer._replace(authority=found[0], above=found[1])
