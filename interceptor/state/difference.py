"""PURE. What two configurations decide differently about connections and requests that were recorded or described."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interceptor.config.addresses import is_ip_address, socket_address
from interceptor.errors import ConfigError
from interceptor.state.explain import answer
from interceptor.state.explain_route import few
from interceptor.state.question import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.state.explain import Explanation
    from interceptor.state.snapshot import Snapshot

Asked = tuple[tuple[str, tuple[str, ...]], ...]  # the fields of a question, and their values


class Change(NamedTuple):
    """What would be decided otherwise about something, and how often that was recorded."""

    asked: str
    times: int
    before: Mapping[str, str]  # what differs, by what it is
    after: Mapping[str, str]

    def __str__(self) -> str:
        steps = (f"  {name}: {was} -> {self.after[name]}" for name, was in self.before.items())
        times = "" if self.times == 1 else f" ({self.times} times)"
        return "\n".join((f"{self.asked}{times}", *steps))


def question(record: Mapping[str, object]) -> Asked:
    """What an entry of the access log, or a description by the fields of ``explain``, asks. ConfigError where it is neither."""
    if "direction" not in record:
        return _described(record)
    destination = record.get("original_dst")
    if not isinstance(destination, str):
        raise ConfigError("its original_dst is not known, so nothing was decided over it")
    found: dict[str, object] = {"sni": record.get("requested_server_name")}
    if record["direction"] == "ingress":
        found["from"] = _host(record.get("peer"))
        found["identity"] = record.get("peer_identity")
        found["to-port"] = destination.rpartition(":")[2]
    else:
        found["to"] = destination
    if record.get("method") is not None:
        found |= {"method": record["method"], "path": record.get("path"), "host": record.get("authority")}
    given = {name: (value,) for name, value in found.items() if isinstance(value, str) and value != "-"}
    headers = {"user-agent": record.get("user_agent"), "x-forwarded-for": record.get("x_forwarded_for")}
    told = tuple(f"{name}: {value}" for name, value in headers.items() if value and "method" in given)
    return tuple(sorted({**given, **({"header": told} if told else {})}.items()))


def _described(record: Mapping[str, object]) -> Asked:
    if unknown := [name for name in record if name not in FIELDS]:
        raise ConfigError(f"there is no field '{unknown[0]}'; known are: {', '.join(FIELDS)}")
    given = {name: value if isinstance(value, list) else [value] for name, value in record.items()}
    return tuple(sorted((name, tuple(map(str, values))) for name, values in given.items()))


def _host(peer: object) -> str | None:
    return socket_address(peer).host if isinstance(peer, str) else None


def resolved(records: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    """The addresses that hosts had when something was recorded: by the cluster and the destination of each."""
    found: dict[str, list[str]] = {}
    for record in records:
        cluster, destination = record.get("upstream_cluster"), record.get("original_dst")
        if isinstance(cluster, str) and isinstance(destination, str) and cluster.startswith("outbound|"):
            host = cluster.rpartition("|")[2]
            address = socket_address(destination).host
            if not is_ip_address(host) and address not in found.setdefault(host, []):
                found[host].append(address)
    return found


def changes(before: Snapshot, after: Snapshot, asked: Mapping[Asked, int]) -> list[Change]:
    """What is decided otherwise, in the order in which it was asked."""
    found = []
    for each, count in asked.items():
        was, now = (answer(snapshot, dict(each)) for snapshot in (before, after))
        old, new = _decided(was), _decided(now)
        if old["route"] == new["route"]:  # which names a few of many endpoints
            old["endpoints"], new["endpoints"] = _few(was, now), _few(now, was)
        differing = [name for name in old if old[name] != new[name]]
        if differing:
            sides = ({name: side[name] for name in differing} for side in (old, new))
            found.append(Change(f"{was.direction.value}: {was.asked}{_with(dict(each))}", count, *sides))
    return found


def _few(one: Explanation, other: Explanation) -> str:
    """Some of the endpoints that only one of two answers has, and how many there are."""
    own, others = (
        {
            each: None
            for cluster in ([] if side.routed is None else side.routed.clusters)
            for each in _ends(cluster)
        }
        for side in (one, other)
    )
    return few([each for each in own if each not in others]) or "-"


def _ends(cluster: Mapping[str, object]) -> Iterable[object]:
    found = cluster["endpoints"]
    assert isinstance(found, list)
    return found


def _with(asked: Mapping[str, tuple[str, ...]]) -> str:
    """The headers by which it differs from others; every entry of a log has a User-Agent."""
    told = [each for each in asked.get("header", ()) if not each.lower().startswith("user-agent:")]
    return f", with {', '.join(told)}" if told else ""


def strangers(before: Snapshot, routes: Mapping[Asked, str]) -> list[str]:
    """The recorded requests that took another route than the old configuration leads them to by what the log has of them."""
    found = []
    for each, recorded in routes.items():
        was = answer(before, dict(each))
        route = None if was.routed is None else was.routed.route
        if route != recorded:
            found.append(
                f"{was.asked}: recorded on the route {recorded}, by the old configuration {route or '-'}"
            )
    return found


def _decided(explanation: Explanation) -> dict[str, str]:
    route, mode, verdict = explanation.route, explanation.mutual_tls, explanation.verdict
    routed = explanation.routed
    return {
        "verdict": f"{'allowed' if verdict.allowed else 'denied'} by {verdict.policy}",
        "cluster": route.cluster,
        "upstream": "-" if routed is not None else _listed(map(str, route.upstreams)),
        "route": "-" if routed is None else routed.summary,
        "what is done": "-" if routed is None else _listed(routed.done),
        "mutual TLS": "-" if mode is None else mode.mode.value,
        "TLS to the upstream": "none" if route.tls is None else f"{route.tls.policy}",
        "dry run": explanation.verdict.shadow,
    }


def _listed(texts: Iterable[str]) -> str:
    listed: Sequence[str] = tuple(texts)
    return ", ".join(listed) or "-"
