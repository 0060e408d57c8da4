"""A YAML file of redirect flags: one mapping of flag names to values, each found again by its line.

The texts are taken from YAML's syntax tree, never constructed: YAML 1.1 would turn ``off`` into False and ``22:30`` into 1350.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import yaml

from interceptor.config.redirect import FLAG_NAMES, Given, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAG: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


def from_yaml(text: str, name: str) -> Source:
    """The flags of a file; ``name`` is how its problems call it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        return Source(
            {}, (f"{name}{line}: is not one YAML document: {getattr(error, 'problem', None) or error}",)
        )
    if root is None:
        return Source({})
    if not isinstance(root, yaml.MappingNode):
        return Source(
            {}, (f"{name}: is not a mapping; write lines like 'exclude-egress-ports: [22, 8000-8100]'",)
        )
    given: dict[str, Given] = {}
    problems: list[str] = []
    for key, value in root.value:
        # A word that cannot be a flag is not repeated: it may be a secret, of a file that was not meant.
        known = isinstance(key, yaml.ScalarNode) and _FLAG.fullmatch(key.value)
        where = f"{name}:{key.start_mark.line + 1}: {key.value}" if known else ""
        texts = list(_texts(value))
        if not where or key.value not in FLAG_NAMES:
            problems.append(
                f"{where or f'{name}:{key.start_mark.line + 1}'}: there is no such flag; 'sidecar-setup plan --help' lists them"
            )
        elif key.value in given:
            problems.append(f"{where}: is given twice in this file; keep one")
        elif None in texts:
            problems.append(f"{where}: must be a value or a list of values")
        else:
            given[key.value] = Given(",".join(text for text in texts if text is not None), where)
    return Source(given, tuple(problems))


def _texts(node: yaml.Node) -> Iterator[str | None]:
    """The text of a scalar, or of each scalar of a list; None for anything else."""
    for part in node.value if isinstance(node, yaml.SequenceNode) else (node,):
        yield part.value if isinstance(part, yaml.ScalarNode) else None
