"""PURE. What a route or a virtual host has for the filters of its listener, as a VirtualService's route has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds import cors, fault
from interceptor.discovery.xds.reading import mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from interceptor.discovery.xds.messages import Body

# By the type of the configuration: the field of a route, and how it is read.
_KNOWN: Final[dict[str, tuple[str, Callable[[Body, str, list[str]], dict[str, object] | None]]]] = {
    cors.POLICY: ("corsPolicy", cors.read),
    fault.FILTER: ("fault", fault.read),
}
_FILTERS: Final = {cors.FILTER: "corsPolicy", fault.FILTER: "fault"}
FIELDS: Final = frozenset(_FILTERS.values())  # of a route


def read(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """The fields of a route that it comes to; all else there is said."""
    made: dict[str, object] = {}
    for name, given in sorted(mapping(body, "typed_per_filter_config").items()):
        here = f"{path}typed_per_filter_config[{name}]"
        config = mapping({"given": given}, "given")
        known = _KNOWN.get(str(config.get("@type")))
        if known is None:
            said.append(
                f"{here}: '{config.get('@type')}' is not honoured; known are CorsPolicy and HTTPFault"
            )
            continue
        field, reads = known
        found = reads(config, f"{here}.", said)
        if found is not None:
            made[field] = found
    return made


def honoured(kinds: Iterable[object]) -> frozenset[str]:
    """The fields of routes that mean something beside the filters of a listener."""
    return frozenset(_FILTERS[str(kind)] for kind in kinds if str(kind) in _FILTERS)
