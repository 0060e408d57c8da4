from __future__ import annotations

import pytest

from interceptor.config.restart import restart_needed
from tests.support.documents import SIDECAR, configuration

STARTED = configuration(f"{SIDECAR}spec: {{workers: 2, egress: {{port: 15001}}}}\n")


def refused(text: str) -> list[str]:
    return restart_needed(STARTED.sidecar, configuration(text))


def test_the_same_needs_none() -> None:
    assert refused(f"# other\n{SIDECAR}spec: {{egress: {{port: 15001}}, workers: 2}}\n") == []


@pytest.mark.parametrize(
    "spec",
    [
        "egress: {policy: REGISTRY_ONLY}",
        "ingress: {ports: [{port: 80}]}",
        "rootNamespace: mesh",
        "healthChecks: [{host: a.example, tcp: {}}]",
        "pathNormalization: {normalization: BASE}",
        "gatewayTopology: {numTrustedProxies: 1}",
    ],
)
def test_what_each_decision_reads_anew_may_change(spec: str) -> None:
    assert refused(f"{SIDECAR}spec: {{workers: 2, {spec}}}\n") == []


def test_every_field_that_was_used_up_is_said_by_name() -> None:
    said = refused(
        "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: other}\nspec: {accessLog: {path: /x}}\n"
    )
    end = " while the proxy runs; restart the proxy, or take the change back"
    assert said == [
        f'f:1: metadata.name: cannot change from "app" to "other"{end}',
        f'f:1: spec.accessLog.path: cannot change from "-" to "/x"{end}',
        f"f:1: spec.workers: cannot change from 2 to 1{end}",
    ]


def test_a_section_that_appears_is_said_in_short() -> None:
    [said] = refused(
        f"{SIDECAR}spec: {{workers: 2, dns: {{nameservers: [{', '.join(['192.0.2.1'] * 9)}]}}}}\n"
    )
    assert "spec.dns: cannot change from nothing to {" in said
    assert '..." while' not in said
    assert len(said) < 200
