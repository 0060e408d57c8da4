from __future__ import annotations

import pytest

from interceptor.config.documents import load
from interceptor.config.plain import plain
from interceptor.config.problems import Source
from tests.support.documents import SIDECAR, configuration, problems
from tests.support.policies import named, policy_text

WHOLE = (
    "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{"
    "from: [{source: {principals: [a/ns/b/sa/c], notPrincipals: ['*'], requestPrincipals: [i/s], notRequestPrincipals: [x],"
    " namespaces: [n], notNamespaces: ['m*'], ipBlocks: [10.1.2.3/8], notIpBlocks: [10.0.0.1], remoteIpBlocks: ['FD00::/8'],"
    " notRemoteIpBlocks: ['::1']}}, {source: {serviceAccounts: [a/b], notServiceAccounts: [c]}}],"
    "to: [{operation: {hosts: [h], notHosts: ['*.x'], ports: ['80'], notPorts: ['81'], methods: [GET], notMethods: [PUT],"
    " paths: ['/a/{*}'], notPaths: ['/b*']}}],"
    "when: [{key: 'request.headers[X-A]', values: [v]}, {key: source.ip, notValues: [10.0.0.0/8]},"
    " {key: 'request.auth.claims[a][b]', values: [c], notValues: ['d*']}]}]}"
)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_every_field_of_istios_is_read(version: str) -> None:
    text = policy_text(WHOLE).replace("io/v1", f"io/{version}")
    [made] = configuration(text).authorization_policies
    [rule] = made.spec.rules
    assert rule.from_[0].source.ipBlocks == ("10.0.0.0/8",)
    assert rule.from_[0].source.remoteIpBlocks == ("fd00::/8",)
    assert rule.from_[1].source.serviceAccounts == ("a/b",)
    assert rule.to[0].operation.paths == ("/a/{*}",)
    assert rule.when[2].notValues == ("d*",)
    assert not list(made.notes())


def test_a_dump_is_what_was_written_in_istios_own_words() -> None:
    [made] = configuration(
        policy_text("{rules: [{from: [{source: {ipBlocks: [10.1.2.3/8]}}]}]}")
    ).authorization_policies
    assert made.written == {
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]},
    }


@pytest.mark.parametrize(
    ("spec", "rules"), [("{}", 0), ("{action: DENY}", 0), ("{rules: []}", 0), ("{rules: [{}]}", 1)]
)
def test_no_rules_empty_rules_and_a_rule_of_nothing_are_told_apart(spec: str, rules: int) -> None:
    [made] = configuration(policy_text(spec)).authorization_policies
    assert len(made.spec.rules) == rules
    assert any("it never matches" in note for note in made.notes()) is (rules == 0)


def test_a_dry_run_is_noted() -> None:
    text = policy_text("{rules: [{}]}", named("p", more=", annotations: {istio.io/dry-run: 'true'}"))
    [made] = configuration(text).authorization_policies
    assert made.dry_run
    assert list(made.notes()) == [
        'metadata.annotations: istio.io/dry-run is "true": it is evaluated and logged, and decides nothing'
    ]
    [enforced] = configuration(text.replace("'true'", "'false'")).authorization_policies
    assert not enforced.dry_run


TARGET = "{group: networking.istio.io, kind: ServiceEntry, name: bank}"


def rule(text: str) -> str:
    return f"{{rules: [{text}]}}"


def source(text: str) -> str:
    return rule(f"{{from: [{{source: {{{text}}}}}]}}")


def operation(text: str) -> str:
    return rule(f"{{to: [{{operation: {{{text}}}}}]}}")


def when(text: str) -> str:
    return rule(f"{{when: [{{{text}}}]}}")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (
            "{action: CUSTOM}",
            "spec.action: 'CUSTOM' is not supported by this version; use ALLOW or DENY or AUDIT",
        ),
        ("{action: deny}", "spec.action: 'deny' is not a value of this field; did you mean 'DENY'?"),
        ("{provider: {name: x}}", "spec.provider: is not supported by this version; remove it"),
        ("{targetRef: {}}", "spec.targetRef: is not supported by this version; remove it"),
        ("{targetRefs: []}", "spec.targetRefs: must name at least one"),
        (
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: ServiceEntry, name: g}]}",
            "spec.targetRefs[0].group: 'gateway.networking.k8s.io' is not supported by this version",
        ),
        (
            "{targetRefs: [{group: networking.istio.io, kind: Service, name: g}]}",
            "spec.targetRefs[0].kind: 'Service' is not supported by this version; use ServiceEntry",
        ),
        (
            f"{{selector: {{}}, targetRefs: [{TARGET}]}}",
            "spec.targetRefs: a policy has a selector or targetRefs, not both",
        ),
        ("{rules: }", "spec.rules: must be a list, not nothing"),
        ("{rules: {}}", "spec.rules: must be a list, not a mapping"),
        ("{rules: [null]}", "spec.rules[0]: must be a mapping with fields of its own, not nothing"),
        ("{rule: []}", "spec.rule: there is no such field; did you mean 'rules'?"),
        (rule("{form: []}"), "spec.rules[0].form: there is no such field; did you mean 'from'?"),
        (rule("{from_: []}"), "spec.rules[0].from_: there is no such field; did you mean 'from'?"),
        (rule("{from: []}"), "spec.rules[0].from: must name at least one; leave the field out"),
        (rule("{to: []}"), "spec.rules[0].to: must name at least one"),
        (rule("{when: []}"), "spec.rules[0].when: must name at least one"),
        (rule("{from: [{}]}"), "spec.rules[0].from[0].source: is required; add it"),
        (rule("{to: [{}]}"), "spec.rules[0].to[0].operation: is required; add it"),
        (rule("{from: [{source: {}}]}"), "spec.rules[0].from[0].source: must give at least one field"),
        (rule("{to: [{operation: {}}]}"), "spec.rules[0].to[0].operation: must give at least one field"),
        (rule("{when: [{}]}"), "spec.rules[0].when[0].key: is required; add it"),
        (source("principals: []"), "spec.rules[0].from[0].source.principals: must name at least one"),
        (source("principals: ['']"), "spec.rules[0].from[0].source.principals[0]: must not be empty"),
        (
            source("principal: [a]"),
            "spec.rules[0].from[0].source.principal: there is no such field; did you mean 'principals'?",
        ),
        (
            source("ipBlocks: [10.0.0.0/33]"),
            "spec.rules[0].from[0].source.ipBlocks[0]: '10.0.0.0/33' is not a CIDR",
        ),
        (
            source("ipBlocks: [10.0.0]"),
            "spec.rules[0].from[0].source.ipBlocks[0]: '10.0.0' is not an IP address",
        ),
        (
            source("notRemoteIpBlocks: [x/8]"),
            "spec.rules[0].from[0].source.notRemoteIpBlocks[0]: 'x/8' is not a CIDR",
        ),
        (
            source("serviceAccounts: [a], namespaces: [b]"),
            "spec.rules[0].from[0].source: serviceAccounts stand alone",
        ),
        (
            operation("ports: [80]"),
            "spec.rules[0].to[0].operation.ports[0]: must be text, not 80; put it in quotes",
        ),
        (operation("ports: ['http']"), "spec.rules[0].to[0].operation.ports[0]: 'http' is not a port"),
        (operation("paths: [a]"), "spec.rules[0].to[0].operation.paths[0]: 'a' would never match"),
        (operation("hosts: ['a*b']"), "spec.rules[0].to[0].operation.hosts[0]: 'a*b' has a '*'"),
        (when("key: source.ip"), "spec.rules[0].when[0]: must give values or notValues"),
        (when("key: source.ip, values: []"), "spec.rules[0].when[0].values: must name at least one"),
        (when("key: source.ip, values: [x]"), "spec.rules[0].when[0].values[0]: 'x' is not an IP address"),
        (
            when("key: destination.port, notValues: ['0']"),
            "spec.rules[0].when[0].notValues[0]: '0' is not a port",
        ),
        (
            when("key: source.ips, values: [x]"),
            "spec.rules[0].when[0].key: there is no condition 'source.ips'; known are: source.ip,",
        ),
        (
            when("key: 'request.headers[a b]', values: [x]"),
            "spec.rules[0].when[0].key: there is no condition",
        ),
        (
            when("key: connection.protocol, values: [udp]"),
            "spec.rules[0].when[0].values[0]: 'udp' is not what a connection carries; write http or tcp",
        ),
        (when("key: 'request.headers[]', values: [x]"), "spec.rules[0].when[0].key: there is no condition"),
        (
            when("key: experimental.envoy.filters.x, values: [x]"),
            "spec.rules[0].when[0].key: 'experimental.envoy.filters.x' is a filter's own",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_field(spec: str, found: str) -> None:
    [problem] = problems(policy_text(spec))
    assert problem.startswith(f"4: {found}")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Also what is wrong with a rule as a whole, beside single fields."""
    rules = (
        "{from: [{source: {}}, {source: {ipBlocks: [x]}}]}",
        "{to: [{operation: {}}], form: []}",
        "{when: [{key: source.ip}, {key: source.ip, values: [10.0.0.1, y]}, {key: z, values: [y]}]}",
    )
    found = problems(policy_text(f"{{rules: [{', '.join(rules)}]}}"))
    assert [each.partition(": ")[2].partition(": ")[0].removeprefix("spec.") for each in found] == [
        *("rules[0].from[0].source", "rules[0].from[1].source.ipBlocks[0]"),
        *("rules[1].to[0].operation", "rules[1].form"),
        *("rules[2].when[0]", "rules[2].when[1].values[1]", "rules[2].when[2].key"),
    ]


def test_a_dry_run_is_true_or_false() -> None:
    text = policy_text("{}", named("p", more=", annotations: {istio.io/dry-run: 'yes'}"))
    [problem] = problems(text)
    assert problem == '3: metadata.annotations.istio.io/dry-run: must be "true" or "false"'


def test_one_bad_policy_among_thousands_refuses_them_all_and_is_the_one_named() -> None:
    texts = [policy_text(WHOLE, named(f"p{number}")) for number in range(1000)]
    texts[700] = texts[700].replace("10.1.2.3/8", "10.1.2.3/80")
    loaded = load([Source("f", SIDECAR), Source("g", "---\n".join(texts))])
    [problem] = loaded.problems
    assert "ipBlocks[0]: '10.1.2.3/80' is not a CIDR" in str(problem)
    assert [status.name for status in loaded.documents if not status.accepted] == ["p700"]


def test_plain_data_says_the_same() -> None:
    made = configuration(policy_text(WHOLE))
    data = plain(made)
    [model], [other] = made.authorization_policies, data.authorization_policies
    assert other.written == model.written
    assert other.spec.rules[0].from_[0].source.principals == ("a/ns/b/sa/c",)
    assert (other.selected_labels, other.dry_run) == ({"app": "web"}, False)
