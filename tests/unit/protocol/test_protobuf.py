"""What is written is read, and by the library as well; any bytes are fields or an error."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given, strategies as st

from interceptor.protocol.protobuf import field, fields, number, numbers


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_the_librarys(value: int) -> None:
    assert list(numbers(UInt64Value(value=value).SerializeToString())) == ([(1, value)] if value else [])
    assert UInt64Value.FromString(b"\x08" + number(value)).value == value


@given(st.text(max_size=300), st.binary(max_size=300))
def test_fields_are_the_librarys(text: str, data: bytes) -> None:
    written = Any(type_url=text, value=data).SerializeToString()
    assert dict(fields(written)) == {at: each for at, each in ((1, text.encode()), (2, data)) if each}
    assert Any.FromString(field(1, text.encode()) + field(2, data)) == Any(type_url=text, value=data)


def test_what_is_of_another_type_is_passed_over() -> None:
    mixed = b"\x08\x05" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + field(4, b"x")
    assert list(fields(mixed)) == [(4, b"x")]
    assert list(numbers(mixed)) == [(1, 5)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a", "ends inside a number"),
        (b"\x0a\x05abc", "ends inside a field"),
        (b"\x09" + bytes(7), "ends inside a field"),
        (b"\xff" * 11, "too long"),
        (b"\x0b", r"no protocol buffer \(wire type 3\)"),
    ],
)
def test_what_makes_no_sense_is_said(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(fields(data))


@given(st.binary(max_size=100))
def test_any_bytes_are_fields_or_an_error(data: bytes) -> None:
    try:
        found = list(fields(data))
    except ValueError:
        return
    assert sum(len(value) for _, value in found) <= len(data)
