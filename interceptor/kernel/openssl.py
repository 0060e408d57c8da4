"""What OpenSSL can be told of a context and Python's ``ssl`` has no name for, told to the library that ``ssl`` itself uses.

Each is worth its line (measured with OpenSSL 3.0 and P-256, CPU of a full handshake; see docs/mutual-tls.md):

- No chain of our own is looked for. Else OpenSSL verifies our certificate against our trust bundle at each handshake, and
  sends the root that it finds, which the peer has to parse.
- Sessions are kept here, the newest ones, and their tickets are only names of them. To make a ticket that holds the session
  OpenSSL parses the peer's certificate once more, and twice when it comes back.
- AES-128-GCM comes first in TLS 1.3, as Envoy has it, and as it is in our list for TLS 1.2.

No layout of CPython's objects is read: OpenSSL tells who asks for it (CRYPTO_get_ex_new_index) of each context that it makes,
in the thread that makes it. Where it is another library than that of ``ssl``, it tells of none, and nothing is touched.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import ssl
import sys
from contextvars import ContextVar
from typing import Final

SESSIONS: Final = 1024  # of a server's context, one less is kept, some 12 KB each; the oldest goes
SUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

# openssl/ssl.h, openssl/crypto.h
_CTRL_MODE: Final = 33
_CTRL_SET_SESS_CACHE_SIZE: Final = 42
_CTRL_SET_SESS_CACHE_MODE: Final = 44
_MODE_NO_AUTO_CHAIN: Final = 8
_EX_INDEX_SSL_CTX: Final = 1

_newest: Final[ContextVar[int | None]] = ContextVar(
    "_newest"
)  # the context that was made last in this thread
_Told: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p
)


def _tell(context: int, *_: object) -> None:
    _newest.set(context)


_teller: Final = _Told(_tell)  # for as long as the library is there


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


def verified_root(tls: ssl.SSLObject) -> bytes | None:
    """The authority that a peer's certificate was verified by, in DER; None where a session was resumed."""
    if sys.version_info >= (3, 13):
        chain = tls.get_verified_chain()
        return chain[-1] if chain else None
    found = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # noqa: SLF001 (public from 3.13 on)
    return bytes(found[-1].public_bytes(_ssl.ENCODING_DER)) if found else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    """OpenSSL as ``ssl`` sees it, which tells of contexts from now on. None: it is there without names."""
    library = ctypes.CDLL(getattr(_ssl, "__file__", None))
    try:
        library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        library.SSL_CTX_ctrl.restype = ctypes.c_long
        library.SSL_CTX_set_ciphersuites.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        index = library.CRYPTO_get_ex_new_index
    except AttributeError:
        return None
    index.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_void_p, _Told, ctypes.c_void_p, ctypes.c_void_p]
    return library if index(_EX_INDEX_SSL_CTX, 0, None, _teller, None, None) >= 0 else None
