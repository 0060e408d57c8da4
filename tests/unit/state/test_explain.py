"""The explanation of a decision: it is what the path decides, and tells why."""

from __future__ import annotations

import json

import pytest

from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.proxy.permission import decided, opaque
from interceptor.state.explain import Explanation, answer
from interceptor.state.snapshot import Snapshot, take
from tests.support.documents import configuration, service_entry_text
from tests.support.policies import named, policy_text, security_text
from tests.support.sample_flows import OK, flow
from tests.support.tokens import jwks

SIDECAR = """
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {egress: {policy: REGISTRY_ONLY}, pathNormalization: {normalization: MERGE_SLASHES}}
"""
ENTRIES = (
    service_entry_text(
        "{hosts: [bank.example], ports: [{number: 443, name: x}], resolution: DNS}", named("bank")
    ),
    service_entry_text(
        "{hosts: [net.example], addresses: [10.7.0.0/16], ports: [{number: 443, name: x}]}", named("net")
    ),
    service_entry_text(
        "{hosts: [fix.example], resolution: STATIC, endpoints: [{address: 10.8.0.1}], ports: [{number: 443, name: x}]}",
        named("fix"),
    ),
)
STRICT = security_text("PeerAuthentication", "{mtls: {mode: STRICT}}", named("strict"))
READERS = policy_text(
    "{rules: [{from: [{source: {serviceAccounts: [reader]}}], to: [{operation: {methods: [GET], paths: ['/api/*']}}]}]}",
    named("readers"),
)
NO_ADMIN = policy_text(
    "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", named("no-admin", "istio-system")
)
READER = "spiffe://cluster.local/ns/shop/sa/reader"
TOKENS = security_text(
    "RequestAuthentication", json.dumps({"jwtRules": [{"issuer": "i", "jwks": jwks()}]}), named("tokens")
)


def snapshot(*texts: str) -> Snapshot:
    return take(configuration(SIDECAR, *ENTRIES, *texts))


def asked(made: Snapshot, **given: str) -> Explanation:
    return answer(made, {name.replace("_", "-"): value.split("\n") for name, value in given.items()})


def told(made: Snapshot, **given: str) -> tuple[bool, str, str]:
    found = asked(made, **given)
    return found.verdict.allowed, found.verdict.policy, found.outcome


RESET = "the connection is reset without a byte"


def test_without_policies_the_route_decides() -> None:
    assert told(snapshot(), to_port="8080") == (True, "-", "it goes on to the app")
    assert told(snapshot(), to_port="15006") == (False, "Sidecar shop/web", RESET)
    told_so = f"{RESET}; a request of HTTP would be answered with 502"
    assert told(snapshot(), to="1.2.3.4:443") == (False, "egress.policy=REGISTRY_ONLY", told_so)
    asked_so = (False, "egress.policy=REGISTRY_ONLY", "502 Bad Gateway, and the connection ends")
    assert told(snapshot(), to="1.2.3.4:443", path="/v1") == asked_so


def test_the_mode_comes_with_its_trace() -> None:
    found = asked(snapshot(STRICT), to_port="8080")
    assert (found.verdict.policy, found.outcome) == ("PeerAuthentication shop/strict", RESET)
    assert found.mutual_tls is not None
    assert "namespace: PeerAuthentication shop/strict sets STRICT" in found.mutual_tls.trace
    assert told(snapshot(STRICT), to_port="8080", identity=READER) == (True, "-", "it goes on to the app")


def test_where_tls_is_not_terminated_nobody_is_known() -> None:
    made = snapshot(STRICT.replace("STRICT", "DISABLE"), READERS)
    found = asked(made, to_port="8080", identity=READER, path="/api/x")
    assert (found.verdict.allowed, found.verdict.policy) == (False, "AuthorizationPolicy none")
    assert found.notes == ("the mode is DISABLE: TLS is not terminated, so who the peer is cannot be known",)


@pytest.mark.parametrize(
    ("path", "more", "found"),
    [
        ("/api/x", {}, (True, "AuthorizationPolicy shop/readers", "it goes on to the app")),
        (
            "/api/x",
            {"method": "PUT"},
            (False, "AuthorizationPolicy none", "403 Forbidden, body 'RBAC: access denied'"),
        ),
        (
            "/x/../admin",
            {},
            (False, "AuthorizationPolicy istio-system/no-admin", "403 Forbidden, body 'RBAC: access denied'"),
        ),
        (
            "//admin",
            {"header": "a: b\nContent-Type: application/grpc"},
            (False, "AuthorizationPolicy istio-system/no-admin", "grpc-status 7 (PERMISSION_DENIED)"),
        ),
        ("/a%00", {}, (False, "-", "400 Bad Request")),
    ],
)
def test_requests(path: str, more: dict[str, str], found: tuple[bool, str, str]) -> None:
    assert told(snapshot(READERS, NO_ADMIN), to_port="8080", identity=READER, path=path, **more) == found


def test_the_path_that_counts_is_noted() -> None:
    found = asked(snapshot(READERS), to_port="8080", path="/a//../b")
    assert found.notes == ("the path /a//../b is compared and forwarded as /a/b",)
    assert asked(snapshot(READERS), to_port="8080", path="/a").notes == ()


def test_claims_and_trusted_addresses_count() -> None:
    rule = "{rules: [{from: [{source: {requestPrincipals: [i/s], remoteIpBlocks: [1.2.3.4]}}]}]}"
    made = snapshot(policy_text(rule), TOKENS)
    given = {"to_port": "8080", "jwt_claim": "iss=i\nsub=s", "header": "x-forwarded-for: 1.2.3.4"}
    assert asked(made, **given).verdict.allowed
    assert not asked(made, **{**given, "header": "x-forwarded-for: 1.2.3.5"}).verdict.allowed


TARGET = (
    "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: %s}], action: DENY, rules: [{}]}"
)


@pytest.mark.parametrize(
    ("to", "entry", "asked_as"),
    [
        ("bank.example:443", "bank", "192.0.2.1:443"),
        ("net.example:443", "net", "10.7.0.0:443"),
        ("10.7.1.2:443", "net", "10.7.1.2:443"),
        ("fix.example:443", "fix", "10.8.0.1:443"),
    ],
)
def test_destinations_by_name_or_address(to: str, entry: str, asked_as: str) -> None:
    made = snapshot(policy_text(TARGET % entry))
    found = asked(made, to=to)
    assert (found.verdict.allowed, found.outcome) == (False, RESET)
    assert found.verdict.policy == "AuthorizationPolicy shop/p"
    assert found.asked == f"the app (cluster.local/ns/shop/sa/default) to {asked_as}"
    assert bool(found.notes) is (entry == "bank")


def test_names_behind_a_destination_need_not_be_known() -> None:
    spec = "{hosts: [db.example], resolution: DNS, endpoints: [{address: a.example}], ports: [{number: 443, name: x}]}"
    made = snapshot(service_entry_text(spec, named("db")))
    assert told(made, to="db.example:443")[:2] == (True, "ServiceEntry shop/db")


def test_names_that_were_looked_up_have_their_addresses() -> None:
    made = configuration(SIDECAR, *ENTRIES)
    found = asked(take(made, {"bank.example": ["10.5.0.1"]}), to="bank.example:443")
    assert (found.asked, found.notes) == ("the app (cluster.local/ns/shop/sa/default) to 10.5.0.1:443", ())
    told_so = f"{RESET}; a request of HTTP would be answered with 502"
    assert told(take(made), to="unknown.example:443") == (False, "egress.policy=REGISTRY_ONLY", told_so)


def test_a_name_that_is_answered_here_is_dialled_at_what_it_is_answered_with() -> None:
    spec = "{hosts: ['*.dns.example'], resolution: STATIC, endpoints: [{address: 10.8.0.9}], ports: [{number: 443, name: x}]}"
    fixed = (
        "{hosts: [vip.example], addresses: [10.6.0.1], ports: [{number: 443, name: x}], resolution: STATIC}"
    )
    texts = (service_entry_text(spec), service_entry_text(fixed, named("vip")))
    made = take(configuration(SIDECAR.replace("spec: {", "spec: {dns: {}, "), *texts))
    assert asked(made, to="vip.example:443").notes == ()
    found = asked(made, to="api.dns.example:443")
    assert found.route.cluster == "outbound|443||*.dns.example"
    assert any(
        note.startswith("the app's query for api.dns.example is answered with 240.240.")
        for note in found.notes
    )
    assert "the less loaded of two drawn by chance, of 10.8.0.9:443" in "\n".join(found.lines())


def test_an_allowed_destination_names_its_entry() -> None:
    assert told(snapshot(), to="10.8.0.1:443") == (
        True,
        "ServiceEntry shop/fix",
        "it goes on to where the app connects to",
    )


def test_policies_that_are_not_asked_say_why() -> None:
    texts = (
        READERS,
        policy_text(TARGET % "bank", named("bank")),
        policy_text("{selector: {matchLabels: {app: x}}}", named("labels")),
        policy_text("{}", named("far", "elsewhere")),
    )
    assert asked(snapshot(*texts), to_port="8080").others == (
        "AuthorizationPolicy shop/bank: it is about what the app connects to",
        "AuthorizationPolicy shop/labels: it is about other workloads (namespace shop, labels app=x)",
        "AuthorizationPolicy elsewhere/far: it is about other workloads (namespace elsewhere)",
    )
    assert asked(snapshot(*texts[:2]), to="10.8.0.1:443").others == (
        "AuthorizationPolicy shop/readers: it is about connections to workloads, not about those of the app",
        "AuthorizationPolicy shop/bank: it is about ServiceEntry shop/bank",
    )
    assert len(asked(snapshot(*texts[:2]), to="bank.example:443").others) == 1


def test_text_and_json_say_the_same() -> None:
    dry = named("dry", more=", annotations: {istio.io/dry-run: 'true'}")
    made = snapshot(
        *(STRICT, READERS, NO_ADMIN, policy_text("{action: DENY, rules: [{}]}", dry)),
        *(
            policy_text("{action: AUDIT, rules: [{}]}", named("audit")),
            policy_text("{action: DENY}", named("empty")),
        ),
    )
    found = asked(made, to_port="8080", identity=READER, path="/x", **{"from": "10.0.0.1"})
    mapping = json.loads(json.dumps(found.as_mapping()))
    assert mapping["verdict"] == "denied"
    assert mapping["mutualTls"]["mode"] == "STRICT"
    assert mapping["shadow"] == "denied by AuthorizationPolicy shop/dry"
    assert mapping["text"] == [
        "ingress: 10.0.0.1 (cluster.local/ns/shop/sa/reader) to port 8080 of the app, GET /x",
        "route: inbound|8080|| (-)",
        "mutual TLS: STRICT, by PeerAuthentication shop/strict",
        "  default: PERMISSIVE",
        "  mesh: none",
        "  namespace: PeerAuthentication shop/strict sets STRICT",
        "  workload: none",
        "policies:",
        "  DENY  AuthorizationPolicy istio-system/no-admin: does not match",
        "    rule 0: to[0].operation.paths [/admin] does not match '/x'",
        "  ALLOW AuthorizationPolicy shop/readers: does not match",
        "    rule 0: to[0].operation.paths [/api/*] does not match '/x'",
        "  DENY  AuthorizationPolicy shop/dry (dry run): matches",
        "    rule 0: it asks for nothing, so it matches everything",
        "  AUDIT AuthorizationPolicy shop/audit: matches",
        "    rule 0: it asks for nothing, so it matches everything",
        "  DENY  AuthorizationPolicy shop/empty: does not match",
        "    there are no rules, so it never matches",
        "note: spec.tls is absent: without certificates of its own the proxy knows no peer's identity",
        "dry run: it would be denied by AuthorizationPolicy shop/dry",
        "audit: AuthorizationPolicy shop/audit says that it matched",
        "verdict: denied by AuthorizationPolicy none",
        "  rbac_access_denied_matched_policy[none]",
        "  403 Forbidden, body 'RBAC: access denied'",
    ]
    assert list(asked(snapshot(), to="10.8.0.1:443").lines()) == [
        "egress: the app (cluster.local/ns/shop/sa/default) to 10.8.0.1:443",
        "route: outbound|443||fix.example (ServiceEntry shop/fix)",
        "policies: none is asked",
        "verdict: allowed by ServiceEntry shop/fix",
        "  it goes on to where the app connects to",
    ]


@pytest.mark.parametrize("to", ["10.7.0.1", "10.8.0.1"])
def test_the_path_decides_the_same(to: str) -> None:
    made = snapshot(policy_text(TARGET % "net"))
    found = asked(made, to=f"{to}:443")
    destination = OriginalDestination(SocketAddress(to, 443))
    asked_flow = flow(OK, original_dst=destination)
    decision = opaque(asked_flow, decided(asked_flow, destination, made), made.policies)
    assert (decision.denied is None) is found.verdict.allowed
    assert decision.policy == found.verdict.policy
