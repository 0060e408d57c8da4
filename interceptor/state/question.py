"""PURE. A connection or a request that somebody asks about, read from what was typed; every problem at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.config.addresses import host_name, ip_address
from interceptor.errors import ConfigError
from interceptor.model.http import RequestHead
from interceptor.model.identity import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

# What can be asked, by the names of flags and of the admin endpoint's parameters.
FIELDS: Final = (
    *("from", "identity", "to-port", "to", "sni"),
    *("method", "path", "host", "header", "jwt-claim"),
)
_OF_REQUEST: Final = frozenset({"method", "path", "host", "header", "jwt-claim"})
_CLAIM: Final = re.compile(r"[^\[\]]+(?:\[[^\[\]]+\])*")
_EXAMPLE_PEER: Final = "192.0.2.1"  # of RFC 5737, for a question that does not say who


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about."""

    peer: str
    port: int
    to: str | None  # egress: the address or the name the app connects to; None: ingress
    identity: SpiffeId | None
    sni: str
    request: RequestHead | None  # None: opaque TCP
    claims: Mapping[str, object]


def read(given: Mapping[str, Sequence[str]]) -> Question:
    """The question that fields and their values make; raises ConfigError with every problem."""
    problems: list[str] = []

    def one(name: str, judge: Callable[[str], T], default: T) -> T:
        values = given.get(name, ())
        if len(values) > 1:
            problems.append(f"{name} is given twice; give it once")
        try:
            return judge(values[0]) if values else default
        except ValueError as error:
            problems.append(f"{name}: {error}")
            return default

    problems += [
        f"there is no field '{name}'; known are: {', '.join(FIELDS)}" for name in given if name not in FIELDS
    ]
    if ("to" in given) == ("to-port" in given):
        problems.append(
            "say where the connection goes: to-port for one to the app, to for one of the app's own"
        )
    of_the_app: tuple[str | None, int] = None, one("to-port", _port, 0)
    to, port = one("to", _destination, of_the_app)
    question = Question(
        peer=one("from", ip_address, _EXAMPLE_PEER),
        port=port,
        to=to,
        identity=one("identity", SpiffeId.parse, None),
        sni=one("sni", str, ""),
        request=_request(given, problems) if _OF_REQUEST & given.keys() else None,
        claims=_claims(given.get("jwt-claim", ()), problems),
    )
    if problems:
        raise ConfigError(*problems)
    return question


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"'{text}' is not a port; write a number from 1 to 65535")
    return int(text)


def _destination(text: str) -> tuple[str | None, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(
            f"'{text}' has no port; write it like 10.0.0.1:443, [fd00::1]:443 or api.example.com:443"
        )
    return host_name(host.removeprefix("[").removesuffix("]")), _port(port)


def _request(given: Mapping[str, Sequence[str]], problems: list[str]) -> RequestHead:
    headers = []
    for text in given.get("header", ()):
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            problems.append(f"header: '{text}' is not a header; write it like 'x-team: red'")
        headers.append((name.strip().encode(), value.strip().encode()))
    path, method, host = (
        (given.get(name) or (default,))[0]
        for name, default in (("path", "/"), ("method", "GET"), ("host", ""))
    )
    host = host or next((value.decode() for name, value in headers if name.lower() == b"host"), "")
    return RequestHead(method.encode(), path.encode(), host.encode(), b"http", b"1.1", headers)


def _claims(given: Sequence[str], problems: list[str]) -> dict[str, object]:
    """``name=value`` or ``realm[roles]=value``; several of one name make a list, as ``groups`` is one."""
    claims: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not _CLAIM.fullmatch(name):
            problems.append(
                f"jwt-claim: '{text}' is not a claim; write it like groups=dev or realm[roles]=dev"
            )
            continue
        *outer, last = name.replace("]", "").split("[")
        inside = claims
        for each in outer:
            within = inside.setdefault(each, {})
            if not isinstance(within, dict):
                problems.append(f"jwt-claim: '{each}' is a text and holds others; give one of both")
                within = {}
            inside = within
        before = inside.get(last)
        if isinstance(before, dict):
            problems.append(f"jwt-claim: '{last}' holds others and is no text; give one of both")
        elif before is None:
            inside[last] = value
        else:
            inside[last] = [*(before if isinstance(before, list) else [before]), value]
    return claims
