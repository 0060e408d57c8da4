"""PURE. Envoy's route configurations: judged, and at once written as routes of a VirtualService.

Where a route goes is left as the name of a cluster; only all resources together say what that is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from interceptor.config.addresses import host_name
from interceptor.discovery.xds import headers, matches, per_filter, route_parts
from interceptor.discovery.xds.reading import alias_of, mapping, mappings, number, seconds, texts, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.discovery.xds.headers import Operations
    from interceptor.discovery.xds.messages import Body

Place: TypeAlias = dict[str, object] | str  # a destination, or why there is none

_CONFIG: Final = headers.FIELDS | {
    *("name", "virtual_hosts", "validate_clusters", "ignore_port_in_host_matching"),
    *("most_specific_header_mutations_wins", "max_direct_response_body_size_bytes"),
}
_HOST: Final = headers.FIELDS | {
    *("name", "domains", "routes", "retry_policy", "metadata", "include_request_attempt_count"),
    "typed_per_filter_config",
}
_ROUTE: Final = headers.FIELDS | {
    *("name", "match", "route", "redirect", "direct_response", "metadata", "decorator", "stat_prefix"),
    "typed_per_filter_config",
}
_ACTION: Final = frozenset(
    {
        *("cluster", "weighted_clusters", "prefix_rewrite", "regex_rewrite", "host_rewrite_literal"),
        *("timeout", "retry_policy", "hash_policy", "max_grpc_timeout", "max_stream_duration"),
        *("cluster_not_found_response_code", "priority", "request_mirror_policies"),
    }
)
_WEIGHT: Final = headers.FIELDS | {"name", "weight"}
_TIMEOUT: Final = 15.0  # seconds: Envoy's, where a route says nothing
_HEAVIEST: Final = 1_000_000  # of a VirtualService


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """Domains and what is done with requests for them."""

    name: str
    domains: tuple[str, ...]  # as they are written
    routes: tuple[dict[str, object], ...]  # of a VirtualService; a destination is {"cluster": name}
    plain: str | None  # the cluster that gets every request as it is, where that is all that it says


@dataclass(slots=True)
class Configuration:
    """A route configuration, and what of it is not honoured."""

    hosts: list[VirtualHost] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    # What the requests to each are hashed on.
    clusters: dict[str, dict[str, object] | None] = field(default_factory=dict)
    mirrors: set[str] = field(default_factory=set)  # clusters that get copies

    def needs(self) -> list[str]:
        """Every cluster that is named."""
        return [*self.clusters, *sorted(self.mirrors - self.clusters.keys())]


def read(body: Body, path: str = "") -> Configuration:
    """A route configuration, judged and written."""
    return _Reader(body, path).made


class _Reader:
    """Reads one route configuration."""

    def __init__(self, body: Body, path: str) -> None:
        self.made = Configuration()
        self._said = self.made.said
        self._said += unknown(body, _CONFIG, path)
        if body.get("validate_clusters") is True:
            self._said.append(f"{path}validate_clusters: only false is honoured")
        self._specific_last = body.get("most_specific_header_mutations_wins") is True
        level = self._level(body, path)
        taken: set[str] = set()
        for index, host in enumerate(mappings(body, "virtual_hosts")):
            self._host(host, f"{path}virtual_hosts[{index}].", level, taken)

    def _level(self, body: Body, path: str) -> tuple[Operations, Operations]:
        return headers.read(body, "request", path, self._said), headers.read(
            body, "response", path, self._said
        )

    def _merged(self, *levels: tuple[Operations, Operations]) -> dict[str, object]:
        """What levels, the most specific first, do to headers."""
        ordered = levels[::-1] if self._specific_last else levels
        sides = {
            "request": headers.together(each[0] for each in ordered).written(),
            "response": headers.together(each[1] for each in ordered).written(),
        }
        return {name: given for name, given in sides.items() if given}

    def _host(self, body: Body, path: str, outer: tuple[Operations, Operations], taken: set[str]) -> None:
        self._said += unknown(body, _HOST, path)
        domains = texts(body, "domains")
        for index, domain in enumerate(domains):
            here = f"{path}domains[{index}]"
            if domain.lower() in taken:
                self._said.append(f"{here}: '{domain}' is given twice in this route configuration")
            taken.add(domain.lower())
            if domain != "*" and (fault := _domain_fault(domain)):
                self._said.append(f"{here}: {fault}")
        if not domains:
            self._said.append(f"{path}domains: there are none")
        levels = (self._level(body, path), outer)
        made: list[dict[str, object]] = []
        of_host = per_filter.read(body, path, self._said)
        for index, route in enumerate(mappings(body, "routes")):
            here = f"{path}routes[{index}]."
            found = self._route(route, here, mapping(body, "retry_policy"), levels)
            own = per_filter.read(route, here, self._said)
            if found is not None:
                made.append({**found, **of_host, **own})
        self.made.hosts.append(
            VirtualHost(str(body.get("name", "")), tuple(domains), tuple(made), _plain(made))
        )

    def _route(
        self, body: Body, path: str, retries: Body, outer: tuple[tuple[Operations, Operations], ...]
    ) -> dict[str, object] | None:
        self._said += unknown(body, _ROUTE, path)
        made: dict[str, object] = {"match": matches.read(mapping(body, "match"), f"{path}match.", self._said)}
        if body.get("name"):
            made["name"] = str(body["name"])
        levels = (self._level(body, path), *outer)
        actions = [name for name in ("route", "redirect", "direct_response") if name in body]
        if len(actions) != 1:
            self._said.append(f"{path.removesuffix('.')}: needs one of route, redirect and direct_response")
            return None
        if actions == ["route"]:
            self._action(mapping(body, "route"), f"{path}route.", made, retries, levels)
            if "path_separated_prefix" in mapping(body, "match") and "rewrite" in made:
                self._said.append(
                    f"{path}route: a rewrite is not honoured together with path_separated_prefix"
                )
            return made
        if actions == ["redirect"]:
            made["redirect"] = route_parts.redirect(mapping(body, "redirect"), f"{path}redirect.", self._said)
        else:
            made["directResponse"] = route_parts.response(
                mapping(body, "direct_response"), f"{path}direct_response.", self._said
            )
        merged = self._merged(*levels)
        if "response" in merged and actions == ["redirect"]:
            self._said.append(f"{path}response_headers_to_add: is not honoured where a route redirects")
        if "response" in merged:
            made["headers"] = {"response": merged["response"]}
        return made

    def _action(
        self,
        body: Body,
        path: str,
        made: dict[str, object],
        retries: Body,
        levels: tuple[tuple[Operations, Operations], ...],
    ) -> None:
        self._said += unknown(body, _ACTION, path)
        made["route"] = self._destinations(body, path, levels)
        rewrite: dict[str, object] = {}
        if body.get("prefix_rewrite"):
            rewrite["uri"] = str(body["prefix_rewrite"])
        if "regex_rewrite" in body:
            given = mapping(body, "regex_rewrite")
            self._said += unknown(given, frozenset({"pattern", "substitution"}), f"{path}regex_rewrite.")
            pattern = matches.regex(mapping(given, "pattern"), f"{path}regex_rewrite.pattern.", self._said)
            rewrite["uriRegexRewrite"] = {"match": pattern, "rewrite": str(given.get("substitution", ""))}
        if body.get("host_rewrite_literal"):
            rewrite["authority"] = str(body["host_rewrite_literal"])
        if len(rewrite.keys() & {"uri", "uriRegexRewrite"}) > 1:
            self._said.append(f"{path}regex_rewrite: cannot be given together with prefix_rewrite")
        if rewrite:
            made["rewrite"] = rewrite
        if copies := route_parts.mirrors(body, path, self._said):
            made["mirrors"] = copies
            for each in copies:
                self.made.mirrors.add(each["destination"]["cluster"])  # type: ignore[index]  # made just so
        timeout = _TIMEOUT if (given_timeout := seconds(body, "timeout")) is None else given_timeout
        if timeout > 0:
            made["timeout"] = f"{timeout:f}s"
        own = mapping(body, "retry_policy")
        made["retries"] = route_parts.retries(own or retries, f"{path}retry_policy.", self._said)
        route_parts.limits(body, path, self._said)

    def _destinations(
        self, body: Body, path: str, levels: tuple[tuple[Operations, Operations], ...]
    ) -> list[dict[str, object]]:
        weighted = mapping(body, "weighted_clusters")
        self._said += unknown(weighted, frozenset({"clusters", "total_weight"}), f"{path}weighted_clusters.")
        given = mappings(weighted, "clusters") if "weighted_clusters" in body else []
        hash_on = route_parts.hash_on(body, path, self._said)
        found: list[dict[str, object]] = []
        for index, each in enumerate(given or [{"name": body.get("cluster", "")}]):
            here = f"{path}weighted_clusters.clusters[{index}]." if given else f"{path}cluster"
            self._said += unknown(each, _WEIGHT, here)
            name, weight = str(each.get("name") or ""), number(each, "weight", 0)
            if not name:
                self._said.append(f"{here}: needs the name of a cluster")
            if weight > _HEAVIEST:
                self._said.append(f"{here}weight: {weight} is more than {_HEAVIEST}")
            if name and self.made.clusters.setdefault(name, hash_on) != hash_on:
                self._said.append(f"{path}hash_policy: is not that of another route to the cluster '{name}'")
            merged = self._merged(self._level(each, here), *levels)
            made: dict[str, object] = {"destination": {"cluster": name}}
            if given:
                made["weight"] = weight
            if merged:
                made["headers"] = merged
            if weight or not given:
                found.append(made)
        if not found:
            self._said.append(f"{path}weighted_clusters: no cluster has a weight")
        return found


def _domain_fault(domain: str) -> str | None:
    """What is wrong with a domain; its port is looked at where a listener has one."""
    host, _ = split(domain)
    if host.endswith(".*"):
        return "domains that end in a wildcard are not honoured by this version"
    try:
        host_name(host)
    except ValueError as error:
        return str(error)
    return None


def split(domain: str) -> tuple[str, int | None]:
    """The host and the port of a domain."""
    if domain.startswith("["):
        host, _, port = domain[1:].partition("]")
        port = port.removeprefix(":")
    elif domain.count(":") > 1:  # a bare IPv6 address
        return domain.lower(), None
    else:
        host, _, port = domain.partition(":")
    return host.lower(), int(port) if port.isdecimal() else None


def _plain(made: Sequence[dict[str, object]]) -> str | None:
    """The cluster of a virtual host that only passes everything on."""
    if len(made) != 1 or made[0].keys() - {"name"} != {"match", "route", "retries"}:
        return None
    route = made[0]["route"]
    assert isinstance(route, list)
    passes = made[0]["match"] == [{"uri": {"prefix": "/"}}] and made[0]["retries"] == {"attempts": 0}
    return (
        str(route[0]["destination"]["cluster"])
        if passes and len(route) == 1 and "headers" not in route[0]
        else None
    )


def placed(
    route: Mapping[str, object], port: int, places: Mapping[str, Place]
) -> tuple[dict[str, object], list[str]]:
    """A route that holds for a port, with destinations in place of clusters; and what cannot go where it says."""
    matching = route["match"]
    assert isinstance(matching, list)
    made = {**route, "match": [{**each, "port": port} for each in matching]}
    problems: list[str] = []
    for name in ("route", "mirrors"):
        given, there = made.pop(name, ()), []
        assert isinstance(given, (list, tuple))
        for each in given:
            cluster = each["destination"]["cluster"]
            # A cluster that is not there: 503, as Envoy answers, and no copies.
            place = places.get(cluster) or {"host": alias_of(cluster)}
            if not isinstance(place, str):
                there.append({**each, "destination": place})
            elif name == "mirrors":
                problems.append(f"the cluster '{cluster}': {place}; nothing is mirrored there")
            else:  # and nobody else may have its requests
                refused: dict[str, object] = {"match": made["match"], "directResponse": {"status": 503}}
                return refused, [f"the cluster '{cluster}': {place}; its requests are answered with 503"]
        if there:
            made[name] = there
    return made, problems


def destinations(routes: Sequence[Mapping[str, object]]) -> list[str]:
    """The clusters that routes name, as they are read."""
    found: dict[str, None] = {}
    for route in routes:
        for name in ("route", "mirrors"):
            given = route.get(name, ())
            assert isinstance(given, (list, tuple))
            found.update((each["destination"]["cluster"], None) for each in given)
    return list(found)
