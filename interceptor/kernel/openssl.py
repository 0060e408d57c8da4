"""What OpenSSL can be told of a context and Python's ``ssl`` has no name for, told to the library that ``ssl`` itself uses.

Each is worth its line (measured with OpenSSL 3.0 and P-256, CPU of a full handshake; see docs/mutual-tls.md):

- No chain of our own is looked for. Else OpenSSL verifies our certificate against our trust bundle at each handshake, and
  sends the root that it finds, which the peer has to parse.
- Sessions are kept here, the newest ones, and their tickets are only names of them. To make a ticket that holds the session
  OpenSSL parses the peer's certificate once more, and twice when it comes back.
- AES-128-GCM comes first in TLS 1.3, as Envoy has it, and as it is in our list for TLS 1.2.
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
from contextvars import ContextVar
from typing import Final, TypeAlias

SESSIONS: Final = 1024  # of a server's context, one less is kept, some 12 KB each; the oldest goes
SUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

# openssl/ssl.h, openssl/crypto.h
_EX_INDEX_SSL: Final = 0
_CTRL_MODE: Final = 33
_CTRL_SET_SESS_CACHE_SIZE: Final = 42
_CTRL_SET_SESS_CACHE_MODE: Final = 44
_MODE_NO_AUTO_CHAIN: Final = 8
_EX_INDEX_SSL_CTX: Final = 1

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


_tellers: Final = _Told(_tell), _Told(_tell_connection)  # for as long as the library is there


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


def make_context(*, server: bool, resumption: bool = True) -> ssl.SSLContext:
    """A new context; without what is told above where that is not possible."""
    library = _library()
    _newest.set(None)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    pointer = _newest.get()
    if library is None or pointer is None:
        return made
    library.SSL_CTX_ctrl(pointer, _CTRL_MODE, _MODE_NO_AUTO_CHAIN, None)
    library.SSL_CTX_set_ciphersuites(pointer, SUITES)
    if server:
        if resumption:
            library.SSL_CTX_ctrl(pointer, _CTRL_SET_SESS_CACHE_SIZE, SESSIONS, None)
        else:
            library.SSL_CTX_ctrl(pointer, _CTRL_SET_SESS_CACHE_MODE, 0, None)
        made.options |= ssl.OP_NO_TICKET  # that holds the session
    return made


def verified_chain(tls: ssl.SSLObject) -> list[bytes]:
    """A peer's certificate, those that it was verified by up to the root, in DER; none where a session was resumed."""
    if sys.version_info >= (3, 13):
        return tls.get_verified_chain()
    found = tls._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]  # noqa: SLF001 (public from 3.13 on)
    return [bytes(each.public_bytes(_ssl.ENCODING_DER)) for each in found]


def verified_root(tls: ssl.SSLObject) -> bytes | None:
    """The authority that a peer's certificate was verified by, in DER; None where a session was resumed."""
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
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        index = library.CRYPTO_get_ex_new_index
    except AttributeError:
        return None
    index.argtypes = [ctypes.c_int, number, pointer, _Told, pointer, pointer]
    asked = zip((_EX_INDEX_SSL_CTX, _EX_INDEX_SSL), _tellers, strict=True)
    return library if all(index(kind, 0, None, teller, None, None) >= 0 for kind, teller in asked) else None
