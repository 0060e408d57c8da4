"""The mode of mutual TLS: scopes, inheritance, conflicts, ports."""

from __future__ import annotations

import pytest

from interceptor.policy.peer_authentication import Mode, effective_mode, ignored, merged
from tests.support.documents import configuration
from tests.support.policies import WORKLOAD, named, security_text

WEB = "selector: {matchLabels: {app: web}}"


def document(spec: str, name: str = "p", namespace: str = "shop", time: str = "null") -> str:
    return security_text("PeerAuthentication", spec, named(name, namespace, f", creationTimestamp: {time}"))


def effective(*texts: str, port: int = 8080) -> tuple[str, str]:
    found = effective_mode(configuration(*texts).peer_authentications, WORKLOAD, port)
    return found.mode.value, found.policy


def mesh(mode: str) -> str:
    return document(f"{{mtls: {{mode: {mode}}}}}", "mesh", "istio-system")


def namespace(mode: str) -> str:
    return document(f"{{mtls: {{mode: {mode}}}}}", "namespace")


def workload(mode: str, ports: str = "") -> str:
    more = f", portLevelMtls: {{{ports}}}" if ports else ""
    return document(f"{{{WEB}, mtls: {{mode: {mode}}}{more}}}", "workload")


def test_without_a_document_a_port_is_permissive() -> None:
    assert effective() == ("PERMISSIVE", "-")


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([mesh("STRICT")], ("STRICT", "PeerAuthentication istio-system/mesh")),
        ([mesh("UNSET")], ("PERMISSIVE", "-")),
        ([mesh("STRICT"), namespace("UNSET")], ("STRICT", "PeerAuthentication istio-system/mesh")),
        ([mesh("STRICT"), namespace("DISABLE")], ("DISABLE", "PeerAuthentication shop/namespace")),
        ([namespace("DISABLE"), workload("STRICT")], ("STRICT", "PeerAuthentication shop/workload")),
        (
            [mesh("STRICT"), namespace("PERMISSIVE"), workload("UNSET")],
            ("PERMISSIVE", "PeerAuthentication shop/namespace"),
        ),
        ([workload("UNSET")], ("PERMISSIVE", "-")),
        ([document("{}", "namespace")], ("PERMISSIVE", "-")),
        ([document("{mtls: {}}", "namespace")], ("PERMISSIVE", "-")),
        ([document("{mtls: {mode: STRICT}}", "other", "elsewhere")], ("PERMISSIVE", "-")),
        ([document("{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}")], ("PERMISSIVE", "-")),
        ([document(f"{{{WEB}, mtls: {{mode: STRICT}}}}", "root", "istio-system")], ("PERMISSIVE", "-")),
    ],
)
def test_the_narrowest_scope_that_says_something_counts(texts: list[str], found: tuple[str, str]) -> None:
    assert effective(*texts) == found


@pytest.mark.parametrize("ports", ["8080: {mode: DISABLE}", "'8080': {mode: DISABLE}"])
def test_a_port_has_its_own_mode(ports: str) -> None:
    texts = (mesh("PERMISSIVE"), workload("STRICT", ports))
    assert effective(*texts) == ("DISABLE", "PeerAuthentication shop/workload")
    assert effective(*texts, port=9) == ("STRICT", "PeerAuthentication shop/workload")


@pytest.mark.parametrize("ports", ["8080: {}", "8080: {mode: UNSET}"])
def test_a_port_that_says_nothing_is_as_its_workload(ports: str) -> None:
    assert effective(workload("STRICT", ports)) == ("STRICT", "PeerAuthentication shop/workload")
    assert effective(mesh("STRICT"), workload("UNSET", ports)) == (
        "STRICT",
        "PeerAuthentication istio-system/mesh",
    )


def test_within_a_scope_the_oldest_counts_alone_and_nothing_is_merged() -> None:
    young = document(
        f"{{{WEB}, mtls: {{mode: DISABLE}}, portLevelMtls: {{9: {{mode: DISABLE}}}}}}",
        "young",
        time="2026-01-02T00:00:00Z",
    )
    old = document(f"{{{WEB}, mtls: {{mode: STRICT}}}}", "old", time="2026-01-01T00:00:00Z")
    ageless = document(f"{{{WEB}, mtls: {{mode: PERMISSIVE}}}}", "ageless")
    for port in (8080, 9):
        assert effective(ageless, young, old, port=port) == ("STRICT", "PeerAuthentication shop/old")
    assert effective(ageless, document("{}", "other", "shop")) == (
        "PERMISSIVE",
        "PeerAuthentication shop/ageless",
    )


def test_without_times_the_first_given_counts() -> None:
    texts = [document(f"{{mtls: {{mode: {mode}}}}}", mode.lower()) for mode in ("STRICT", "DISABLE")]
    assert effective(*texts) == ("STRICT", "PeerAuthentication shop/strict")
    assert effective(*reversed(texts)) == ("DISABLE", "PeerAuthentication shop/disable")


def test_the_trace_tells_every_scope() -> None:
    texts = (
        mesh("STRICT"),
        namespace("UNSET"),
        document("{mtls: {mode: DISABLE}}", "second"),
        workload("UNSET", "8080: {mode: PERMISSIVE}, 9: {}"),
    )
    modes = merged(configuration(*texts).peer_authentications, WORKLOAD)
    scopes = (
        "default: PERMISSIVE",
        "mesh: PeerAuthentication istio-system/mesh sets STRICT",
        "namespace: PeerAuthentication shop/namespace sets UNSET",
        "namespace: PeerAuthentication shop/second is ignored: shop/namespace is older, or was given first",
        "workload: PeerAuthentication shop/workload sets UNSET",
    )
    assert modes.effective(1).trace == scopes
    assert modes.effective(8080).trace == (
        *scopes,
        "port 8080: PeerAuthentication shop/workload sets PERMISSIVE",
    )
    assert modes.effective(9).trace == (*scopes, "port 9: UNSET, as the workload")
    assert [modes.mode(port) for port in (1, 8080, 9)] == [Mode.STRICT, Mode.PERMISSIVE, Mode.STRICT]
    assert merged((), WORKLOAD).effective(1).trace == (
        *("default: PERMISSIVE", "mesh: none", "namespace: none", "workload: none"),
    )


def test_documents_that_decide_nothing_are_named() -> None:
    texts = (namespace("STRICT"), document("{}", "second"), document(f"{{{WEB}}}", "root", "istio-system"))
    assert ignored(configuration(*texts).peer_authentications, WORKLOAD) == {
        "shop/second": "it is ignored: shop/namespace has the same scope (namespace) and is older, or was given first",
        "istio-system/root": "it is ignored: in the root namespace a selector has no meaning",
    }
