"""Ids for requests that have none: UUIDs in the form of version 4, as Envoy makes them."""

from __future__ import annotations

import os
from random import Random  # noqa: TID251 (ids have to differ, and not to be secret)
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_SPREAD: Final = (
    0x9E3779B1  # odd, so that no number comes twice; 2^32 divided by the golden ratio: they lie evenly
)
_WHOLE: Final = 0xFFFFFFFF
_BLOCK: Final = 4096


def request_ids(seed: bytes | None = None) -> Callable[[], bytes]:
    """A source of ids: those of one block differ in the first eight digits, by which Envoy samples; blocks in the rest.

    A system call for each would cost more than the rest of the request's head, and random bits for each a microsecond.
    """
    bits = Random(seed or os.urandom(32)).getrandbits  # noqa: S311 (as above)
    number, rest = 0, b""

    def request_id() -> bytes:
        nonlocal number, rest
        if not number % _BLOCK:
            text = b"%024x" % bits(96)
            number = bits(32) & ~(_BLOCK - 1)
            rest = b"-%b-4%b-a%b-%b" % (text[:4], text[5:8], text[9:12], text[12:])
        number += 1
        return b"%08x%b" % (number * _SPREAD & _WHOLE, rest)

    return request_id
