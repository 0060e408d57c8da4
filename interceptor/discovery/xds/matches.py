"""PURE. Envoy's conditions on a request, as those of a VirtualService; what has no counterpart there is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds.reading import mapping, mappings, unknown

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Body

_PATHS: Final = ("prefix", "path", "safe_regex", "path_separated_prefix")
_MATCH: Final = frozenset({*_PATHS, "case_sensitive", "headers", "query_parameters", "grpc"})
_TEXT: Final = frozenset({"exact", "prefix", "suffix", "contains", "safe_regex", "ignore_case"})
_OLD: Final = {  # Envoy's older way of writing a header's string_match
    "exact_match": "exact",
    "prefix_match": "prefix",
    "suffix_match": "suffix",
    "contains_match": "contains",
    "safe_regex_match": "safe_regex",
}
_HEADER: Final = frozenset(
    {"name", "string_match", "present_match", "invert_match", "treat_missing_header_as_empty", *_OLD}
)
_PSEUDO: Final = {":method": "method", ":authority": "authority", ":scheme": "scheme"}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)

Conditions = dict[str, object]


def read(match: Body, path: str, said: list[str]) -> list[Conditions]:
    """The matches of which one has to hold."""
    said += unknown(match, _MATCH, path)
    common: Conditions = {}
    _headers(match, path, common, said)
    _parameters(match, path, common, said)
    if match.get("case_sensitive") is False:
        common["ignoreUriCase"] = True
    given = [name for name in _PATHS if name in match]
    if len(given) != 1:
        said.append(f"{path}: needs one of {', '.join(_PATHS)}")
        return []
    [kind] = given
    if kind == "safe_regex":
        return [{"uri": {"regex": regex(mapping(match, kind), f"{path}safe_regex.", said)}, **common}]
    value = str(match[kind])
    if not value.startswith("/"):
        said.append(f"{path}{kind}: '{value}' does not begin with '/'")
    if kind == "path_separated_prefix":
        return [{"uri": {"exact": value}, **common}, {"uri": {"prefix": f"{value}/"}, **common}]
    return [{"uri": {"exact" if kind == "path" else "prefix": value}, **common}]


def regex(body: Body, path: str, said: list[str]) -> str:
    """An expression of RE2."""
    import re2  # noqa: PLC0415 (only who is sent an expression pays for the library)

    said += unknown(body, frozenset({"regex", "google_re2"}), path)
    value = str(body.get("regex", ""))
    try:
        re2.compile(value)
    except re2.error as error:
        said.append(f"{path}regex: '{value}' is not an expression of RE2: {error}")
    return value


def text(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """A StringMatcher as a StringMatch."""
    said += unknown(body, _TEXT, path)
    given = [name for name in ("exact", "prefix", "suffix", "contains", "safe_regex") if name in body]
    if len(given) != 1:
        said.append(f"{path.removesuffix('.')}: needs one of exact, prefix, suffix, contains and safe_regex")
        return {}
    [kind] = given
    if kind == "safe_regex":
        return {"regex": regex(mapping(body, kind), f"{path}safe_regex.", said)}
    value = str(body[kind])
    if body.get("ignore_case") is not True and kind in {"exact", "prefix"}:
        return {kind: value}
    before, after = {"exact": ("", ""), "prefix": ("", ".*"), "suffix": (".*", ""), "contains": (".*", ".*")}[
        kind
    ]
    flag = "(?i)" if body.get("ignore_case") is True else ""
    return {"regex": f"{flag}{before}{_quoted(value)}{after}"}


def is_token(value: str) -> bool:
    """Whether a text can be a method, or the name of a header."""
    return _TOKEN.fullmatch(value.lower()) is not None


def _quoted(value: str) -> str:
    """A text as an expression that it alone matches."""
    return re.sub(r"([^0-9A-Za-z_ -])", r"\\\1", value)


def _headers(match: Body, path: str, common: Conditions, said: list[str]) -> None:
    wanted: dict[str, object] = {}
    without: dict[str, object] = {}
    for index, header in enumerate(mappings(match, "headers")):
        here = f"{path}headers[{index}]."
        said += unknown(header, _HEADER, here)
        name = str(header.get("name", "")).lower()
        inverted = header.get("invert_match") is True
        found = _value(header, here, said)
        if found is None:  # only whether it is there
            inverted, found = inverted == (header.get("present_match", True) is True), {}
        if name in _PSEUDO and not inverted and found and _PSEUDO[name] not in common:
            common[_PSEUDO[name]] = found
        elif not _TOKEN.fullmatch(name):
            said.append(f"{here}name: '{name}' cannot be matched so by this version")
        elif name in (without if inverted else wanted):
            said.append(f"{here}name: '{name}' is given twice, which is not honoured by this version")
        else:
            (without if inverted else wanted)[name] = found
            if inverted and found and header.get("treat_missing_header_as_empty") is not True:
                wanted.setdefault(name, {})  # Envoy: what is not there matches nothing, inverted or not
    if "grpc" in match:
        wanted.setdefault("content-type", {"prefix": "application/grpc"})
    if wanted:
        common["headers"] = wanted
    if without:
        common["withoutHeaders"] = without


def _value(header: Body, path: str, said: list[str]) -> dict[str, object] | None:
    old = next((name for name in _OLD if name in header), None)
    if old is not None:
        return text({_OLD[old]: header[old]}, path, said)
    return (
        text(mapping(header, "string_match"), f"{path}string_match.", said)
        if "string_match" in header
        else None
    )


def _parameters(match: Body, path: str, common: Conditions, said: list[str]) -> None:
    wanted: dict[str, object] = {}
    for index, each in enumerate(mappings(match, "query_parameters")):
        here = f"{path}query_parameters[{index}]."
        said += unknown(each, frozenset({"name", "string_match", "present_match"}), here)
        if each.get("present_match") is False:
            said.append(f"{here}present_match: only true is honoured by this version")
        name = str(each.get("name", ""))
        if not name or name in wanted:
            said.append(f"{here}name: '{name}' is {'given twice' if name else 'empty'}")
        value = mapping(each, "string_match")
        wanted[name] = text(value, f"{here}string_match.", said) if value else {}
    if wanted:
        common["queryParams"] = wanted
