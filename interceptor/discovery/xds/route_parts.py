"""PURE. The parts of Envoy's routes: hashing, retries, redirects and answers, as a VirtualService has them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds.matches import is_token
from interceptor.discovery.xds.reading import mapping, mappings, number, seconds, share, texts, unknown
from interceptor.routing.retry import CONDITIONS

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Body

_REDIRECT: Final = frozenset(
    {
        *("https_redirect", "scheme_redirect", "host_redirect", "port_redirect", "path_redirect"),
        *("response_code", "strip_query"),
    }
)
_CODES: Final = {
    "MOVED_PERMANENTLY": 301,
    "FOUND": 302,
    "SEE_OTHER": 303,
    "TEMPORARY_REDIRECT": 307,
    "PERMANENT_REDIRECT": 308,
}
_RETRY: Final = frozenset(
    {
        *("retry_on", "num_retries", "per_try_timeout", "retry_back_off", "retriable_status_codes"),
        *("retry_host_predicate", "host_selection_retry_max_attempts", "retry_priority"),
    }
)
_PREVIOUS: Final = "envoy.retry_host_predicates.previous_hosts"
_PRIORITIES: Final = (
    "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
)


def limits(body: Body, path: str, said: list[str]) -> None:
    """What says nothing in the values that Istio sends always, and is not honoured in others."""
    longest = mapping(body, "max_stream_duration")
    zero = frozenset({"max_stream_duration", "grpc_timeout_header_max"})
    said += unknown(longest, zero, f"{path}max_stream_duration.")
    for name in sorted(longest.keys() & zero):
        if seconds(longest, name):
            said.append(f"{path}max_stream_duration.{name}: only 0s is honoured")
    if seconds(body, "max_grpc_timeout"):
        said.append(f"{path}max_grpc_timeout: only 0s is honoured")
    if body.get("cluster_not_found_response_code", "SERVICE_UNAVAILABLE") != "SERVICE_UNAVAILABLE":
        said.append(f"{path}cluster_not_found_response_code: only SERVICE_UNAVAILABLE is honoured")
    if body.get("priority", "DEFAULT") != "DEFAULT":
        said.append(f"{path}priority: only DEFAULT is honoured")


def hash_on(body: Body, path: str, said: list[str]) -> dict[str, object] | None:
    """What requests of a route are hashed on."""
    policies = mappings(body, "hash_policy")
    if not policies:
        return None
    if len(policies) > 1:
        said.append(f"{path}hash_policy: several are not honoured by this version")
    policy = policies[0]
    here = f"{path}hash_policy[0]."
    said += unknown(
        policy, frozenset({"header", "query_parameter", "connection_properties", "cookie", "terminal"}), here
    )
    if name := mapping(policy, "header").get("header_name"):
        said += unknown(mapping(policy, "header"), frozenset({"header_name"}), f"{here}header.")
        return {"httpHeaderName": str(name)}
    if name := mapping(policy, "query_parameter").get("name"):
        return {"httpQueryParameterName": str(name)}
    if mapping(policy, "connection_properties").get("source_ip") is True:
        return {"useSourceIp": True}
    if "cookie" in policy:
        return {"httpCookie": _cookie(mapping(policy, "cookie"), f"{here}cookie.", said)}
    said.append(f"{here}: needs a header, a cookie, a query parameter or the source address to hash on")
    return None


def _cookie(body: Body, path: str, said: list[str]) -> dict[str, object]:
    said += unknown(body, frozenset({"name", "ttl", "path", "attributes"}), path)
    name, where = str(body.get("name", "")), str(body.get("path", ""))
    if not is_token(name):
        said.append(f"{path}name: '{name}' is not a cookie's name")
    if not re.fullmatch(r"(/[!-:<-~]*)?", where, re.ASCII):
        said.append(f"{path}path: '{where}' is not a path that a cookie can have")
    if (ttl := seconds(body, "ttl")) is None:
        said.append(f"{path}ttl: is required by this version: a cookie is made where a request has none")
    made: dict[str, object] = {"name": name, "ttl": f"{ttl or 0.0:f}s", **({"path": where} if where else {})}
    if given := mappings(body, "attributes"):
        made["attributes"] = [
            _attribute(each, f"{path}attributes[{at}]", said) for at, each in enumerate(given)
        ]
    return made


def _attribute(body: Body, path: str, said: list[str]) -> dict[str, object]:
    said += unknown(body, frozenset({"name", "value"}), f"{path}.")
    name, value = str(body.get("name", "")), str(body.get("value", ""))
    if not is_token(name) or not re.fullmatch(r"[!-:<-~]*( [!-:<-~]+)*", value, re.ASCII):
        said.append(f"{path}: '{name}={value}' is not what an attribute of a cookie can be")
    return {"name": name, "value": value}


def _conditions(body: Body, path: str, said: list[str]) -> list[str]:
    conditions = [each.strip() for each in str(body.get("retry_on", "")).split(",") if each.strip()]
    strange = [each for each in conditions if each not in CONDITIONS]
    said += [f"{path}retry_on: '{each}' is not honoured by this version" for each in strange]
    for each in texts(body, "retriable_status_codes"):
        if not each.isdecimal() or not 100 <= int(each) <= 599:
            said.append(f"{path}retriable_status_codes: '{each}' is no status code")
        elif "retriable-status-codes" in conditions:
            conditions.append(each)
    return conditions


def retries(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """An HTTPRetry; without a retry_policy Envoy tries once."""
    if not body:
        return {"attempts": 0}
    said += unknown(body, _RETRY, path)
    conditions = _conditions(body, path, said)
    made: dict[str, object] = {"retryOn": ",".join(conditions), **_others(body, path, said)}
    if (attempts := number(body, "num_retries", 1)) > 100:
        said.append(f"{path}num_retries: {attempts} is more than 100")
    if not conditions or not attempts:
        return {"attempts": 0}
    if per_try := seconds(body, "per_try_timeout"):
        made["perTryTimeout"] = f"{per_try:f}s"
    if (pause := _pause(mapping(body, "retry_back_off"), f"{path}retry_back_off.", said)) is not None:
        made["backoff"] = pause
    return {"attempts": attempts, **made}


def _others(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """Whether another attempt goes to another endpoint, or to another priority."""
    made: dict[str, object] = {}
    predicates = mappings(body, "retry_host_predicate")
    for index, predicate in enumerate(predicates):
        if predicate.get("name") != _PREVIOUS:
            said.append(f"{path}retry_host_predicate[{index}]: only {_PREVIOUS} is honoured")
    if not predicates:
        made["retryIgnorePreviousHosts"] = False
    if "retry_priority" in body:
        made["retryRemoteLocalities"] = True
        if mapping(mapping(body, "retry_priority"), "typed_config").get("@type") != _PRIORITIES:
            said.append(f"{path}retry_priority: only previous_priorities is honoured")
    return made


def _pause(body: Body, path: str, said: list[str]) -> str | None:
    said += unknown(body, frozenset({"base_interval", "max_interval"}), path)
    base, longest = seconds(body, "base_interval"), seconds(body, "max_interval")
    if not base:
        return None
    if longest is not None and longest != 10 * base:
        said.append(f"{path}max_interval: only ten times base_interval is honoured")
    return f"{base:f}s"


def redirect(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """An HTTPRedirect."""
    said += unknown(body, _REDIRECT, path)
    if body.get("strip_query") is True:
        said.append(f"{path}strip_query: only false is honoured")
    scheme = "https" if body.get("https_redirect") is True else str(body.get("scheme_redirect", ""))
    if scheme not in {"", "http", "https"}:
        said.append(f"{path}scheme_redirect: '{scheme}' is not honoured")
    made: dict[str, object] = {
        "redirectCode": _CODES.get(str(body.get("response_code", "MOVED_PERMANENTLY")), 301)
    }
    fields = {"uri": "path_redirect", "authority": "host_redirect", "port": "port_redirect"}
    made.update({name: body[theirs] for name, theirs in fields.items() if body.get(theirs)})
    return {**made, **({"scheme": scheme} if scheme else {})}


def response(body: Body, path: str, said: list[str]) -> dict[str, object]:
    """An HTTPDirectResponse."""
    said += unknown(body, frozenset({"status", "body"}), path)
    said += unknown(mapping(body, "body"), frozenset({"inline_string"}), f"{path}body.")
    status = number(body, "status", 0)
    if not 200 <= status <= 599:
        said.append(f"{path}status: {status} is not honoured; known are 200 to 599")
    text = str(mapping(body, "body").get("inline_string", ""))
    return {"status": status, **({"body": {"string": text}} if text else {})}


def mirrors(body: Body, path: str, said: list[str]) -> list[dict[str, object]]:
    """HTTPMirrors; a destination is {"cluster": name}."""
    made: list[dict[str, object]] = []
    for index, each in enumerate(mappings(body, "request_mirror_policies")):
        here = f"{path}request_mirror_policies[{index}]."
        known = frozenset(
            {"cluster", "runtime_fraction", "trace_sampled", "disable_shadow_host_suffix_append"}
        )
        said += unknown(each, known, here)
        name = str(each.get("cluster", ""))
        if not name:
            said.append(f"{here}cluster: is required")
        percent = share(mapping(each, "runtime_fraction"), "default_value")
        copy: dict[str, object] = {
            "destination": {"cluster": name},
            "percentage": {"value": percent if "runtime_fraction" in each else 100.0},
        }
        if each.get("disable_shadow_host_suffix_append") is True:
            copy["keepHost"] = True
        made.append(copy)
    return made
