from __future__ import annotations

import pytest

from tests.support.documents import configuration, problems
from tests.support.policies import security_text


def text(spec: str) -> str:
    return security_text("PeerAuthentication", spec)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_both_of_istios_versions_are_read(version: str) -> None:
    written = text(
        "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: DISABLE}, 81: {}}}"
    )
    [made] = configuration(written.replace("io/v1", f"io/{version}")).peer_authentications
    assert made.selected_labels == {"app": "web"}
    assert made.spec.mtls.mode == "STRICT"
    assert made.port_modes == {80: "DISABLE", 81: "UNSET"}


def test_a_document_may_say_nothing() -> None:
    [made] = configuration(text("{}").replace("spec: {}\n", "")).peer_authentications
    assert (made.selected_labels, made.spec.mtls.mode, made.port_modes) == ({}, "UNSET", {})
    assert made.written == {"metadata": {"name": "p", "namespace": "shop"}}


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (
            "{mtls: {mode: strict}}",
            "spec.mtls.mode: 'strict' is not a value of this field; did you mean 'STRICT'?",
        ),
        ("{mtls: {}, tls: {}}", "spec.tls: there is no such field; did you mean 'mtls'?"),
        (
            "{selector: {labels: {}}}",
            "spec.selector.labels: there is no such field; did you mean 'matchLabels'?",
        ),
        ("{portLevelMtls: {80: {mode: STRICT}}}", "spec.portLevelMtls: needs spec.selector.matchLabels"),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            "spec.portLevelMtls.http: 'http' is not a port",
        ),
        ("{portLevelMtls: []}", "spec.portLevelMtls: must be a mapping with fields of its own, not a list"),
        ("{mtls: STRICT}", "spec.mtls: must be a mapping with fields of its own, not the text 'STRICT'"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(spec: str, found: str) -> None:
    [problem] = problems(text(spec))
    assert problem.startswith(f"4: {found}")
