"""The kernel's rules as the backends' own programs list them: which lines are ours, and where they lead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Mark
from interceptor.model.connection import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

_OURS: Final = re.compile(r"interceptor:v1:[0-9a-f]*:(ingress|egress)\b")
_LEADS_TO: Final = re.compile(r"(?:--to-ports |--on-port |redirect to :|tproxy (?:ip6? )?to :)(\d+)")

_TAKEN: Final = re.compile(r"interceptor:v1:[0-9a-f]*:ingress-taken\b")
_MARK: Final = (  # value and mask, as iptables prints them; mask and value, as nft does
    re.compile(r"--mark (?P<value>0x[0-9a-f]+)/(?P<mask>0x[0-9a-f]+)"),
    re.compile(r"ct mark & (?P<mask>0x[0-9a-f]+) == (?P<value>0x[0-9a-f]+)"),
)


def ports(texts: Iterable[str]) -> dict[Direction, frozenset[int]]:
    """The proxy's ports that our own rules lead to, in what ``iptables-save`` or ``nft list ruleset`` print."""
    found: dict[Direction, set[int]] = {direction: set() for direction in Direction}
    for line in (line for text in texts for line in text.splitlines()):
        ours, port = _OURS.search(line), _LEADS_TO.search(line)
        if ours and port:
            found[Direction(ours[1])].add(int(port[1]))
    return {direction: frozenset(numbers) for direction, numbers in found.items()}


def taken(texts: Iterable[str]) -> Mark | None:
    """The mark of the connections that TPROXY brings to the proxy, in the same; None where there is no such rule."""
    for line in (line for text in texts for line in text.splitlines() if _TAKEN.search(line)):
        for form in _MARK:
            if found := form.search(line):
                return Mark(int(found["value"], 16), int(found["mask"], 16))
    return None
