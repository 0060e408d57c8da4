from __future__ import annotations

import pytest

from interceptor.model.http import Headers, RequestHead
from interceptor.routing.cors import Cors, cors
from tests.support.documents import virtual_service

ORIGIN = (b"origin", b"https://a.example")
ASKS = (b"access-control-request-method", b"PUT")
ALLOWED = (b"access-control-allow-origin", b"https://a.example")


def policy(text: str) -> Cors:
    made = cors(
        virtual_service(f"{{hosts: [a.b], http: [{{corsPolicy: {text}, directResponse: {{status: 200}}}}]}}")
        .spec.http[0]
        .corsPolicy
    )
    assert made is not None
    return made


def head(*headers: tuple[bytes, bytes], method: bytes = b"OPTIONS") -> RequestHead:
    return RequestHead(method, b"/", b"a.b", b"http", b"1.1", list(headers))


def test_without_a_policy_there_is_nothing() -> None:
    assert cors(None) is None


def test_a_preflight_is_answered_with_what_is_allowed() -> None:
    made = policy(
        "{allowOrigins: [{exact: 'https://a.example'}], allowMethods: [GET, PUT], allowHeaders: [x-a, x-b], "
        "exposeHeaders: [x-c], maxAge: 24h, allowCredentials: true}"
    )
    assert made.answer(head(ORIGIN, ASKS)) == [
        ALLOWED,
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-methods", b"GET,PUT"),
        (b"access-control-allow-headers", b"x-a,x-b"),
        (b"access-control-max-age", b"86400"),
    ]


@pytest.mark.parametrize(
    "asked",
    [head(ORIGIN, ASKS, method=b"PUT"), head(ORIGIN), head(ASKS), head((b"origin", b""), ASKS)],
    ids=["another method", "asks for nothing", "no origin", "an empty one"],
)
def test_what_is_no_preflight_goes_on(asked: RequestHead) -> None:
    assert policy("{allowOrigins: [{prefix: ''}], unmatchedPreflights: IGNORE}").answer(asked) is None


@pytest.mark.parametrize(("unmatched", "answer"), [("FORWARD", None), ("UNSPECIFIED", None), ("IGNORE", [])])
def test_a_preflight_of_another_origin_goes_on_or_is_allowed_nothing(
    unmatched: str, answer: Headers | None
) -> None:
    made = policy(f"{{allowOrigins: [{{exact: 'https://b.example'}}], unmatchedPreflights: {unmatched}}}")
    assert made.answer(head(ORIGIN, ASKS)) == answer


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [
        ("{exact: 'https://b.example'}, {regex: 'https://[a-c][.]example'}", True),
        ("{prefix: 'https://a.'}", True),
        ("{exact: '*'}", True),
        ("{exact: 'https://a.example.evil'}", False),
        ("{regex: 'https://a'}", False),
    ],
)
def test_a_response_is_changed_for_origins_that_are_allowed(origins: str, allowed: bool) -> None:
    made = policy(f"{{allowOrigins: [{origins}], allowMethods: [GET], exposeHeaders: [x-c, x-d]}}")
    response = [(b"Access-Control-Allow-Origin", b"*"), (b"vary", b"accept")]
    made.change(head(ORIGIN, method=b"GET"), response)
    changed = [
        (b"vary", b"accept"),
        ALLOWED,
        (b"access-control-expose-headers", b"x-c,x-d"),
        (b"vary", b"origin"),
    ]
    untouched = [(b"Access-Control-Allow-Origin", b"*"), (b"vary", b"accept")]
    assert response == (changed if allowed else untouched)
