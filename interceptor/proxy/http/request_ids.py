"""Ids for requests that have none: random UUIDs (version 4) in their text form."""

from __future__ import annotations

import os
from random import Random  # noqa: TID251 (ids have to differ, and not to be secret)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def request_ids(seed: bytes | None = None) -> Callable[[], bytes]:
    """A source of ids. A system call for each would cost more than the rest."""
    bits = Random(seed or os.urandom(32)).getrandbits  # noqa: S311 (as above)

    def request_id() -> bytes:
        text = b"%032x" % bits(128)
        return b"%b-%b-4%b-a%b-%b" % (text[:8], text[8:12], text[13:16], text[17:20], text[20:])

    return request_id
