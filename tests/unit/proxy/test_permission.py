"""Whether a flow may go on, on plain data: when it begins, and again when policies change."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from interceptor.config.configuration import Configuration
from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import Direction, Flow, ResponseFlag
from interceptor.model.identity import SpiffeId
from interceptor.model.request import RequestRecord
from interceptor.policy.policies import Policies
from interceptor.proxy import permission
from interceptor.proxy.permission import again, deny, lets_through, of_request, revoke
from interceptor.routing.destinations import Decision
from interceptor.state.snapshot import Snapshot, take
from tests.support.documents import configuration, service_entry_text
from tests.support.flows import Records
from tests.support.policies import head, named, policy_text, security_text
from tests.support.sample_flows import OK, flow

SIDECAR = """
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec: {egress: {policy: REGISTRY_ONLY}}
"""
BANK = service_entry_text(
    "{hosts: [bank.example], addresses: [10.7.0.1], ports: [{number: 443, name: https}]}", named("bank")
)
TARGET = "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: bank}]"
APP = OriginalDestination(SocketAddress("10.0.0.9", 8080))
AT_BANK = OriginalDestination(SocketAddress("10.7.0.1", 443))


def view(*texts: str) -> Snapshot:
    return take(made(*texts))


def made(*texts: str) -> Configuration:
    return configuration(SIDECAR, BANK, *texts)


def decided(flow: Flow, destination: OriginalDestination, made: Snapshot) -> Decision:
    """Over a flow that is relayed as it is."""
    decision = permission.decided(flow, destination, made)
    return decision if decision.denied else permission.opaque(flow, decision, made.policies)


def ingress(identity: SpiffeId | None = None, security: str = "none") -> Flow:
    return flow(
        OK,
        direction=Direction.INGRESS,
        original_dst=APP,
        policy="-",
        peer_identity=identity,
        security=security,
    )


def egress() -> Flow:
    return flow(OK, original_dst=AT_BANK, policy="ServiceEntry shop/bank")


def test_without_policies_the_route_decides() -> None:
    assert view().policies is None
    assert decided(ingress(), APP, view()).policy == "-"
    assert decided(egress(), AT_BANK, view()).policy == "ServiceEntry shop/bank"


def test_a_policy_that_allows_is_named() -> None:
    decision = decided(ingress(), APP, view(policy_text("{rules: [{}]}")))
    assert (decision.denied, decision.policy) == (None, "AuthorizationPolicy shop/p")
    assert decision.upstreams


def test_where_no_policy_matched_the_route_keeps_its_name() -> None:
    egress_only = view(policy_text(f"{{{TARGET}, action: DENY}}"))
    assert decided(egress(), AT_BANK, egress_only).policy == "ServiceEntry shop/bank"
    assert decided(ingress(), APP, egress_only).policy == "-"


@pytest.mark.parametrize("direction", list(Direction))
def test_a_policy_that_refuses_is_named_with_its_rule(direction: Direction) -> None:
    inward = direction is Direction.INGRESS
    text = policy_text(
        "{action: DENY, rules: [{}]}" if inward else f"{{{TARGET}, action: DENY, rules: [{{}}]}}"
    )
    asked, destination = (ingress(), APP) if inward else (egress(), AT_BANK)
    decision = decided(asked, destination, view(text))
    assert (decision.denied, decision.policy) == ("policy", "AuthorizationPolicy shop/p")
    assert decision.details == "rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]]"
    assert decision.upstreams == ()
    deny(asked, decision)
    assert (asked.denied, asked.flag) == ("policy", ResponseFlag.DENY)


def test_on_egress_the_apps_own_identity_is_the_source() -> None:
    rule = "{from: [{source: {serviceAccounts: [%s]}}]}"
    for account, refused in (("default", None), ("other", "policy")):
        text = policy_text(f"{{{TARGET}, rules: [{rule % account}]}}")
        assert decided(egress(), AT_BANK, view(text)).denied == refused


def test_what_the_route_refuses_no_policy_lets_through() -> None:
    elsewhere = OriginalDestination(SocketAddress("10.8.0.1", 443))
    refused = decided(flow(OK, original_dst=elsewhere), elsewhere, view(policy_text("{rules: [{}]}")))
    assert (refused.denied, refused.policy) == ("registry", "egress.policy=REGISTRY_ONLY")


def test_a_strict_port_refuses_plaintext_before_anything_else() -> None:
    texts = (
        security_text("PeerAuthentication", "{mtls: {mode: STRICT}}", named("strict")),
        policy_text("{rules: [{}]}"),
    )
    decision = decided(ingress(), APP, view(*texts))
    assert (decision.denied, decision.policy) == ("plaintext", "PeerAuthentication shop/strict")
    peer = SpiffeId("cluster.local", "shop", "reader")
    assert decided(ingress(peer, "mutual_tls"), APP, view(*texts)).denied is None
    assert decided(egress(), AT_BANK, view(*texts)).denied is None  # it is about peers


def test_audits_and_dry_runs_are_logged_and_decide_nothing(caplog: pytest.LogCaptureFixture) -> None:
    dry = ", annotations: {istio.io/dry-run: 'true'}"
    texts = (
        policy_text("{action: AUDIT, rules: [{}]}", named("audit")),
        policy_text("{action: DENY, rules: [{}]}", named("dry", more=dry)),
    )
    made_view, records = view(*texts), Records()
    decision = permission.decided(ingress(), APP, made_view)
    with caplog.at_level(logging.INFO):
        assert lets_through(ingress(), decision, made_view.policies, records)
        assert lets_through(ingress(), decision, made_view.policies)  # when it was dialled: said before
    assert records.shadows == [
        ("AuthorizationPolicy shop/dry", "deny", "denied"),
        ("AuthorizationPolicy shop/audit", "audit", "matched"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "AuthorizationPolicy shop/audit matched flow 1 from 10.0.0.1:40000 to 10.0.0.9:8080",
        "dry run: flow 1 from 10.0.0.1:40000 to 10.0.0.9:8080 would be denied by AuthorizationPolicy shop/dry",
    ]


def test_open_flows_lose_permission_by_every_kind_of_document() -> None:
    flows = [ingress(), egress(), flow(OK, original_dst=None), flow(OK, original_dst=APP, denied="policy")]
    assert revoke(flows, view()) == 0
    assert revoke(flows, view(policy_text("{action: DENY, rules: [{}]}"))) == 1
    assert flows[0].denied == "policy"
    assert flows[0].policy == "AuthorizationPolicy shop/p"
    assert flows[0].details == (
        "permission was withdrawn by configuration: rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]]"
    )
    assert revoke(flows, view(policy_text("{action: DENY, rules: [{}]}"))) == 0  # told once
    assert revoke(flows, take(configuration(SIDECAR))) == 1
    assert (flows[1].denied, flows[1].policy) == ("registry", "egress.policy=REGISTRY_ONLY")
    assert [each.denied for each in flows[2:]] == [None, "policy"]


def test_an_open_flow_is_named_after_the_policy_that_lets_it_go_on() -> None:
    open_flow = ingress()
    revoke([open_flow], view(policy_text("{rules: [{}]}")))
    assert (open_flow.policy, open_flow.denied) == ("AuthorizationPolicy shop/p", None)


@pytest.mark.parametrize(
    ("rule", "denied"),
    [
        ("{to: [{operation: {paths: [/admin]}}]}", [None, None, None, "policy"]),
        ("{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}", ["policy", "policy", "policy", "policy"]),
        ("{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}", [None, None, None, "policy"]),
    ],
)
def test_a_flow_that_may_carry_a_request_that_is_allowed_goes_on(rule: str, denied: list[str | None]) -> None:
    flows = [
        flow(OK, direction=Direction.INGRESS, original_dst=APP, relay=relay, http=http)
        for relay, http in (("-", False), ("http", True), ("copy", True), ("copy", False))
    ]
    revoke(flows, view(policy_text(f"{{action: DENY, rules: [{rule}]}}")))
    assert [each.denied for each in flows] == denied
    revoke(flows, view(security_text("PeerAuthentication", "{mtls: {mode: STRICT}}")))
    assert [each.denied for each in flows] == [each or "plaintext" for each in denied]


def test_whether_a_flow_may_be_relayed_is_noted_in_it() -> None:
    made_view = view(policy_text("{rules: [{from: [{source: {ipBlocks: [10.0.0.1]}}]}]}"))
    decision = permission.decided(ingress(), APP, made_view)
    allowed, refused = ingress(), flow(ingress(), peer=PeerAddress(SocketAddress("10.0.0.2", 1)))
    assert lets_through(allowed, decision, made_view.policies)
    assert allowed.policy == "AuthorizationPolicy shop/p"
    assert not lets_through(refused, decision, made_view.policies)
    assert (refused.denied, refused.flag, refused.policy) == (
        "policy",
        ResponseFlag.DENY,
        "AuthorizationPolicy none",
    )
    assert not lets_through(refused, decision, None)  # once denied it stays so
    assert lets_through(ingress(), decision, None)


def test_a_request_is_decided_in_its_record(caplog: pytest.LogCaptureFixture) -> None:
    texts = (
        policy_text("{rules: [{to: [{operation: {methods: [GET]}}]}]}"),
        policy_text("{action: AUDIT, rules: [{}]}", named("audit")),
    )
    made_view = view(*texts)
    assert made_view.policies is not None
    decision = permission.decided(ingress(), APP, made_view)
    allowed, refused = (RequestRecord(ingress(), head(method), 0, 0) for method in ("GET", "PUT"))
    records = Records()
    with caplog.at_level(logging.INFO):
        assert of_request(allowed, decision, made_view.policies, records) is None
    assert records.shadows == [("AuthorizationPolicy shop/audit", "audit", "matched")]
    assert allowed.policy == "AuthorizationPolicy shop/p"
    assert caplog.messages == [
        "AuthorizationPolicy shop/audit matched flow 1 from 10.0.0.1:40000 to 10.0.0.9:8080, b'GET' b'/'"
    ]
    reply = of_request(refused, decision, made_view.policies, Records())
    assert reply is not None
    assert (reply.status, refused.policy) == (403, "AuthorizationPolicy none")
    egress_only = view(policy_text(f"{{{TARGET}}}")).policies
    assert egress_only is not None
    unasked = RequestRecord(ingress(), head(), 0, 0)
    assert of_request(unasked, decision, egress_only, Records()) is None
    assert unasked.policy is None


def test_a_request_is_decided_again_by_what_it_said_when_it_began() -> None:
    """Whatever became of its head since; one that nobody was asked about is read now."""

    def by_team(*teams: str) -> Policies:
        values = ", ".join(teams)
        rule = f"{{rules: [{{when: [{{key: 'request.headers[x-team]', values: [{values}]}}]}}]}}"
        made = view(policy_text(rule)).policies
        assert made is not None
        return made

    decision = permission.decided(ingress(), APP, view())
    asked, unasked = (RequestRecord(ingress(), head(headers=[(b"x-team", b"red")]), 0, 0) for _ in range(2))
    assert of_request(asked, decision, by_team("red"), Records()) is None
    asked.head.headers.clear()
    for record in (asked, unasked):
        assert again(record, decision, by_team("red", "blue")) is None
        assert record.policy == "AuthorizationPolicy shop/p"
        refusal = again(record, decision, by_team("blue"))
        assert refusal is not None
        assert (refusal.status, record.policy) == (403, "AuthorizationPolicy none")
        assert refusal.details.startswith("permission was withdrawn by configuration: rbac_access_denied")


def test_a_request_that_a_route_took_elsewhere_is_decided_by_both_services_policies() -> None:
    def about(name: str, allowed: str) -> str:
        target = f"targetRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: {name}}}]"
        return policy_text(
            f"{{{target}, rules: [{{to: [{{operation: {{paths: [{allowed}]}}}}]}}]}}", named(name)
        )

    def policies(one: str, other: str) -> Policies:
        made = view(about("one", one), about("other", other)).policies
        assert made is not None
        return made

    decision = replace(permission.decided(ingress(), APP, view()), entry="shop/one")
    elsewhere = replace(decision, entry="shop/other")
    record = RequestRecord(flow(OK, direction=Direction.EGRESS, original_dst=APP), head(path="/a"), 0, 0)
    only_other = view(about("other", "/a")).policies
    assert only_other is not None
    for each in (decision, elsewhere):
        assert of_request(record, each, only_other, Records()) is None
    assert again(record, decision, policies("/a", "/a")) is None
    assert again(record, decision, policies("/b", "/a")) is not None
    assert again(record, decision, policies("/a", "/b")) is not None
