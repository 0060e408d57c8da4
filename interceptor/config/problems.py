"""What goes into configuration (a source) and what comes out when it is wrong (a problem)."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """The text of one file, and the name an operator knows it by."""

    name: str
    text: str
    line: int = 0  # how many lines of the file stand before the text


class Problem(NamedTuple):
    """One thing that is wrong, and where: it prints as ``file:line: spec.egress.policy: ...``."""

    file: str
    line: int  # from 1; 0 where the file as a whole is at fault
    path: str  # the field, as in spec.ports[0].number; empty where the document as a whole is at fault
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"
