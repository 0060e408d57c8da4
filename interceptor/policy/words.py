"""The words of AuthorizationPolicy: what each field and each condition's key looks at, and how its values compare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from interceptor.config.addresses import ip_address_or_network
from interceptor.policy.match import Networks, Paths, Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.policy.facts import ConnectionFacts, RequestFacts
    from interceptor.policy.match import Address, Matcher, Subject

# A word of HTTP only is never asked without a request.
Ask: TypeAlias = "Callable[[ConnectionFacts, RequestFacts], Sequence[Subject]]"

_HEADER: Final = re.compile(r"request\.headers\[(.+)\]")
_NAME: Final = re.compile(r"\[([^\[\]]+)\]")
PSEUDO_TRUST_DOMAIN: Final = "cluster.local"  # Istio's word for the own one, whatever it is called
SNI: Final = "connection.sni"
_REMOTE: Final = "remote.ip"
_CARRIES: Final = "connection.protocol"
_SPACE_DELIMITED: Final = frozenset(
    {"scope", "permission"}
)  # claims that are lists in one text (Istio's two)


class Scope(NamedTuple):
    """What values are read by: the namespace of their policy, and our trust domain before its aliases."""

    namespace: str
    trust_domains: Sequence[str]


@dataclass(frozen=True, slots=True)
class Word:
    """Something that rules can be about."""

    about: str
    ask: Ask
    matcher: Callable[[Sequence[str], Scope], Matcher]
    http_only: bool = False

    @property
    def of_request(self) -> bool:
        """Whether it is known later than the connection: its requests may differ in it, or its ClientHello says it."""
        return self.http_only or self.about in {_REMOTE, SNI, _CARRIES}


def _texts(values: Sequence[str], _: Scope) -> Matcher:
    return Texts(values)


def _lower(values: Sequence[str], _: Scope) -> Matcher:
    return Texts(value.lower() for value in values)


def _networks(values: Sequence[str], _: Scope) -> Matcher:
    return Networks(map(ip_address_or_network, values))


def _octets(value: str) -> str:
    """A text as the bytes of a request are read: one character for each."""
    return value.encode().decode("latin-1")


def _paths(values: Sequence[str], _: Scope) -> Matcher:
    return Paths([*map(_octets, values)])


def _headers(values: Sequence[str], _: Scope) -> Matcher:
    return Texts(map(_octets, values))


def _accounts(values: Sequence[str], scope: Scope) -> Matcher:
    return Texts(value if "/" in value else f"{scope.namespace}/{value}" for value in values)


def _principals(values: Sequence[str], scope: Scope) -> Matcher:
    """A principal of our trust domain, of one of its aliases, or of ``cluster.local``, is meant in all of them."""
    ours = frozenset((*scope.trust_domains, PSEUDO_TRUST_DOMAIN))
    meant: list[str] = []
    for value in values:
        trust_domain, slash, rest = value.partition("/")
        same = scope.trust_domains if slash and trust_domain in ours else (trust_domain,)
        meant += (f"{each}{slash}{rest}" for each in same)
    return Texts(meant)


def _remote(connection: ConnectionFacts, request: RequestFacts | None) -> tuple[Address]:
    """The client behind trusted proxies; on TCP nobody can say that there is one."""
    host = request.remote if request is not None else ""
    return (connection.address(host or connection.peer.host),)


def _carries(_: ConnectionFacts, request: RequestFacts | None) -> tuple[str]:
    return ("tcp" if request is None else "http",)


_PRINCIPAL: Final = Word("source.principal", lambda c, _: (c.principal,), _principals)
_NAMESPACE: Final = Word("source.namespace", lambda c, _: (c.namespace,), _texts)
_ACCOUNT: Final = Word("source.serviceAccount", lambda c, _: (c.account,), _accounts)
_SOURCE_IP: Final = Word("source.ip", lambda c, _: (c.address(c.peer.host),), _networks)
_REMOTE_IP: Final = Word(_REMOTE, _remote, _networks)
_REQUEST_PRINCIPAL: Final = Word(
    "request.auth.principal", lambda _, r: (r.principal,), _texts, http_only=True
)
_PORT: Final = Word("destination.port", lambda c, _: (c.port,), _texts)

SOURCE: Final[dict[str, Word]] = {
    "principals": _PRINCIPAL,
    "requestPrincipals": _REQUEST_PRINCIPAL,
    "namespaces": _NAMESPACE,
    "serviceAccounts": _ACCOUNT,
    "ipBlocks": _SOURCE_IP,
    "remoteIpBlocks": _REMOTE_IP,
}
OPERATION: Final[dict[str, Word]] = {
    "hosts": Word("host", lambda _, r: r.hosts, _lower, http_only=True),
    "ports": _PORT,
    "methods": Word("method", lambda _, r: (r.method,), _texts, http_only=True),
    "paths": Word("path", lambda _, r: (r.path,), _paths, http_only=True),
}
_CONDITIONS: Final[dict[str, Word]] = {
    word.about: word
    for word in (
        *(_PRINCIPAL, _NAMESPACE, _ACCOUNT, _SOURCE_IP, _REMOTE_IP, _REQUEST_PRINCIPAL, _PORT),
        Word("destination.ip", lambda c, _: (c.address(c.destination.host),), _networks),
        Word(SNI, lambda c, _: (c.sni,), _texts),
        Word(_CARRIES, _carries, _texts),
        Word("request.auth.audiences", lambda _, r: _claim(r, ("aud",)), _texts, http_only=True),
        Word("request.auth.presenter", lambda _, r: _claim(r, ("azp",)), _texts, http_only=True),
    )
}


def condition(key: str) -> Word:
    """What a condition's key looks at."""
    if key in _CONDITIONS:
        return _CONDITIONS[key]
    if header := _HEADER.fullmatch(key):
        name = header.group(1).lower()
        lower = name.encode()
        return Word(f"request.headers[{name}]", lambda _, r: r.header(lower), _headers, http_only=True)
    path = tuple(_NAME.findall(key))
    return Word(key, lambda _, r: _claim(r, path), _texts, http_only=True)


def _claim(request: RequestFacts, path: Sequence[str]) -> Sequence[str]:
    """The texts of a claim: one, or those of a list; whatever else it is compares with nothing."""
    value: object = request.claims
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value.split() if path[0] in _SPACE_DELIMITED and len(path) == 1 else (value,)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else ()
