"""Requests from one version of HTTP to another (RFC 9113 sections 8.2.2, 8.2.3 and 8.3.1), where they can be said there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.model.http import RequestHead, get, get_all
from interceptor.protocol import grpc, http1
from interceptor.protocol.http1 import MalformedError

if TYPE_CHECKING:
    from interceptor.model.connection import ProtocolName

# What is said anew; and an upgrade to HTTP/2 would go past everything that looks at requests.
_SAID_ANEW: Final = frozenset((b"host", b"cookie", b"http2-settings"))


def multiplexes(declared: ProtocolName, head: RequestHead, upgrade: bytes | None) -> bool:
    """Whether a request goes to its upstream on a stream of HTTP/2: as is declared there, else as its client speaks."""
    if upgrade is not None:
        return False
    return declared in {"http2", "grpc"} or (head.version == b"2" and declared != "http")


def to_http1(head: RequestHead) -> RequestHead:
    """A request of HTTP/2 for an upstream of HTTP/1; MalformedError where it cannot be understood there."""
    if head.method == b"CONNECT":
        raise MalformedError("connect_needs_http2", 501)
    if grpc.is_grpc(head.headers):
        raise MalformedError("grpc_needs_http2", 501)
    host = _host(head)
    if not http1.is_authority(host):
        raise MalformedError("bad_host")
    headers = [(b"host", host)]
    headers += [header for header in head.headers if header[0].lower() not in _SAID_ANEW]
    cookies = get_all(head.headers, b"cookie")
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    return RequestHead(head.method, head.target, host, head.scheme, b"1.1", headers)


def to_http2(head: RequestHead) -> RequestHead:
    """A request of any version for an upstream of HTTP/2; names become lower-case when they are written."""
    headers = [header for header in head.headers if header[0].lower() != b"host"]
    target = head.target if head.method == b"CONNECT" else head.path
    return RequestHead(head.method, target, _host(head), head.scheme, b"2", headers)


def _host(head: RequestHead) -> bytes:
    """Whom it is for: a Host that differs from the authority was put there by a route or a filter."""
    return (get(head.headers, b"host") if head.version == b"2" else None) or head.authority
