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
from interceptor.protocol.protobuf import field, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    Struct: TypeAlias = Mapping[str, "str | Struct"]

ID: Final = b"x-envoy-peer-metadata-id"
VALUE: Final = b"x-envoy-peer-metadata"

LARGEST: Final = 8 * 1024  # bytes of a value; Istio's have some 500
MOST_FIELDS: Final = 128  # of one Struct
LONGEST: Final = 253  # characters of a text that becomes a label: a DNS name's
_DEPTH: Final = 4  # LABELS stand at 2

_CANONICAL_NAME: Final = "service.istio.io/canonical-name"
_CANONICAL_REVISION: Final = "service.istio.io/canonical-revision"

# Fields of a Value: struct.proto.
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
    except (binascii.Error, ValueError):  # no protocol buffer, text that is not UTF-8, or too much
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
    return b"".join(field(1, field(1, key.encode()) + field(2, _value(each))) for key, each in struct.items())


def _value(value: str | Struct) -> bytes:
    return (
        field(_STRING_VALUE, value.encode())
        if isinstance(value, str)
        else field(_STRUCT_VALUE, _struct(value))
    )


def _read_struct(data: bytes, depth: int) -> dict[str, str | Struct]:
    if not depth:
        raise ValueError("nested too deep")
    found: dict[str, str | Struct] = {}
    for number, entry in fields(data):
        if number != 1:
            continue
        parts = dict(fields(entry))  # of a field that comes twice the last one counts
        for kind, value in fields(parts.get(2, b"")):
            if kind == _STRING_VALUE:
                found[parts.get(1, b"").decode()] = value.decode()
            elif kind == _STRUCT_VALUE:
                found[parts.get(1, b"").decode()] = _read_struct(value, depth - 1)
        if len(found) > MOST_FIELDS:
            raise ValueError("too many fields")
    return found
