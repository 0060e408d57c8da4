from __future__ import annotations

import pytest

from tests.support.documents import SIDECAR, configuration, problems

HEAD = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: rule}\n"
TLS = "spec: {tls: {certificate: /c, privateKey: /k, trustBundle: /b}}\n"


def text(spec: str) -> str:
    return f"{HEAD}spec: {spec}\n"


def test_the_modes_of_a_host_and_of_its_ports_are_read() -> None:
    spec = (
        "{host: Db.shop, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a},"
        " portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}, {port: {number: 81}}]}}"
    )
    [rule] = configuration(text(spec)).destination_rules
    assert rule.spec.host == "db.shop"
    tls = rule.spec.trafficPolicy.tls
    assert tls is not None
    assert tls.files == ("/c", "/k", "/a", None)
    disabled = rule.port_tls[80]
    assert disabled is not None
    assert disabled.mode == "DISABLE"
    assert rule.port_tls[81] is None
    assert not rule.uses_identity


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("{tls: {}}", "trafficPolicy.tls.mode: is required"),
        ("{tls: {mode: TLS}}", "'TLS' is not a value"),
        ("{tls: {mode: MUTUAL, privateKey: /k}}", "tls.clientCertificate: is required by the mode MUTUAL"),
        ("{tls: {mode: MUTUAL, clientCertificate: /c}}", "tls.privateKey: is required by the mode MUTUAL"),
        ("{tls: {mode: SIMPLE, privateKey: /k}}", "tls.privateKey: has no meaning in the mode SIMPLE"),
        ("{tls: {mode: SIMPLE, caCrl: /k}}", "tls.caCrl: needs caCertificates"),
        (
            "{tls: {mode: DISABLE, caCertificates: /k}}",
            "tls.caCertificates: has no meaning in the mode DISABLE",
        ),
        ("{tls: {mode: SIMPLE, insecureSkipVerify: true}}", "tls.insecureSkipVerify: is not supported"),
        ("{tls: {mode: SIMPLE, credentialName: a}}", "tls.credentialName: is not supported"),
        ("{loadBalancer: {}}", "trafficPolicy.loadBalancer: needs one of simple and consistentHash"),
        ("{loadBalancer: {simple: PASSTHROUGH}}", "loadBalancer.simple: "),
        (
            "{loadBalancer: {localityLbSetting: {failoverPriority: [a], failover: [{from: a, to: b}]}}}",
            "localityLbSetting.failoverPriority: cannot be given together with distribute or failover",
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {b: 90}}]}}}",
            "localityLbSetting.distribute[0].to: must come to 100",
        ),
        (
            "{loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}",
            "localityLbSetting.failover[0].to: is the region itself",
        ),
        (
            "{loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], distribute: [{from: a, to: {a: 100}}]}}}",
            "localityLbSetting.failover: cannot be given together with distribute",
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*/b', to: {b: 100}}]}}}",
            "'a/*/b' is not a locality",
        ),
        (
            "{loadBalancer: {simple: RANDOM, warmupDurationSecs: 10s}}",
            "loadBalancer.warmup: works with ROUND_ROBIN and LEAST_REQUEST",
        ),
        (
            "{loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 10s, warmup: {duration: 10s}}}",
            "loadBalancer.warmupDurationSecs: says the same",
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}",
            "loadBalancer.consistentHash: needs one of httpHeaderName, httpCookie, httpQueryParameterName and useSourceIp",
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {name: 'a b', ttl: 0s}}}}",
            "'a b' is not a cookie's name",
        ),
        (
            "{loadBalancer: {consistentHash: {httpCookie: {name: a, path: 'x;y', ttl: 0s}}}}",
            "'x;y' is not a path that a cookie can have",
        ),
        (
            "{connectionPool: {tcp: {maxConnectionDuration: 0s}}}",
            "connectionPool.tcp.maxConnectionDuration: 0s is out of bounds",
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {time: 500ms}}}}",
            "connectionPool.tcp.tcpKeepalive.time: 500ms is out of bounds",
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {interval: 10h}}}}",
            "connectionPool.tcp.tcpKeepalive.interval: 10h is out of bounds",
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {probes: 128}}}}",
            "connectionPool.tcp.tcpKeepalive.probes: 128 is out of bounds",
        ),
        (
            "{connectionPool: {http: {maxRequestsPerConnection: -1}}}",
            "connectionPool.http.maxRequestsPerConnection: -1 is out of bounds",
        ),
        (
            "{portLevelSettings: [{port: {number: 80}, loadBalancer: {}}]}",
            "portLevelSettings[0].loadBalancer: needs one of simple and consistentHash",
        ),
        (
            "{portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]}",
            "portLevelSettings[1].port.number: port 80 is given twice",
        ),
        (
            "{portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, privateKey: /k}}]}",
            "portLevelSettings[0].tls.privateKey: has no meaning",
        ),
    ],
)
def test_what_is_not_honoured_or_makes_no_sense_is_an_error_by_name(policy: str, found: str) -> None:
    [problem] = problems(text(f"{{host: a.b, trafficPolicy: {policy}}}"))
    assert found in problem


@pytest.mark.parametrize(
    ("subsets", "found"),
    [
        ("[{name: a}, {name: a}]", "spec.subsets[1].name: 'a' is given twice, first in spec.subsets[0]"),
        (
            "[{name: a, trafficPolicy: {tls: {mode: DISABLE}}}]",
            "spec.subsets[0].trafficPolicy.tls: is not supported",
        ),
        (
            "[{name: a, trafficPolicy: {loadBalancer: {}}}]",
            "spec.subsets[0].trafficPolicy.loadBalancer: needs one of",
        ),
    ],
)
def test_a_subset_is_judged_like_the_rest(subsets: str, found: str) -> None:
    [problem] = problems(text(f"{{host: a.b, subsets: {subsets}}}"))
    assert found in problem


@pytest.mark.parametrize("field", ["workloadSelector: {}"])
def test_other_parts_of_a_rule_are_refused_by_name(field: str) -> None:
    [problem] = problems(text(f"{{host: a.b, {field}}}"))
    assert f"spec.{field.partition(':')[0]}: is not supported" in problem


def test_mutual_tls_of_the_mesh_needs_the_workloads_own_certificate() -> None:
    rule = text("{host: a.b, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}")
    [problem] = problems(f"{SIDECAR}---\n{rule}")
    assert "name it in the Sidecar's spec.tls" in problem
    assert problems(f"{SIDECAR}{TLS}---\n{rule}") == []
    assert problems(rule) == []


def test_the_files_of_the_workloads_certificate_are_named_together() -> None:
    sidecar = configuration(f"{SIDECAR}{TLS}").sidecar
    assert sidecar.spec.tls is not None
    assert sidecar.spec.tls.files == ("/c", "/k", "/b", None)
    [problem] = problems(f"{SIDECAR}spec: {{tls: {{certificate: /c, privateKey: /k}}}}\n")
    assert "spec.tls.trustBundle: is required, unless workloadApi names a SPIFFE agent" in problem
    assert problems(f"{SIDECAR}spec: {{tls: {{workloadApi: {{}}}}}}\n") == []
    [problem] = problems(f"{SIDECAR}spec: {{tls: {{workloadApi: {{}}, revocationList: /l}}}}\n")
    assert "spec.tls.revocationList: has no meaning beside workloadApi" in problem


def test_the_workloads_certificate_may_be_a_control_planes_secrets() -> None:
    xds = "discovery: {xds: {servers: [{address: 'a:1'}]}}"
    sidecar = configuration(f"{SIDECAR}spec: {{tls: {{sds: {{}}}}, {xds}}}\n").sidecar
    assert sidecar.spec.tls is not None
    assert sidecar.spec.tls.files == (
        "sds://default/tls.crt",
        "sds://default/tls.key",
        "sds://ROOTCA/ca.crt",
        None,
    )
    [problem] = problems(f"{SIDECAR}spec: {{tls: {{sds: {{}}}}}}\n")
    assert "spec.tls.sds: needs spec.discovery.xds" in problem
    both = problems(f"{SIDECAR}spec: {{tls: {{sds: {{}}, workloadApi: {{}}, certificate: /c}}, {xds}}}\n")
    assert [each.partition(": ")[2].partition(":")[0] for each in both] == [
        "spec.tls.certificate",
        "spec.tls.workloadApi",
    ]


@pytest.mark.parametrize("name", ["LEAST_CONN", "UNSPECIFIED", "LEAST_REQUEST"])
def test_older_names_of_the_default_are_taken_for_it(name: str) -> None:
    [rule] = configuration(
        text(f"{{host: a.b, trafficPolicy: {{loadBalancer: {{simple: {name}}}}}}}")
    ).destination_rules
    assert rule.spec.trafficPolicy.loadBalancer is not None
    assert rule.spec.trafficPolicy.loadBalancer.simple == "LEAST_REQUEST"
