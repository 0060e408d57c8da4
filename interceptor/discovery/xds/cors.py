"""PURE. Envoy's CORS policies, as a VirtualService has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds import matches
from interceptor.discovery.xds.reading import mapping, mappings, unknown

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Body

FILTER: Final = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"
POLICY: Final = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"
_FIELDS: Final = frozenset(
    {
        *("@type", "allow_origin_string_match", "allow_methods", "allow_headers", "expose_headers"),
        *("max_age", "allow_credentials", "filter_enabled", "forward_not_matching_preflights"),
    }
)
_LISTS: Final = {
    "allowMethods": "allow_methods",
    "allowHeaders": "allow_headers",
    "exposeHeaders": "expose_headers",
}


def read(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """A policy of a route or of a virtual host."""
    said += unknown(body, _FIELDS, path)
    origins = [
        matches.text(each, f"{path}allow_origin_string_match[{index}].", said)
        for index, each in enumerate(mappings(body, "allow_origin_string_match"))
    ]
    if not origins:
        said.append(f"{path}allow_origin_string_match: is required")
    enabled = mapping(mapping(body, "filter_enabled"), "default_value")
    if "filter_enabled" in body and (
        enabled.get("numerator") != 100 or enabled.get("denominator", "HUNDRED") != "HUNDRED"
    ):
        said.append(f"{path}filter_enabled: only 100 of HUNDRED is honoured")
    made: dict[str, object] = {"allowOrigins": origins}
    for ours, theirs in _LISTS.items():
        if given := [each.strip() for each in str(body.get(theirs, "")).split(",") if each.strip()]:
            made[ours] = given
            said += [f"{path}{theirs}: '{each}' is no name" for each in given if not matches.is_token(each)]
    if age := str(body.get("max_age", "")):
        if age.isdecimal() and int(age) > 0:
            made["maxAge"] = f"{age}s"
        else:
            said.append(f"{path}max_age: '{age}' is not honoured; send whole seconds, more than 0")
    if body.get("allow_credentials") is True:
        made["allowCredentials"] = True
    forwards = body.get("forward_not_matching_preflights", True) is True
    made["unmatchedPreflights"] = "FORWARD" if forwards else "IGNORE"
    return made
