"""PURE. What Envoy's four levels of a route do to headers, as one set of operations of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds.reading import mapping, mappings, texts, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.discovery.xds.messages import Body

# What a level may have; each level's fields are honoured together.
FIELDS: Final = frozenset(
    f"{side}_headers_to_{what}" for side in ("request", "response") for what in ("add", "remove")
)
_OPTION: Final = frozenset({"header", "append_action", "append", "keep_empty_value"})
_ACTIONS: Final = {"APPEND_IF_EXISTS_OR_ADD": "add", "OVERWRITE_IF_EXISTS_OR_ADD": "set"}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
# As a VirtualService has it: what frames a message or routes it is no header to change.
_FRAMING: Final = frozenset(("connection", "content-length", "host", "te", "transfer-encoding", "upgrade"))


@dataclass(slots=True)
class Operations:
    """What is done to the headers of a request, or of a response."""

    set: dict[str, str] = field(default_factory=dict)
    add: dict[str, str] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)

    def then(self, later: Operations) -> Operations:
        """This, and what a level does after it: what that removes or puts in place was in vain."""
        over = {*later.remove, *later.set}
        added = {name: value for name, value in self.add.items() if name not in over}
        for name, value in later.add.items():  # one line for both says the same (RFC 9110, 5.3)
            added[name] = f"{added[name]},{value}" if name in added else value
        return Operations(
            {**{name: value for name, value in self.set.items() if name not in later.remove}, **later.set},
            added,
            [*dict.fromkeys([*self.remove, *later.remove])],
        )

    def written(self) -> dict[str, object]:
        """As a document has it."""
        given: dict[str, object] = {"set": self.set, "add": self.add, "remove": self.remove}
        return {name: value for name, value in given.items() if value}


def read(body: Body, side: str, path: str, said: list[str]) -> Operations:
    """What one level does to the headers of a ``side``; what of it is not honoured is said."""
    made = Operations()
    for index, option in enumerate(mappings(body, f"{side}_headers_to_add")):
        here = f"{path}{side}_headers_to_add[{index}]."
        said += unknown(option, _OPTION, here)
        header = mapping(option, "header")
        said += unknown(header, frozenset({"key", "value"}), f"{here}header.")
        name, value = (
            _name(str(header.get("key", "")), f"{here}header.key", said),
            str(header.get("value", "")),
        )
        if re.search(r"[\r\n\0]", value):
            said.append(f"{here}header.value: has a line break or a NUL in it")
        if "%" in value.replace("%%", ""):
            said.append(f"{here}header.value: formats such as %REQ()% are not honoured by this version")
        if not value:
            said.append(f"{here}header.value: is empty, which is not honoured by this version")
        action = str(option.get("append_action", "APPEND_IF_EXISTS_OR_ADD"))
        if option.get("append") is False:
            action = "OVERWRITE_IF_EXISTS_OR_ADD"
        if action not in _ACTIONS:
            said.append(f"{here}append_action: {action} is not honoured by this version")
        table = made.set if _ACTIONS.get(action) == "set" else made.add
        if name in {**made.set, **made.add}:
            said.append(f"{here}header.key: '{name}' is given twice, which is not honoured by this version")
        table[name] = value.replace("%%", "%")
    for index, name in enumerate(texts(body, f"{side}_headers_to_remove")):
        made.remove.append(_name(name, f"{path}{side}_headers_to_remove[{index}]", said))
    return made


def _name(given: str, path: str, said: list[str]) -> str:
    name = given.lower()
    if not _NAME.fullmatch(name):
        said.append(f"{path}: '{given}' is not a header's name")
    elif name in _FRAMING:
        said.append(f"{path}: '{name}' frames or routes the message and cannot be changed as a header")
    return name


def together(levels: Iterable[Operations]) -> Operations:
    """What levels do one after the other."""
    made = Operations()
    for each in levels:
        made = made.then(each)
    return made
