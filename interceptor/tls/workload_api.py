"""PURE. What an agent says in an answer to FetchX509SVID, from its bytes to plain data.

The messages are five fields of bytes and text (SPIFFE Workload API, section 5.1). Keys stay bytes, and no error text holds any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from interceptor.protocol.protobuf import fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METHOD: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
METADATA: Final = (
    ("workload.spiffe.io", "true"),
)  # SPIFFE Workload Endpoint, section 3: without it is refused

_SEQUENCE: Final = 0x30  # the tag of ASN.1 that a certificate begins with


@dataclass(frozen=True, slots=True)
class Svid:
    """One identity: who, by which certificates and key, and whom its trust domain believes. All in DER."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    bundle: tuple[bytes, ...]
    hint: str


@dataclass(frozen=True, slots=True)
class Answer:
    """All that a workload is entitled to; what an earlier answer had and this one has not is taken back."""

    svids: tuple[Svid, ...]
    revocation_lists: tuple[bytes, ...]
    federated: Mapping[str, bytes]  # the SPIFFE id of a foreign trust domain -> its bundle, as it came


def decode(data: bytes) -> Answer:
    """An answer; ValueError says what about the bytes is none."""
    svids: list[Svid] = []
    revocation_lists: list[bytes] = []
    federated: dict[str, bytes] = {}
    for number, value in fields(data):
        if number == 1:
            svids.append(_svid(value))
        elif number == 2:
            revocation_lists.append(value)
        elif number == 3:
            entry = dict(fields(value))
            federated[_text(entry.get(1, b""))] = entry.get(2, b"")
    return Answer(tuple(svids), tuple(revocation_lists), federated)


def chosen(svids: Sequence[Svid], hint: str | None) -> Svid:
    """The identity to use: the first with the hint, or the default, which is the first; ValueError where there is none."""
    for svid in svids:
        if hint is None or svid.hint == hint:
            return svid
    if not svids:
        raise ValueError("the answer holds no SVID")
    hints = ", ".join(repr(svid.hint) for svid in svids)
    raise ValueError(f"no SVID has the hint {hint!r}; there are {hints}")


def split(data: bytes) -> tuple[bytes, ...]:
    """The DER structures that stand one behind the other; ValueError where one is not whole."""
    found = []
    at = 0
    while at < len(data):
        end = _end_of_structure(data, at)
        if end > len(data):
            raise ValueError("a certificate is cut off")
        found.append(data[at:end])
        at = end
    return tuple(found)


def _svid(data: bytes) -> Svid:
    """Of a field that comes twice the last one counts, as in every protocol buffer."""
    given = dict(fields(data))
    missing = [name for number, name in _REQUIRED.items() if not given.get(number)]
    if missing:
        raise ValueError(f"an SVID has no {', '.join(missing)}")
    return Svid(_text(given[1]), split(given[2]), given[3], split(given[4]), _text(given.get(5, b"")))


_REQUIRED: Final = {1: "spiffe_id", 2: "x509_svid", 3: "x509_svid_key", 4: "bundle"}


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("a text in it is not UTF-8") from None


def _end_of_structure(data: bytes, at: int) -> int:
    """Where the DER structure ends that begins here (X.690, section 8.1.3)."""
    if data[at] != _SEQUENCE or at + 2 > len(data):
        raise ValueError("what should be a certificate is none")
    length = data[at + 1]
    if length < 0x80:
        return at + 2 + length
    size = length & 0x7F
    if not 1 <= size <= 4:
        raise ValueError("what should be a certificate is none")
    return at + 2 + size + int.from_bytes(data[at + 2 : at + 2 + size], "big")
