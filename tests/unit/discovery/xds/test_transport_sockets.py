from __future__ import annotations

from typing import Any

import pytest

from interceptor.discovery.xds import transport_sockets
from interceptor.discovery.xds.transport_sockets import DOWNSTREAM, RAW, UPSTREAM, read

ADS: dict[str, Any] = {"sds_config": {"ads": {}}}
CA = {"validation_context": {"trusted_ca": {"filename": "/ca.pem"}}}
NAMED = {
    "validation_context": {
        "trusted_ca": {"inline_string": "ca"},
        "match_typed_subject_alt_names": [
            {"san_type": "DNS", "matcher": {"exact": "a.example.com"}},
            {"san_type": "URI", "matcher": {"exact": "spiffe://x/ns/a/sa/b"}},
        ],
    }
}
MESH = {
    "alpn_protocols": ["istio-h2", "istio", "h2"],
    "tls_certificate_sds_secret_configs": [{"name": "default", **ADS}],
    "combined_validation_context": {
        "default_validation_context": {},
        "validation_context_sds_secret_config": {"name": "ROOTCA", **ADS},
    },
}
OWN = ("default", "ROOTCA")


def socket(common: Any, *, kind: str = UPSTREAM, **more: Any) -> dict[str, Any]:
    config = {"@type": kind, "common_tls_context": common, "sni": "a.example.com", **more}
    return {"name": "tls", "typed_config": config}


def judged(given: dict[str, Any], *, http2: bool = False, checks_names: bool = False) -> list[str]:
    return transport_sockets.judge_client(given, "x.", http2=http2, checks_names=checks_names, own=OWN)


def test_one_in_the_clear_says_nothing() -> None:
    raw = {"name": "raw", "typed_config": {"@type": RAW}}
    assert judged(raw) == []
    assert transport_sockets.client(raw) is None


def test_names_and_authorities_of_an_upstream_are_its_rules() -> None:
    given = socket(NAMED)
    assert judged(given) == []
    made = transport_sockets.client(given)
    assert made is not None
    bundle = made.pop("caCertificates")
    assert made == {
        "mode": "SIMPLE",
        "sni": "a.example.com",
        "subjectAltNames": ["a.example.com", "spiffe://x/ns/a/sa/b"],
    }
    found = read(given, "")
    assert found is not None
    assert found.files == {bundle: b"ca"}


def test_a_pair_from_files_is_presented() -> None:
    pair = {"certificate_chain": {"filename": "/c"}, "private_key": {"filename": "/k"}}
    given = socket({**CA, "tls_certificates": [pair]}, auto_sni_san_validation=True)
    assert judged(given) == []
    assert transport_sockets.client(given) == {
        "mode": "MUTUAL",
        "sni": "a.example.com",
        "clientCertificate": "/c",
        "privateKey": "/k",
        "caCertificates": "/ca.pem",
    }


def test_the_workloads_own_secrets_are_the_meshs_mutual_tls() -> None:
    given = socket(MESH)
    assert judged(given) == []
    assert transport_sockets.client(given) == {"mode": "ISTIO_MUTUAL", "sni": "a.example.com"}
    found = read(given, "")
    assert found is not None
    assert found.secrets == ["default", "ROOTCA"]
    [said] = transport_sockets.judge_client(given, "x.", http2=True, checks_names=False, own=None)
    assert said.startswith("x.typed_config.common_tls_context.alpn_protocols: istio is honoured only")


def test_other_secrets_are_files_in_memory() -> None:
    plain = {**MESH, "alpn_protocols": ["h2", "http/1.1"]}
    given = socket(plain)
    assert judged(given, http2=True, checks_names=True) == []
    assert transport_sockets.client(given) == {
        "mode": "MUTUAL",
        "sni": "a.example.com",
        "clientCertificate": "sds://default/tls.crt",
        "privateKey": "sds://default/tls.key",
        "caCertificates": "sds://ROOTCA/ca.crt",
    }


def test_a_server_needs_a_certificate_and_says_whether_its_clients_do() -> None:
    found = read(socket(MESH, kind=DOWNSTREAM, require_client_certificate=True), "x.", server=True)
    assert found is not None
    assert found.requires_client
    assert found.said == ["x.typed_config.sni: is not honoured by this version"]
    assert transport_sockets.is_own(found, OWN)
    bare = read(socket(CA, kind=DOWNSTREAM), "x.", server=True)
    assert bare is not None
    assert "x.typed_config.common_tls_context.tls_certificate_sds_secret_configs: is required" in bare.said


COMMON = "x.typed_config.common_tls_context."


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"typed_config": {"@type": "quic"}}, "x.typed_config: 'quic' is not honoured"),
        (socket(CA, sni=""), "x.typed_config.sni: is required"),
        (socket(CA), f"{COMMON}validation_context.match_typed_subject_alt_names: is required"),
        (socket({}), f"{COMMON}validation_context.trusted_ca: is required"),
        (socket({**CA, "tls_certificates": [{}, {}]}), f"{COMMON}tls_certificates: several"),
        (socket({**CA, "tls_params": {"tls_maximum_protocol_version": "TLSv1_2"}}), f"{COMMON}tls_params.tls_maximum"),
        (socket({**CA, "tls_params": {"cipher_suites": ["x"]}}), f"{COMMON}tls_params.cipher_suites:"),
        (socket({**CA, "alpn_protocols": ["h2"]}), f"{COMMON}alpn_protocols: h2 is not honoured"),
        (socket({**CA, "alpn_protocols": ["http/1.1", "x"]}), f"{COMMON}alpn_protocols: http/1.1, x"),
        (
            socket({**CA, "tls_certificate_sds_secret_configs": [{"name": "a", "sds_config": {"api_config_source": {}}}]}),
            f"{COMMON}tls_certificate_sds_secret_configs[0].sds_config: only ads and self",
        ),
        (
            socket({"validation_context_sds_secret_config": ADS}),
            f"{COMMON}validation_context_sds_secret_config.name: is required",
        ),
        (
            socket({"validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}}),
            f"{COMMON}validation_context.trust_chain_verification:",
        ),
        (
            socket({"validation_context": {"match_typed_subject_alt_names": [{"san_type": "EMAIL", "matcher": {"prefix": "x"}}]}}),
            f"{COMMON}validation_context.match_typed_subject_alt_names[0].san_type:",
        ),
        (
            socket({"validation_context": {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"prefix": "x"}}]}}),
            f"{COMMON}validation_context.match_typed_subject_alt_names[0].matcher:",
        ),
        (socket(CA, allow_renegotiation=True), "x.typed_config.allow_renegotiation:"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_said_with_its_path(given: dict[str, Any], path: str) -> None:
    assert any(said.startswith(path) for said in judged(given)), judged(given)


def test_authorities_of_the_system_are_no_file() -> None:
    given = socket({"validation_context": {"system_root_certs": {}}}, auto_sni_san_validation=True)
    assert judged(given) == []
    assert transport_sockets.client(given) == {"mode": "SIMPLE", "sni": "a.example.com"}
