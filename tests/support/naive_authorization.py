"""Istio's authorization, said a second time and as plainly as its documentation: no index, no compiling.

Works on documents as they are written. It is slow, and what the real one is held against.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from interceptor.config.authorization_policy import AuthorizationPolicy, Operation, Rule, Source

Facts = Mapping[str, str]  # word -> text; "" is absent
HTTP_ONLY = {"requestPrincipals", "hosts", "methods", "paths", "request.auth.principal"}
SOURCE = ("principals", "requestPrincipals", "namespaces", "serviceAccounts", "ipBlocks", "remoteIpBlocks")
OPERATION = ("hosts", "ports", "methods", "paths")
CONDITIONS = {
    "source.principal": "principals",
    "source.namespace": "namespaces",
    "source.ip": "ipBlocks",
    "remote.ip": "remoteIpBlocks",
    "destination.port": "ports",
    "request.auth.principal": "requestPrincipals",
}


def allowed(policies: Sequence[AuthorizationPolicy], facts: Facts, *, http: bool) -> bool:
    """What Istio would decide, dry runs left out."""
    enforced = [policy for policy in policies if not policy.dry_run]
    deny = [policy for policy in enforced if policy.spec.action == "DENY"]
    allow = [policy for policy in enforced if policy.spec.action == "ALLOW"]
    if any(_matches(policy, facts, http) for policy in deny):
        return False
    return not allow or any(_matches(policy, facts, http) for policy in allow)


def _matches(policy: AuthorizationPolicy, facts: Facts, http: bool) -> bool:
    return any(_rule(rule, policy, facts, http) for rule in policy.spec.rules)


def _rule(rule: Rule, policy: AuthorizationPolicy, facts: Facts, http: bool) -> bool:
    if not http and policy.spec.action == "ALLOW" and _asks_for_http(rule):
        return False
    namespace = policy.metadata.namespace
    if rule.from_ and not any(_entry(each.source, SOURCE, facts, http, namespace) for each in rule.from_):
        return False
    if rule.to and not any(_entry(each.operation, OPERATION, facts, http, namespace) for each in rule.to):
        return False
    for condition in rule.when:
        word = CONDITIONS[condition.key]
        if not http and word in HTTP_ONLY:
            continue
        if condition.values and not _any(word, condition.values, facts, namespace):
            return False
        if condition.notValues and _any(word, condition.notValues, facts, namespace):
            return False
    return True


def _entry(given: Source | Operation, words: Sequence[str], facts: Facts, http: bool, namespace: str) -> bool:
    for word in words:
        if not http and word in HTTP_ONLY:
            continue
        values, opposite = getattr(given, word), getattr(given, f"not{word[0].upper()}{word[1:]}")
        if values and not _any(word, values, facts, namespace):
            return False
        if opposite and _any(word, opposite, facts, namespace):
            return False
    return True


def _asks_for_http(rule: Rule) -> bool:
    written = rule.model_dump(by_alias=True, exclude_unset=True)
    entries = [each["source"] for each in written.get("from", ())]
    entries += [each["operation"] for each in written.get("to", ())]
    fields = {field for entry in entries for field in entry} | {
        CONDITIONS[each["key"]] for each in written.get("when", ())
    }
    return any(f"{field[3:4].lower()}{field[4:]}" in HTTP_ONLY or field in HTTP_ONLY for field in fields)


def _any(word: str, values: Sequence[str], facts: Facts, namespace: str) -> bool:
    return any(_one(word, value, facts[word], namespace) for value in values)


def _one(word: str, value: str, fact: str, namespace: str) -> bool:
    if word in {"ipBlocks", "remoteIpBlocks"}:
        return ipaddress.ip_address(fact) in ipaddress.ip_network(value)
    if word == "serviceAccounts" and "/" not in value:
        value = f"{namespace}/{value}"
    if word == "hosts":
        value = value.lower()
    if value == "*":
        return fact != ""
    if "{" in value:
        expression = re.escape(value).replace(r"\{\*\*\}", ".*").replace(r"\{\*\}", "[^/]+")
        return re.fullmatch(expression, fact) is not None
    if value.endswith("*"):
        return fact.startswith(value[:-1])
    if value.startswith("*"):
        return fact.endswith(value[1:])
    return fact == value
