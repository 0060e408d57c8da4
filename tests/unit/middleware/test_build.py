"""From documents to chains: which flows pass what, and what cannot be built."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from interceptor.config.plain import plain
from interceptor.errors import ConfigError
from interceptor.middleware import build
from interceptor.middleware.api import OWN, Delay
from interceptor.middleware.build import Means, Stack
from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.http import LocalReply, ResponseHead, get
from tests.support.documents import SIDECAR, configuration
from tests.support.exchanges import Observed, a_flow, an_exchange
from tests.support.jwts import ISSUER, jwk, jwks, token
from tests.support.stacks import stack

OWN_MODULE = "tests.support.own_middleware"


def refused(made: Stack, **options: str) -> int | None:
    """The status a request is answered with, if it is not let through."""
    chain = made.request_chain(a_flow())
    assert chain is not None
    exchange = an_exchange([(name.encode(), value.encode()) for name, value in options.items()])
    verdict = chain.start(exchange)
    assert verdict is None or isinstance(verdict, LocalReply)
    return None if verdict is None else verdict.status


def test_nothing_asked_for_is_nothing_built() -> None:
    assert build.build((), Means(lambda: 0, lambda: 0, Observed(), lambda: 0)) is None


def test_a_flow_passes_what_is_for_its_direction_and_port() -> None:
    made = stack(
        "{name: a, use: headers, direction: ingress, ports: [80, 8000-8100], config: {}},"
        "{name: b, use: rateLimit, scope: connection, ports: [90], config: {total: {rate: 1/s}}}"
    )
    assert made.request_chain(a_flow(port=80)) is made.request_chain(a_flow(port=8100)) is not None
    assert made.request_chain(a_flow(port=81)) is None
    assert made.request_chain(a_flow(direction=Direction.EGRESS)) is None
    assert made.connection_chain(a_flow(port=80)) is None
    assert made.connection_chain(a_flow(port=90)) is not None
    assert made.connection_chain(a_flow(port=90, direction=Direction.EGRESS)) is not None
    lost = a_flow()
    lost.original_dst = None
    assert made.connection_chain(lost) is None


def test_every_built_in_is_built_from_its_document(tmp_path: Path) -> None:
    (tmp_path / "jwks").write_bytes(jwks(jwk("EC")))
    (tmp_path / "keys").write_text("shop:k-1\n")
    digest = base64.b64encode(hashlib.sha1(b"pw").digest()).decode()
    (tmp_path / "users").write_text(f"ann:{{SHA}}{digest}\n")
    made = stack(
        f"{{name: a, use: jwt, config: {{issuer: '{ISSUER}', jwksFile: {tmp_path}/jwks, outputClaimToHeaders:"
        " [{header: x-user, claim: sub}]}}"
    )
    assert refused(made) == 401
    assert refused(made, authorization=f"Bearer {token('ES256')}") is None
    made = stack(f"{{name: a, use: basic, config: {{usersFile: {tmp_path}/users, userHeader: x-user}}}}")
    assert refused(made, authorization="Basic " + base64.b64encode(b"ann:pw").decode()) is None
    assert refused(made, authorization="Basic " + base64.b64encode(b"ann:no").decode()) == 401
    for where in ("header: X-Key", "query: key"):
        made = stack(f"{{name: a, use: apiKey, config: {{keysFile: {tmp_path}/keys, {where}}}}}")
        assert refused(made, **{"x-key": "k-1"}) == (None if where.startswith("header") else 401)
        assert made.authenticates(a_flow()) == "a"
    made = stack("{name: a, use: rateLimit, config: {total: {rate: 5/s}, perKey: {by: [peer], rate: 1/m},"
                 " overrides: [{key: [10.0.0.1], rate: 2/m}]}}")  # fmt: skip
    assert [refused(made) for _ in range(3)] == [None, None, 429]
    assert (
        refused(stack("{name: a, use: bodyLimit, config: {maxRequestBytes: 4}}"), **{"content-length": "5"})
        == 413
    )
    assert made.authenticates(a_flow()) is None


def test_headers_and_faults_and_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stack(
        "{name: l, use: accessLog, config: {when: [{minStatus: 500, flagged: true}, {percentage: {value: 10}}],"
        " extraFields: {t: '%REQ(x-a)%', r: '%RESP(x-r)%', e: prod}}},"
        "{name: h, use: headers, config: {request: {remove: [X-A], set: {x-b: '1'}}, response: {add: {x-r: '2'}}}},"
        "{name: f, use: fault, config: {delay: {fixedDelay: 2s, percentage: {value: 51}},"
        " abort: {httpStatus: 503, percentage: {value: 50}}}}"
    )
    chain = made.request_chain(a_flow())
    assert chain is not None
    exchange = an_exchange([(b"x-a", b"t")])
    assert chain.start(exchange) == Delay(2.0)
    assert chain.start(exchange) is None
    head = ResponseHead(200, b"", [])
    chain.respond(exchange, head)
    assert get(exchange.request.headers, b"x-b") == b"1"
    assert exchange.fields == {"t": "t", "r": "2", "e": "prod"}
    assert not chain.logs(503, 0, ResponseFlag.NONE)
    assert chain.logs(503, 0, ResponseFlag.UPSTREAM_FAILURE)
    assert made.authenticates(a_flow(port=81)) is None


def test_the_users_own_stands_where_it_is_for() -> None:
    made = stack(
        f"{{name: a, use: '{OWN_MODULE}:passing'}},"
        f"{{name: b, use: '{OWN_MODULE}:Limited', scope: connection, config: {{allowed: []}}}}"
    )
    chain = made.request_chain(a_flow())
    assert chain is not None
    assert chain.start(an_exchange()) is OWN
    assert made.connection_chain(a_flow()) is not None


def test_every_problem_is_found(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("nonsense\n")
    with pytest.raises(ConfigError) as raised:
        stack(
            "{name: a, use: basic, config: {usersFile: /nowhere}},"
            f"{{name: b, use: apiKey, config: {{keysFile: {tmp_path}/keys, header: a}}}},"
            "{name: c, use: 'no.such:thing'}"
        )
    first, second, third = raised.value.problems
    assert first.startswith("spec.middleware[0] (a): '/nowhere' cannot be read (No such file")
    assert second == "spec.middleware[1] (b): line 1 is not of the form client:key or client:{SHA256}hex"
    assert third.startswith("spec.middleware[2] (c): there is no module 'no'")
    assert "nonsense" not in str(raised.value)


def test_it_is_built_from_plain_data_as_well_and_what_it_needs_can_be_imported_before() -> None:
    text = f"{SIDECAR}spec: {{middleware: [{{name: a, use: '{OWN_MODULE}:passing'}}, {{name: b, use: fault, config: {{}}}}]}}"
    items = plain(configuration(text)).sidecar.spec.middleware
    build.preload(items)
    assert build.build(items, Means(lambda: 0, lambda: 0, Observed(), lambda: 0)) is not None
    build.preload(
        configuration(
            f"{SIDECAR}spec: {{middleware: [{{name: a, use: 'no.such:thing'}}]}}"
        ).sidecar.spec.middleware
    )
