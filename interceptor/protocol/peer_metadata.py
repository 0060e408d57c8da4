"""PURE. What proxies of a mesh tell each other of their workloads in headers: Envoy's x-envoy-peer-metadata.

The value is base64 of a protobuf Struct (google/protobuf/struct.proto), with the names that Istio's proxies give and
look for. Of a Struct only texts and Structs are of use here; what else a peer says is passed over.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from interceptor.model.workload import SILENT, UNKNOWN, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Struct: TypeAlias = Mapping[str, "str | Struct"]

ID: Final = b"x-envoy-peer-metadata-id"
VALUE: Final = b"x-envoy-peer-metadata"

LARGEST: Final = 8 * 1024  # bytes of a value; Istio's have some 500
MOST_FIELDS: Final = 128  # of one Struct
LONGEST: Final = 253  # characters of a text that becomes a label: a DNS name's
_DEPTH: Final = 4  # LABELS stand at 2

_CANONICAL_NAME: Final = "service.istio.io/canonical-name"
_CANONICAL_REVISION: Final = "service.istio.io/canonical-revision"

# Wire types and fields: protobuf's encoding, struct.proto.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STRING_VALUE, _STRUCT_VALUE = 3, 5


def encode(struct: Struct) -> bytes:
    """The value of the header."""
    return b64encode(_struct(struct))


@lru_cache(maxsize=1024)  # a peer says the same with every connection
def decode_untrusted(value: bytes) -> Workload:
    """Who a peer says it is; nobody where it makes no sense."""
    if len(value) > LARGEST:
        return SILENT
    try:
        said = _read_struct(b64decode(value, validate=True), _DEPTH)
    except (binascii.Error, IndexError, ValueError):  # ValueError: text that is not UTF-8, or too much
        return SILENT
    found = said.get("LABELS")
    labels = found if isinstance(found, dict) else {}
    name = _text(said, "WORKLOAD_NAME")
    return Workload(
        name,
        _text(said, "NAMESPACE"),
        _text(labels, "app"),
        _text(labels, "version"),
        _text(labels, _CANONICAL_NAME, name),
        _text(labels, _CANONICAL_REVISION, UNKNOWN if name == UNKNOWN else "latest"),
        _text(said, "CLUSTER_ID"),
    )


def _text(struct: Struct, key: str, default: str = UNKNOWN) -> str:
    """A text that may become a label."""
    value = struct.get(key)
    good = isinstance(value, str) and 0 < len(value) <= LONGEST and value.isascii() and value.isprintable()
    return value if good and isinstance(value, str) else default


def _struct(struct: Struct) -> bytes:
    return b"".join(
        _field(1, _field(1, key.encode()) + _field(2, _value(each))) for key, each in struct.items()
    )


def _value(value: str | Struct) -> bytes:
    return (
        _field(_STRING_VALUE, value.encode())
        if isinstance(value, str)
        else _field(_STRUCT_VALUE, _struct(value))
    )


def _field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | _BYTES,)) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _read_struct(data: bytes, depth: int) -> dict[str, str | Struct]:
    if not depth:
        raise ValueError("nested too deep")
    found: dict[str, str | Struct] = {}
    for number, entry in _fields(data):
        if number != 1:
            continue
        parts = dict(_fields(entry))  # of a field that comes twice the last one counts
        for kind, value in _fields(parts.get(2, b"")):
            if kind == _STRING_VALUE:
                found[parts.get(1, b"").decode()] = value.decode()
            elif kind == _STRUCT_VALUE:
                found[parts.get(1, b"").decode()] = _read_struct(value, depth - 1)
        if len(found) > MOST_FIELDS:
            raise ValueError("too many fields")
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each field that has a length; numbers are passed over. Raises IndexError and ValueError."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _read_varint(data, at)
            if at + size > len(data):
                raise IndexError
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _read_varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("no such wire type")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")
