from __future__ import annotations

import base64

import pytest

from interceptor.discovery.xds import secrets
from interceptor.discovery.xds.messages import Body


def text(value: str) -> dict[str, object]:
    return {"inline_string": value}


PAIR: Body = {
    "tls_certificate": {
        "certificate_chain": text("chain"),
        "private_key": {"inline_bytes": base64.b64encode(b"key").decode()},
    }
}


def test_a_secret_is_files_that_exist_in_memory() -> None:
    given, said = secrets.read("default", PAIR)
    assert said == []
    assert secrets.files(given) == {"sds://default/tls.crt": b"chain", "sds://default/tls.key": b"key"}
    given, said = secrets.read("ROOTCA", {"validation_context": {"trusted_ca": text("ca")}})
    assert (secrets.files(given), said) == ({"sds://ROOTCA/ca.crt": b"ca"}, [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "needs one of tls_certificate and validation_context"),
        ({**PAIR, "validation_context": {}}, "needs one of tls_certificate and validation_context"),
        ({"session_ticket_keys": {}}, "session_ticket_keys: is not honoured by this version"),
        (
            {"tls_certificate": {"certificate_chain": text("x"), "private_key_provider": {}}},
            "tls_certificate.private_key_provider: is not honoured by this version",
        ),
        (
            {"tls_certificate": {"certificate_chain": text("x")}},
            "tls_certificate.private_key: needs one of filename, inline_bytes, inline_string",
        ),
        (
            {"tls_certificate": {"certificate_chain": text("x"), "private_key": {"filename": "/k"}}},
            "tls_certificate.private_key.filename: is not honoured in a secret; send the bytes",
        ),
        (
            {"validation_context": {"trusted_ca": {"filename": "/ca"}}},
            "validation_context.trusted_ca.filename: is not honoured in a secret; send the bytes",
        ),
        (
            {"validation_context": {"trusted_ca": {"inline_bytes": "*"}}},
            "validation_context.trusted_ca.inline_bytes: are no bytes",
        ),
        (
            {"validation_context": {"trusted_ca": text("x"), "crl": text("y")}},
            "validation_context.crl: is not honoured by this version",
        ),
        (
            {"validation_context": {"trusted_ca": {**text("x"), "environment_variable": "X"}}},
            "validation_context.trusted_ca.environment_variable: is not honoured by this version",
        ),
    ],
)
def test_what_of_a_secret_is_not_honoured_is_said(body: Body, said: str) -> None:
    assert said in secrets.judge("x", body, lambda *_: None)


def test_the_pem_is_judged_only_where_all_else_is_right() -> None:
    assert secrets.judge("x", PAIR, lambda name, files: f"{name}: {len(files)} files") == ["x: 2 files"]
    assert secrets.judge("x", PAIR, lambda *_: None) == []
    assert secrets.judge("x", {}, lambda *_: "judged") == [
        "needs one of tls_certificate and validation_context"
    ]


def test_a_name_of_what_came_without_one_changes_with_it() -> None:
    assert (
        secrets.inline_name({"a": "1"}) == secrets.inline_name({"a": "1"}) != secrets.inline_name({"a": "2"})
    )
