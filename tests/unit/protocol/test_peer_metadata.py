from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from google.protobuf import struct_pb2
from hypothesis import given, strategies as st

from interceptor.model.workload import SILENT, Workload
from interceptor.protocol.peer_metadata import LARGEST, LONGEST, decode_untrusted, encode

ISTIO: dict[str, str | dict[str, str]] = {
    "NAME": "web-7d9-x",
    "NAMESPACE": "shop",
    "WORKLOAD_NAME": "web",
    "CLUSTER_ID": "east",
    "LABELS": {
        "app": "web",
        "version": "v2",
        "service.istio.io/canonical-name": "storefront",
        "service.istio.io/canonical-revision": "r2",
    },
}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def by_protobuf(value: object) -> bytes:
    struct = struct_pb2.Struct()
    struct.update(value)
    return b64encode(struct.SerializeToString(deterministic=True))


def test_what_envoy_says_is_read() -> None:
    whole = {**ISTIO, "N": 1.5, "B": True, "L": ["a", {"b": None}], "Z": None, "APP_CONTAINERS": "web"}
    assert decode_untrusted(by_protobuf(whole)) == Workload(
        "web", "shop", "web", "v2", "storefront", "r2", "east"
    )


def test_names_fall_back_as_istios_do() -> None:
    assert decode_untrusted(by_protobuf({"WORKLOAD_NAME": "web"})) == Workload(
        "web", canonical_service="web", canonical_revision="latest"
    )
    assert decode_untrusted(by_protobuf({"LABELS": "none"})) == SILENT


@given(st.dictionaries(TEXTS, TEXTS | st.dictionaries(TEXTS, TEXTS, max_size=4), max_size=6))
def test_protobuf_reads_what_we_say(struct: dict[str, str | dict[str, str]]) -> None:
    read = struct_pb2.Struct()
    read.ParseFromString(b64decode(encode(struct)))
    found = {
        key: dict(value.struct_value) if value.HasField("struct_value") else value.string_value
        for key, value in read.fields.items()
    }
    assert found == struct


def test_we_read_what_we_say() -> None:
    assert decode_untrusted(encode(ISTIO)) == decode_untrusted(by_protobuf(ISTIO))


@pytest.mark.parametrize(
    "text",
    ["", "x" * (LONGEST + 1), "a\nb", "a\x00", "ä", "\x7f"],
    ids=["empty", "long", "line", "nul", "umlaut", "del"],
)
def test_a_text_that_is_no_label_counts_for_nothing(text: str) -> None:
    assert decode_untrusted(by_protobuf({"WORKLOAD_NAME": text, "NAMESPACE": "n"})) == Workload(
        workload_namespace="n"
    )


def deep(levels: int) -> dict[str, object]:
    return {"a": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"not base64!",
        b"AAA",
        b64encode(b"\x0a\xff"),  # longer than there is
        b64encode(b"\x0a\x04\x0a\x01"),
        b64encode(b"\xff" * 11),  # a number without end
        b64encode(b"\x0b"),  # a group, which nobody uses any more
        b64encode(b"\x0a\x08\x0a\x01a\x12\x03\x1a\x01\xff"),  # no UTF-8
        by_protobuf(deep(6)),
        by_protobuf({str(at): "" for at in range(200)}),
        b"A" * (LARGEST + 4),
    ],
)
def test_what_makes_no_sense_is_nobody(value: bytes) -> None:
    assert decode_untrusted(value) == SILENT


def test_numbers_of_every_width_are_passed_over() -> None:
    odd = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x12\x01x"
    assert decode_untrusted(b64encode(odd + b64decode(encode({"NAMESPACE": "n"})))).workload_namespace == "n"


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    assert len(decode_untrusted(b64encode(data))) == len(SILENT)
    decode_untrusted(data)
