"""Single fields of ``spec.middleware``: header names and values, rates, keys, ports, paths of files."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from interceptor.config.sentences import described, did_you_mean

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE: Final = re.compile(r"[!-~\x80-\U0010ffff](?:[ \t!-~\x80-\U0010ffff]*[!-~\x80-\U0010ffff])?|")
_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_OPERATOR: Final = re.compile(r"%(REQ|RESP)\(([^()%]*)\)%")
_KEYS: Final = ("peer", "identity", "principal", "pathPrefix")

# What says where a message ends, or is for one hop only: the proxy writes it, and nobody else.
FRAMING: Final = frozenset(
    {
        "connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"'{value}' is not the name of a header; use letters, digits and '-'")
    return value


def _settable(value: str) -> str:
    if value.lower() in FRAMING:
        raise ValueError(f"'{value}' frames or routes the message and is the proxy's to write; leave it out")
    return value


def _header_value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("holds a control character, or a space at an end; a header's value has neither")
    return value


def _rate(value: str) -> str:
    if not _RATE.fullmatch(value):
        raise ValueError(f"'{value}' is not a rate; write it like 100/s, 30/m or 5/h")
    return value


def rate(value: str) -> tuple[int, int]:
    """So many, in so many seconds."""
    number, _, unit = value.partition("/")
    return int(number), _SECONDS[unit]


def _key(value: str) -> str:
    kind, separator, name = value.partition(":")
    if separator and kind == "header":
        return f"header:{_header_name(name).lower()}"
    if value not in _KEYS:
        raise ValueError(f"'{value}' is not part of a key{did_you_mean(value, (*_KEYS, 'header:NAME'))}")
    return value


def _port_range(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _PORTS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"must be a port or a range like 8000-8100, not {described(value)}")
    first, last = first_and_last(match.group())
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"'{text}' is out of bounds; ports go from 1 to 65535, the lower one first")
    return text


def first_and_last(value: str) -> tuple[int, int]:
    """The ends of a range of ports."""
    first, _, last = value.partition("-")
    return int(first), int(last or first)


def _path_prefix(value: str) -> str:
    if not value.startswith("/") or "?" in value:
        raise ValueError(f"'{value}' is not the beginning of a path; it begins with '/' and has no query")
    return value


def _log_field(value: str) -> str:
    match = _OPERATOR.fullmatch(value)
    if match is None:
        if "%" in value:
            raise ValueError(f"'{value}' is no operator; use %REQ(header)%, %RESP(header)% or plain text")
        return value
    name = _header_name(match.group(2)).lower()
    if name in _SECRET:
        raise ValueError(f"'{name}' carries secrets, which are never logged; leave it out")
    return f"%{match.group(1)}({name})%"


HeaderName = Annotated[str, AfterValidator(_header_name)]
SettableHeader = Annotated[HeaderName, AfterValidator(_settable)]
HeaderValue = Annotated[str, Field(max_length=4096), AfterValidator(_header_value)]
Rate = Annotated[str, AfterValidator(_rate)]
RateKey = Annotated[str, AfterValidator(_key)]
PortRange = Annotated[str, BeforeValidator(_port_range)]
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
LogField = Annotated[str, Field(max_length=4096), AfterValidator(_log_field)]
