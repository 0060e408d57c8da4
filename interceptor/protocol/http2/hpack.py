"""Header compression (RFC 7541): blocks in, fields out, and back.

Our own, for three things that the hpack library does not do: it tells which fields the sender wanted in no table (an
intermediary must keep to that, section 7.1.3), its cost grows linearly with the block, and it takes a quarter of the
time (a block of 8 literals: 65 us there). A block that comes again, as most do, costs one look-up. The library's Huffman code and static table are used. Nothing is Huffman
coded on the way out: it is optional, and dearer here than the bytes it saves.

A field is a plain tuple where its sender let it into the table, else one of the two subclasses.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from interceptor.protocol.http2.codes import COMPRESSION_ERROR, LegError

if TYPE_CHECKING:
    from collections.abc import Iterable

Field: TypeAlias = tuple[bytes, bytes]


class Unindexed(tuple[bytes, bytes]):
    """A field that is not worth a place in a table: its value will not come again."""

    __slots__ = ()


class NeverIndexed(Unindexed):
    """A field that must never enter a table on any hop: a secret (section 7.1.3)."""

    __slots__ = ()


STATIC: Final[tuple[Field, ...]] = HeaderTable.STATIC_TABLE
DEFAULT_TABLE: Final = 4096
OVERHEAD: Final = 32  # what a field counts beside its bytes, section 4.1
# What is another value with each message: nghttp2's list, and what proxies and gRPC add.
_CHANGING: Final = frozenset(
    (
        *(
            b":path",
            b"content-length",
            b"age",
            b"etag",
            b"if-modified-since",
            b"if-none-match",
            b"location",
            b"set-cookie",
        ),
        *(b"x-request-id", b"traceparent", b"grpc-timeout"),
    )
)
_DYNAMIC: Final = len(STATIC) + 1  # index of the youngest entry of the dynamic table
_SHORT: Final = 64  # a Huffman coded string up to this length is remembered once decoded
_REMEMBERED: Final = 512  # strings
_SHORT_BLOCK: Final = 512  # the same for blocks
_REMEMBERED_BLOCKS: Final = 32


class Block:
    """A decoded header block. One that comes again is the same object: what was made of it can be kept with it."""

    __slots__ = ("entries", "fields", "fits", "meaning", "size")

    def __init__(self, fields: list[Field], *, fits: bool) -> None:
        self.fields = fields  # not to be altered
        self.fits = fits  # the list kept to its limit; one that did not is cut off there
        self.meaning: object = None
        self.entries: tuple[Field, ...] = ()  # that it adds to the table
        self.size = 0  # of these


class Again(list[Field]):
    """Fields that are sent again and again, and the block that they were last on the one connection that sends them."""

    __slots__ = ("block", "changes", "encoder")

    def __init__(self, fields: list[Field]) -> None:
        super().__init__(fields)
        self.block = b""
        self.encoder: Encoder | None = None
        self.changes = 0  # of the encoder's table, then


class Decoder:
    """One direction of one connection: what its peer's encoder sends."""

    __slots__ = (
        *("_alone", "_blocks", "_entries", "_limit", "_list_limit", "_size", "_strings", "_table_limit"),
        *("_added", "_resized", "_used"),
    )

    def __init__(self, list_limit: int) -> None:
        self._list_limit = list_limit
        self._entries: deque[Field] = deque()  # youngest first
        self._size = 0
        self._limit = self._table_limit = DEFAULT_TABLE  # in force, and the most that we allow
        self._strings: dict[bytes, bytes] = {}
        self._blocks: dict[bytes, Block] = {}  # since the table last changed
        self._alone: dict[bytes, Block] = {}  # those that mean the same whatever is in the table
        self._added: list[Field] = []  # to the table, by the block that is being decoded
        self._used = self._resized = False  # the table, by this block

    def decode(self, block: bytes) -> Block:
        """What a block says. The table is kept up beyond the limit of a list, so the connection lives. Raises LegError."""
        decoded = self._blocks.get(block)
        if decoded is not None:
            return decoded
        decoded = self._alone.get(block)
        if decoded is not None:  # nginx's blocks are all of this kind
            if decoded.entries:
                self._blocks.clear()
                self._entries.extendleft(decoded.entries)
                self._size += decoded.size
                self._evict()
            return decoded
        self._added.clear()
        self._used = self._resized = False
        try:
            decoded = self._decode(block)
        except (IndexError, HPACKDecodingError) as error:
            raise LegError(COMPRESSION_ERROR, "a header block cannot be decoded") from error
        if self._added or self._resized:  # the same bytes mean something else from here on
            self._blocks.clear()
        if len(block) > _SHORT_BLOCK or self._resized:
            return decoded
        if not self._used:
            decoded.entries = tuple(self._added)
            decoded.size = sum(OVERHEAD + len(name) + len(value) for name, value in self._added)
            _remember(self._alone, block, decoded)
        elif not self._added:
            _remember(self._blocks, block, decoded)
        return decoded

    def _decode(self, block: bytes) -> Block:
        fields: list[Field] = []
        entries = self._entries
        at, size, end = 0, 0, len(block)
        while at < end:
            first = block[at]
            if first >= 0x80:
                at += 1
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, 0x7F)
                if 0 < index < _DYNAMIC:
                    field = STATIC[index - 1]
                else:
                    self._used = True
                    field = entries[_checked(index) - _DYNAMIC]
            elif 0x20 <= first < 0x40:
                at = self._resize(block, at, bool(fields))
                continue
            else:
                field, at = self._literal(block, at)
            size += OVERHEAD + len(field[0]) + len(field[1])
            if size <= self._list_limit:
                fields.append(field)
        return Block(fields, fits=size <= self._list_limit)

    def _literal(self, block: bytes, at: int) -> tuple[Field, int]:
        first = block[at]
        mask = 0x3F if first >= 0x40 else 0x0F
        index = first & mask
        at += 1
        if index == mask:
            index, at = _integer(block, at, mask)
        if not index:
            name, at = self._string(block, at)
        elif index < _DYNAMIC:
            name = STATIC[index - 1][0]
        else:
            self._used = True
            name = self._entries[index - _DYNAMIC][0]
        value, at = self._string(block, at)
        if first < 0x10:
            return Unindexed((name, value)), at
        if first < 0x20:
            return NeverIndexed((name, value)), at
        field = (name, value)
        self._added.append(field)
        self._entries.appendleft(field)
        self._size += OVERHEAD + len(name) + len(value)
        self._evict()
        return field, at

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        first = block[at]
        length = first & 0x7F
        at += 1
        if length == 0x7F:
            length, at = _integer(block, at, 0x7F)
        end = at + length
        raw = block[at:end]
        if len(raw) != length:
            raise IndexError
        if first < 0x80:
            return raw, end
        if length > _SHORT:
            return decode_huffman(raw), end
        text = self._strings.get(raw)
        if text is None:
            text = decode_huffman(raw)
            if len(self._strings) >= _REMEMBERED:
                self._strings.clear()
            self._strings[raw] = text
        return text, end

    def _resize(self, block: bytes, at: int, late: bool) -> int:  # noqa: FBT001 (a fact of the block)
        size = block[at] & 0x1F
        at += 1
        if size == 0x1F:
            size, at = _integer(block, at, 0x1F)
        if late or size > self._table_limit:
            raise IndexError
        self._limit = size
        self._resized = True
        self._evict()
        return at

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._entries.pop()
            self._size -= OVERHEAD + len(name) + len(value)


class Encoder:
    """One direction of one connection: what we send its peer."""

    __slots__ = ("_added", "_changes", "_dynamic", "_entries", "_limit", "_size", "_smallest")

    def __init__(self) -> None:
        self._entries: deque[Field] = deque()  # oldest first
        self._dynamic: dict[Field, int] = {}  # of each entry: how many had been added before it
        self._added = 0
        self._changes = 0  # of the table, and of what there is to announce
        self._size = 0
        self._limit = DEFAULT_TABLE
        self._smallest: int | None = (
            None  # a limit to announce with the next block: the lowest since the last one
        )

    def limit(self, size: int) -> None:
        """The peer allows a table of this size; we never use more than the default."""
        size = min(size, DEFAULT_TABLE)
        if size != self._limit:
            self._smallest = size if self._smallest is None else min(size, self._smallest)
            self._limit = size
            self._changes += 1
            self._evict(0)

    def encode(self, fields: Iterable[Field]) -> bytes:
        """The block of these fields, in order."""
        if type(fields) is not Again:
            return self._encode(fields)
        if fields.changes == self._changes and fields.encoder is self:
            return fields.block
        before = self._changes
        block = self._encode(fields)
        if self._changes == before:
            fields.block, fields.encoder, fields.changes = block, self, before
        return block

    def _encode(self, fields: Iterable[Field]) -> bytes:
        out = [] if self._smallest is None else self._announce()
        dynamic = self._dynamic
        for field in fields:
            if (code := _STATIC_CODES.get(field)) is not None and type(field) is not NeverIndexed:
                out.append(code)
            elif type(field) is not tuple:
                out.append(plain(field))
            elif (before := dynamic.get(field)) is not None:
                out.append(_number(0x80, 0x7F, _DYNAMIC + self._added - before - 1))
            else:
                out.append(self._indexed(field))
        return b"".join(out)

    def _indexed(self, field: Field) -> bytes:
        """A literal that enters the table, where it has room for it."""
        name, value = field
        size = OVERHEAD + len(name) + len(value)
        if name in _CHANGING or size > self._limit // 2:  # it would drive out others, and not come again
            return plain(Unindexed(field))
        self._evict(size)
        self._entries.append(field)
        self._dynamic[field] = self._added
        self._added += 1
        self._changes += 1
        self._size += size
        if (index := _STATIC_NAMES.get(name)) is not None:
            return _number(0x40, 0x3F, index) + _text(value)
        return b"\x40" + _text(name) + _text(value)

    def _evict(self, room: int) -> None:
        while self._size + room > self._limit:
            field = self._entries.popleft()
            del self._dynamic[field]
            self._size -= OVERHEAD + len(field[0]) + len(field[1])

    def _announce(self) -> list[bytes]:
        """Section 4.2: the lowest limit in between, then the one in force."""
        smallest, self._smallest = self._smallest, None
        self._changes += 1
        assert smallest is not None
        sizes = (self._limit,) if smallest == self._limit else (smallest, self._limit)
        return [_number(0x20, 0x1F, size) for size in sizes]


def plain(field: Field) -> bytes:
    """A literal that enters no table. Never-indexed is a promise, the name's place in the static table is not."""
    name, value = field
    kind = 0x10 if type(field) is NeverIndexed else 0x00
    if (index := _STATIC_NAMES.get(name)) is not None:
        return _number(kind, 0x0F, index) + _text(value)
    return _BYTES[kind] + _text(name) + _text(value)


def _remember(blocks: dict[bytes, Block], block: bytes, decoded: Block) -> None:
    if len(blocks) >= _REMEMBERED_BLOCKS:
        blocks.clear()
    blocks[block] = decoded


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """The rest of a number that filled its prefix (section 5.1); four more bytes are more than anything here needs."""
    number, shift = mask, 0
    while True:
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 28:
            raise IndexError


def _checked(index: int) -> int:
    """An index into the dynamic table: index 0 would be taken as a negative one."""
    if index < _DYNAMIC:
        raise IndexError
    return index


def _number(kind: int, mask: int, number: int) -> bytes:
    if number < mask:
        return _BYTES[kind | number]
    out = bytearray((kind | mask,))
    number -= mask
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(text: bytes) -> bytes:
    size = len(text)
    return _BYTES[size] + text if size < 0x7F else _number(0, 0x7F, size) + text


_BYTES: Final = tuple(bytes((number,)) for number in range(256))
_STATIC_CODES: Final = {field: _BYTES[0x80 | index] for index, field in enumerate(STATIC, 1)}
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(tuple(enumerate(STATIC, 1)))}
