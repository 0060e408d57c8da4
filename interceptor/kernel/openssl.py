"""What OpenSSL can be told of a context and Python's ``ssl`` has no name for, told to the library that ``ssl`` itself uses.

Each is worth its line (measured with OpenSSL 3.0 and P-256, CPU of a full handshake; see docs/mutual-tls.md):

- No chain of our own is looked for. Else OpenSSL verifies our certificate against our trust bundle at each handshake, and
  sends the root that it finds, which the peer has to parse.
- Sessions are kept here, the newest ones, and their tickets are only names of them. To make a ticket that holds the session
  OpenSSL parses the peer's certificate once more, and twice when it comes back.
- AES-128-GCM comes first in TLS 1.3, as Envoy has it, and as it is in our list for TLS 1.2.
- A certificate that an authority of the bundle vouches for itself is not verified again for some minutes, by the same
  context: that is less than what a session is resumed for. Its owner proves at each handshake that he has its key, and who
  asked for the context judges its time, names and revocation each time.
- A client's session is copied by OpenSSL. Python's is written as DER and parsed again at each use, with the peer's
  certificate in it, for the sake of OpenSSL 1.1.0: 250 us to keep it, and as much to resume it.

No layout of CPython's objects is read: OpenSSL tells who asks for it (CRYPTO_get_ex_new_index) of each context and connection
that it makes, in the thread that makes it. Where it is another library than that of ``ssl``, it tells of none, and nothing is touched.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import ssl
import sys
import time
from collections import OrderedDict
from contextvars import ContextVar
from typing import Final, TypeAlias

SESSIONS: Final = 1024  # of a server's context, one less is kept, some 12 KB each; the oldest goes
VERIFIED: Final = 512  # certificates that a context does not verify again, for
VERIFIED_FOR: Final = 600.0  # seconds
SUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

# openssl/ssl.h, openssl/crypto.h
_EX_INDEX_SSL: Final = 0
_CTRL_MODE: Final = 33
_CTRL_SET_SESS_CACHE_SIZE: Final = 42
_CTRL_SET_SESS_CACHE_MODE: Final = 44
_MODE_NO_AUTO_CHAIN: Final = 8
_EX_INDEX_SSL_CTX: Final = 1
_DIGEST_SIZE: Final = 32

_newest: Final[ContextVar[int | None]] = ContextVar(
    "_newest"
)  # the context that was made last in this thread
_newest_connection: Final[ContextVar[int | None]] = ContextVar("_newest_connection")
_Told: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p
)


def _tell(context: int, *_: object) -> None:
    _newest.set(context)


def _tell_connection(connection: int, *_: object) -> None:
    _newest_connection.set(connection)


_Asked: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_tellers: Final = _Told(_tell), _Told(_tell_connection)  # for as long as the library is there


class _Context(ssl.SSLContext):
    """One that has verified certificates; OpenSSL asks by ``asked``."""

    asked: object


class _Verified:
    """The certificates that a context has verified lately. Whatever goes wrong here, OpenSSL takes for a bad one."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._sha256 = library.EVP_sha256()
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def verify(self, store: int, _: object) -> int:
        """In X509_verify_cert's place: 1 where it stands."""
        library = self._library
        digest = ctypes.create_string_buffer(_DIGEST_SIZE)
        if not library.X509_digest(library.X509_STORE_CTX_get0_cert(store), self._sha256, digest, None):
            return 0
        if self._until.get(digest.raw, 0.0) > time.monotonic():
            return 1
        found: int = library.X509_verify_cert(store)
        # Of a longer chain who asked for the context wants to see what stands between.
        if found == 1 and library.OPENSSL_sk_num(library.X509_STORE_CTX_get0_chain(store)) == 2:
            self._until[digest.raw] = time.monotonic() + VERIFIED_FOR
            self._until.move_to_end(digest.raw)
            if len(self._until) > VERIFIED:
                self._until.popitem(last=False)
        return found


class Session:
    """A session of a client's, to be resumed: what ``ssl.SSLSession`` is, and no copy of it is parsed."""

    __slots__ = ("_library", "_pointer", "has_ticket", "id", "time", "timeout")

    def __init__(self, library: ctypes.CDLL, pointer: int) -> None:
        """It belongs to this object from here."""
        self._library, self._pointer = library, pointer
        size = ctypes.c_uint()
        name = library.SSL_SESSION_get_id(pointer, ctypes.byref(size))
        self.id: bytes = ctypes.string_at(name, size.value)
        self.has_ticket = bool(library.SSL_SESSION_has_ticket(pointer))
        self.time: int = library.SSL_SESSION_get_time(pointer)
        self.timeout: int = library.SSL_SESSION_get_timeout(pointer)

    def __del__(self) -> None:
        self._library.SSL_SESSION_free(self._pointer)

    def give_to(self, connection: int) -> None:
        """Let a connection resume it. It has a copy, for OpenSSL resumes none of a connection that was cut off."""
        copy = self._library.SSL_SESSION_dup(self._pointer)
        self._library.SSL_set_session(connection, copy)
        self._library.SSL_SESSION_free(copy)


AnySession: TypeAlias = Session | ssl.SSLSession


class Connection:
    """One side of a TLS connection in memory, and what OpenSSL calls it."""

    __slots__ = ("_pointer", "tls")

    def __init__(
        self,
        context: ssl.SSLContext,
        bios: tuple[ssl.MemoryBIO, ssl.MemoryBIO],
        *,
        server_side: bool,
        server_name: str | None = None,
        session: AnySession | None = None,
    ) -> None:
        _newest_connection.set(None)
        ours, pythons = (session, None) if isinstance(session, Session) else (None, session)
        self.tls = context.wrap_bio(
            *bios, server_side=server_side, server_hostname=server_name, session=pythons
        )
        self._pointer = _newest_connection.get()
        if ours is not None and self._pointer is not None:
            ours.give_to(self._pointer)

    @property
    def session(self) -> AnySession | None:
        """To resume; of TLS 1.3 it has a ticket only after the first read."""
        library = _library()
        if library is None or self._pointer is None:
            return self.tls.session
        found = library.SSL_get_session(self._pointer)
        return None if found is None else Session(library, library.SSL_SESSION_dup(found))


def make_context(*, server: bool, resumption: bool = True, check_host: bool = False) -> ssl.SSLContext:
    """A new context; without what is told above where that is not possible.

    Without resumption, or where the host is checked, each handshake verifies, and shows by whom.
    """
    library = _library()
    _newest.set(None)
    made = _Context(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = check_host
    pointer = _newest.get()
    if library is None or pointer is None:
        return made
    library.SSL_CTX_ctrl(pointer, _CTRL_MODE, _MODE_NO_AUTO_CHAIN, None)
    library.SSL_CTX_set_ciphersuites(pointer, SUITES)
    if resumption and not check_host:
        made.asked = asked = _Asked(_Verified(library).verify)
        library.SSL_CTX_set_cert_verify_callback(pointer, asked, None)
    if server:
        if resumption:
            library.SSL_CTX_ctrl(pointer, _CTRL_SET_SESS_CACHE_SIZE, SESSIONS, None)
        else:
            library.SSL_CTX_ctrl(pointer, _CTRL_SET_SESS_CACHE_MODE, 0, None)
        made.options |= ssl.OP_NO_TICKET  # that holds the session
    return made


def verified_chain(tls: ssl.SSLObject) -> list[bytes]:
    """A peer's certificate, those that it was verified by up to the root, in DER; none where it was verified before."""
    if sys.version_info >= (3, 13):
        return tls.get_verified_chain()
    found = tls._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]  # noqa: SLF001 (public from 3.13 on)
    return [bytes(each.public_bytes(_ssl.ENCODING_DER)) for each in found]


def verified_root(tls: ssl.SSLObject) -> bytes | None:
    """The authority that a peer's certificate was verified by, in DER; None where it was verified before."""
    return next(reversed(verified_chain(tls)), None)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """OpenSSL as ``ssl`` sees it, which tells of contexts and connections from now on. None: it is there without names."""
    library = ctypes.CDLL(getattr(_ssl, "__file__", None))
    pointer, number = ctypes.c_void_p, ctypes.c_long
    try:
        for name, result, arguments in (
            ("SSL_CTX_ctrl", number, [pointer, ctypes.c_int, number, pointer]),
            ("SSL_CTX_set_ciphersuites", ctypes.c_int, [pointer, ctypes.c_char_p]),
            ("SSL_get_session", pointer, [pointer]),
            ("SSL_set_session", ctypes.c_int, [pointer, pointer]),
            ("SSL_SESSION_dup", pointer, [pointer]),
            ("SSL_SESSION_free", None, [pointer]),
            ("SSL_SESSION_get_id", pointer, [pointer, pointer]),
            ("SSL_SESSION_has_ticket", ctypes.c_int, [pointer]),
            ("SSL_SESSION_get_time", number, [pointer]),
            ("SSL_SESSION_get_timeout", number, [pointer]),
            ("SSL_CTX_set_cert_verify_callback", None, [pointer, _Asked, pointer]),
            ("X509_STORE_CTX_get0_cert", pointer, [pointer]),
            ("X509_STORE_CTX_get0_chain", pointer, [pointer]),
            ("X509_verify_cert", ctypes.c_int, [pointer]),
            ("X509_digest", ctypes.c_int, [pointer, pointer, ctypes.c_char_p, pointer]),
            ("OPENSSL_sk_num", ctypes.c_int, [pointer]),
            ("EVP_sha256", pointer, []),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        index = library.CRYPTO_get_ex_new_index
    except AttributeError:
        return None
    index.argtypes = [ctypes.c_int, number, pointer, _Told, pointer, pointer]
    asked = zip((_EX_INDEX_SSL_CTX, _EX_INDEX_SSL), _tellers, strict=True)
    return library if all(index(kind, 0, None, teller, None, None) >= 0 for kind, teller in asked) else None
