"""Header compression, held against the hpack library and RFC 7541's examples."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, strategies as st

from interceptor.protocol.http2.codes import COMPRESSION_ERROR, LegError
from interceptor.protocol.http2.hpack import Again, Decoder, Encoder, NeverIndexed, Unindexed

LIMIT = 1 << 16

names = st.sampled_from(
    [b":authority", b":status", b"content-type", b"x-a", b":path", b"cookie", b"x-" + b"n" * 200]
)
values = st.binary(max_size=300) | st.sampled_from([b"/", b"200", b"text/plain", b"a" * 5000])
fields = st.builds(lambda kind, field: field if kind is tuple else kind(field), st.sampled_from([tuple, Unindexed, NeverIndexed]), st.tuples(names, values))  # fmt: skip
lists = st.lists(fields, max_size=20)


def decoded(*blocks: str, decoder: Decoder | None = None) -> list[tuple[bytes, bytes]]:
    decoder = decoder or Decoder(LIMIT)
    for block in blocks[:-1]:
        decoder.decode(bytes.fromhex(block))
    return decoder.decode(bytes.fromhex(blocks[-1])).fields


def test_the_examples_of_the_rfc() -> None:
    """RFC 7541 appendix C.4: requests with Huffman code."""
    first = "828684418cf1e3c2e5f23a6ba0ab90f4ff"
    second = "828684be5886a8eb10649cbf"
    third = "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"
    assert decoded(first, second, third) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ]


def test_what_the_sender_wanted_in_no_table_is_told() -> None:
    """RFC 7541 appendix C.2.2 and C.2.3."""
    (path,) = decoded("040c2f73616d706c652f70617468")
    (password,) = decoded("100870617373776f726406736563726574")
    (custom,) = decoded("400a637573746f6d2d6b65790d637573746f6d2d686561646572")
    assert (path, type(path)) == ((b":path", b"/sample/path"), Unindexed)
    assert (password, type(password)) == ((b"password", b"secret"), NeverIndexed)
    assert type(custom) is tuple


@given(st.lists(lists, max_size=5), st.lists(st.sampled_from([0, 40, 100, 4096, 9999]), max_size=5))
def test_what_is_encoded_is_decoded_by_us_and_by_the_library(
    blocks: list[list[tuple[bytes, bytes]]], limits: list[int]
) -> None:
    encoder, ours, theirs = Encoder(), Decoder(LIMIT), hpack.Decoder(LIMIT)
    for number, block in enumerate(blocks):
        for limit in limits[number:]:
            encoder.limit(limit)
        data = encoder.encode(block)
        one = ours.decode(data).fields
        other = list(theirs.decode(data, raw=True))
        assert one == other == block
        never = [isinstance(field, NeverIndexed) for field in block]
        assert [isinstance(field, NeverIndexed) for field in one] == never
        assert [not field.indexable for field in other] == never


@given(st.lists(lists, max_size=5), st.booleans(), st.sampled_from([0, 64, 4096]))
def test_what_the_library_encodes_is_decoded(
    blocks: list[list[tuple[bytes, bytes]]], huffman: bool, size: int
) -> None:
    encoder, decoder = hpack.Encoder(), Decoder(LIMIT)
    encoder.header_table_size = size
    for block in blocks:
        data = encoder.encode([(*field, isinstance(field, NeverIndexed)) for field in block], huffman=huffman)
        assert decoder.decode(data).fields == block


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_fields_or_a_compression_error_as_for_the_library(blocks: list[bytes]) -> None:
    ours, theirs = Decoder(LIMIT), hpack.Decoder(LIMIT)
    for block in blocks:
        try:
            expected = list(theirs.decode(block, raw=True))
        except hpack.HPACKError:
            with pytest.raises(LegError) as error:
                ours.decode(block)
            assert error.value.code == COMPRESSION_ERROR
            return
        try:
            assert ours.decode(block).fields == expected
        except LegError:
            assert any(
                byte >= 0x80 for byte in block
            )  # a number beyond what anything needs: the library takes larger
            return


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "ff00",  # index 127, of an empty table
        "ffffffffff7f",  # a number beyond any table
        "ffffffffffff7f",  # a number without end
        "be",  # index 62, of an empty table
        "7f00",  # a literal's name from an empty table
        "41",  # no value
        "410561",  # a value that is cut off
        "4085ffffffffff00",  # not Huffman code
        "823f00",  # a table size behind a field
        "3fe21f",  # a table size over the limit of 4096
    ],
)
def test_a_block_that_cannot_be_decoded_ends_the_connection(block: str) -> None:
    with pytest.raises(LegError) as error:
        Decoder(LIMIT).decode(bytes.fromhex(block))
    assert error.value.code == COMPRESSION_ERROR


def test_a_list_over_the_limit_is_cut_off_and_the_table_kept() -> None:
    encoder, decoder = Encoder(), Decoder(100)
    many = [(b"x-%d" % number, b"v") for number in range(10)]
    block = decoder.decode(encoder.encode(many))
    assert not block.fits
    assert block.fields == many[:2]
    block = decoder.decode(encoder.encode([many[-1]]))
    assert block.fits
    assert block.fields == [many[-1]]


def test_decoded_strings_are_remembered_up_to_a_number() -> None:
    encoder, decoder = hpack.Encoder(), Decoder(LIMIT)
    encoder.header_table_size = 0
    for number in range(2000):
        field = (b"x-%d" % (number % 3), b"value %d" % number)
        assert decoder.decode(encoder.encode([field], huffman=True)).fields == [field]
    assert len(decoder._strings) <= 512


def test_a_smaller_table_is_announced_once() -> None:
    encoder = Encoder()
    field = (b"x-a", b"1")
    encoder.encode([field])
    encoder.limit(0)
    encoder.limit(4096)
    assert encoder.encode([field])[:4] == b"\x20\x3f\xe1\x1f"
    encoder.limit(4096)
    assert encoder.encode([field]) == b"\xbe"
    encoder.limit(0)
    assert encoder.encode([]) == b"\x20"


def test_a_large_field_does_not_drive_out_the_others() -> None:
    encoder = Encoder()
    small, large = (b"x-a", b"1"), (b"x-b", b"v" * 2100)
    encoder.encode([small, large])
    assert encoder.encode([small]) == b"\xbe"
    assert len(encoder.encode([large])) > 2100


def test_a_block_that_comes_again_is_the_same() -> None:
    decoder = Decoder(LIMIT)
    block = bytes.fromhex("828684")
    assert decoder.decode(block) is decoder.decode(block)


def test_a_block_means_something_else_once_the_table_has_changed() -> None:
    decoder = Decoder(LIMIT)
    decoder.decode(b"\x40\x01a\x011")
    first = decoder.decode(b"\xbe")
    decoder.decode(b"\x40\x01b\x012")
    assert (first.fields, decoder.decode(b"\xbe").fields) == ([(b"a", b"1")], [(b"b", b"2")])
    decoder.decode(b"\x20")
    with pytest.raises(LegError):
        decoder.decode(b"\xbe")


# Blocks that refer to the table, add to it, do neither or both, shrink it, or drive everything out of it.
BLOCKS = [
    *("8286", "be", "bfbe", "c0", "4001610131", "40016201324001630133", "7e0134", "0001610131", "823e"),
    *("400161" + "7f81" + "07" + "61" * 1024, "3f21400164" + "0135", "20", "3fe11f", "8240016101317e0136"),
]


@given(st.lists(st.sampled_from(BLOCKS), max_size=40))
def test_blocks_that_come_again_mean_what_they_mean_to_the_library(script: list[str]) -> None:
    ours, theirs = Decoder(LIMIT), hpack.Decoder(LIMIT)
    for block in map(bytes.fromhex, script):
        try:
            expected = list(theirs.decode(block, raw=True))
        except hpack.HPACKError:
            with pytest.raises(LegError):
                ours.decode(block)
            return
        assert ours.decode(block).fields == expected


def test_a_block_that_refers_to_nothing_is_the_same_whatever_the_table_is() -> None:
    decoder = Decoder(LIMIT)
    block = b"\x40\x01a\x011"
    first = decoder.decode(block)
    decoder.decode(b"\x40\x01b\x012")
    assert decoder.decode(block) is first
    assert decoder.decode(b"\xbe\xbf").fields == [(b"a", b"1"), (b"b", b"2")]


@given(lists, lists, st.lists(st.sampled_from([0, 1, 2, 64, 4096]), max_size=20))
def test_fields_that_are_sent_again_are_decoded_by_the_library(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]], script: list[int]
) -> None:
    encoders = [(Encoder(), hpack.Decoder(LIMIT)) for _ in range(2)]
    again = [Again(one), Again(other)]
    for turn, what in enumerate(script):
        encoder, theirs = encoders[turn % 7 == 6]
        if what > 2:
            encoder.limit(what)
            continue
        fields = other if what == 2 else again[what]
        assert list(theirs.decode(encoder.encode(fields), raw=True)) == fields


def test_fields_that_are_sent_again_are_encoded_once() -> None:
    encoder, fields = Encoder(), Again([(b"a", b"1")])
    assert encoder.encode(fields) != encoder.encode(fields) == b"\xbe"
    assert encoder.encode(fields) is encoder.encode(fields)
    encoder.limit(0)
    assert encoder.encode(fields) == b"\x20\x00\x01a\x011"


def test_blocks_are_remembered_up_to_a_number_and_a_length() -> None:
    decoder = Decoder(LIMIT)
    for number in range(100):
        decoder.decode(b"\x00\x01a\x02%02d" % number)
    assert len(decoder._alone) <= 32
    decoder.decode(bytes.fromhex("4001610131"))
    for number in range(100):
        decoder.decode(b"\xbe\x00\x01a\x02%02d" % number)
    assert len(decoder._blocks) <= 32
    long = b"\x00\x01a" + bytes([0x7F, 0xF9, 3]) + b"v" * 632
    assert decoder.decode(long) is not decoder.decode(long)


def test_a_field_that_changes_with_each_message_stays_out_of_the_table() -> None:
    encoder = Encoder()
    assert encoder.encode([(b":path", b"/a")]) == encoder.encode([(b":path", b"/a")]) == b"\x04\x02/a"
