"""``spec.middleware``: every entry by its own model, all problems at once, each at its field."""

from __future__ import annotations

from typing import cast

import pytest

from interceptor.config.documents import load
from interceptor.config.middleware import ModuleItem, RateLimitItem
from interceptor.config.plain import plain
from interceptor.config.problems import Source
from tests.support.documents import SIDECAR, configuration, problems, sidecar

GOOD = """
- {name: log, use: accessLog, config: {when: [{minStatus: 500}, {minDuration: 1s, percentage: {value: 10}}], extraFields: {a: "%REQ(X-A)%", b: text}}}
- {name: jwt, use: jwt, direction: ingress, ports: [80, "8000-8100"], config: {issuer: i, jwksFile: /k, audiences: [a]}}
- {name: basic, use: basic, config: {usersFile: /u, realm: 'a "b"'}}
- {name: key, use: apiKey, config: {keysFile: /k, query: key}}
- {name: rate, use: rateLimit, config: {total: {rate: 100/s}, perKey: {by: [peer, "header:X-Tenant", pathPrefix], pathPrefixes: [/a], rate: 5/m, burst: 2}, overrides: [{key: [10.0.0.1, big, /a], rate: 10/s}]}}
- {name: opens, use: rateLimit, scope: connection, config: {perKey: {by: [peer, identity], rate: 5/s}}}
- {name: headers, use: headers, config: {request: {set: {x-a: b}, remove: [x-c]}, response: {add: {x-d: ""}}}}
- {name: fault, use: fault, config: {abort: {httpStatus: 503, percentage: {value: 0.5}}}}
- {name: size, use: bodyLimit, failure: open, config: {maxRequestBytes: 0}}
- {name: own, use: "a.b:C.d", timeout: 500ms, failure: open, config: {any: [thing, 1]}}
"""


def found(item: str) -> list[str]:
    return [each.removeprefix("4: ") for each in problems(f"{SIDECAR}spec: {{middleware: [{item}]}}\n")]


def test_every_kind_is_read() -> None:
    text = f"{SIDECAR}spec:\n  middleware:{GOOD.replace(chr(10), chr(10) + '  ')}\n"
    items = configuration(text).sidecar.spec.middleware
    assert [item.use for item in items] == [
        "accessLog", "jwt", "basic", "apiKey", "rateLimit", "rateLimit", "headers", "fault", "bodyLimit", "a.b:C.d"
    ]  # fmt: skip
    assert items[1].port_ranges == ((80, 80), (8000, 8100))
    data = plain(configuration(text)).sidecar.spec.middleware
    for each in (items[4], cast("RateLimitItem", data[4])):  # which has the attributes, and is none
        per_key = cast("RateLimitItem", each).config.perKey
        assert per_key is not None
        assert per_key.by == ("peer", "header:x-tenant", "pathPrefix")
        assert per_key.numbers == (5, 60, 2)
    assert data[1].port_ranges == items[1].port_ranges


def test_what_fails_how_by_itself() -> None:
    assert [item.failure for item in sidecar("{middleware: [{name: a, use: 'm:a'}]}").spec.middleware] == [
        "closed"
    ]
    [fault] = sidecar("{middleware: [{name: a, use: fault, config: {}}]}").spec.middleware
    assert fault.failure == "open"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("{name: a, use: jwtt}", "spec.middleware[0].use: 'jwtt' is neither built in nor module:attribute; did you mean 'jwt'?"),
        ("{name: a, use: 'm:'}", "spec.middleware[0].use: 'm:' is not a module and an attribute"),
        ("{name: a, use: 5}", "spec.middleware[0].use: must be text, not 5"),
        ("{name: a}", "spec.middleware[0].use: is required"),
        ("7", "spec.middleware[0]: must be a mapping"),
        ("{name: A, use: 'm:a'}", "spec.middleware[0].name: 'A' is not a name"),
        ("{name: a, use: 'm:a', ports: [0]}", "spec.middleware[0].ports[0]: '0' is out of bounds"),
        ("{name: a, use: 'm:a', ports: [9-8]}", "spec.middleware[0].ports[0]: '9-8' is out of bounds"),
        ("{name: a, use: 'm:a', ports: [http]}", "spec.middleware[0].ports[0]: must be a port or a range"),
        ("{name: a, use: 'm:a', direction: out}", "spec.middleware[0].direction: 'out' is not a value"),
        ("{name: a, use: 'm:a', timeout: 0s}", "spec.middleware[0].timeout: 0s is out of bounds"),
        ("{name: a, use: fault, timeout: 1s, config: {}}", "spec.middleware[0].timeout: there is no such field"),
        ("{name: a, use: headers, scope: connection, config: {}}", "spec.middleware[0].scope: 'connection' is not a value"),
        (
            "{name: a, use: basic, failure: open, config: {usersFile: /u}}",
            "spec.middleware[0].failure: 'open' is not a value of this field",
        ),
        ("{name: a, use: jwt, config: {issuer: i, jwksFile: /k, algorithms: [none]}}", "spec.middleware[0].config.algorithms[0]: 'none' is not a value"),
        ("{name: a, use: jwt, config: {issuer: i, jwksFile: /k, algorithms: []}}", "spec.middleware[0].config.algorithms: must name at least one"),
        ("{name: a, use: jwt, config: {issuer: i, jwksUri: x, jwksFile: /k}}", "spec.middleware[0].config.jwksUri: is not supported by this version"),
        ("{name: a, use: apiKey, config: {keysFile: /k}}", "spec.middleware[0].config: the key comes in a header or in the query"),
        ("{name: a, use: apiKey, config: {keysFile: /k, header: a, query: b}}", "spec.middleware[0].config: the key comes in"),
        ("{name: a, use: rateLimit, config: {total: {rate: 5}}}", "spec.middleware[0].config.total.rate: must be text, not 5"),
        ("{name: a, use: rateLimit, config: {total: {rate: 0/s}}}", "spec.middleware[0].config.total.rate: '0/s' is not a rate"),
        ("{name: a, use: rateLimit, config: {}}", "spec.middleware[0].config: nothing is limited"),
        ("{name: a, use: rateLimit, config: {total: {rate: 1/s}, overrides: [{key: [a], rate: 1/s}]}}", "spec.middleware[0].config.overrides: overrides are exceptions from perKey"),
        ("{name: a, use: rateLimit, config: {perKey: {by: [], rate: 1/s}}}", "spec.middleware[0].config.perKey.by: must name at least one"),
        ("{name: a, use: rateLimit, config: {perKey: {by: [peers], rate: 1/s}}}", "spec.middleware[0].config.perKey.by[0]: 'peers' is not part of a key; did you mean 'peer'?"),
        ("{name: a, use: rateLimit, config: {perKey: {by: ['header: x'], rate: 1/s}}}", "spec.middleware[0].config.perKey.by[0]: ' x' is not the name of a header"),
        ("{name: a, use: rateLimit, config: {perKey: {by: [pathPrefix], rate: 1/s}}}", "spec.middleware[0].config.perKey.by: pathPrefix in by and the list"),
        ("{name: a, use: rateLimit, config: {perKey: {by: [pathPrefix], pathPrefixes: [a], rate: 1/s}}}", "spec.middleware[0].config.perKey.pathPrefixes[0]: 'a' is not the beginning of a path"),
        ("{name: a, use: rateLimit, scope: connection, config: {perKey: {by: [principal], rate: 1/s}}}", "spec.middleware[0].config.perKey.by[0]: 'principal' is of requests"),
        ("{name: a, use: rateLimit, config: {perKey: {by: [peer], rate: 1/s}, overrides: [{key: [a, b], rate: 1/s}]}}", "spec.middleware[0].config.overrides[0].key: a key has 1 parts"),
        ("{name: a, use: rateLimit, config: {perKey: {by: [peer], rate: 1/s}, overrides: [{key: [a], rate: 1/s}, {key: [a], rate: 2/s}]}}", "spec.middleware[0].config.overrides[1].key: the key is given twice"),
        ("{name: a, use: headers, config: {request: {set: {'a b': c}}}}", "spec.middleware[0].config.request.set.a b: 'a b' is not the name of a header"),
        ("{name: a, use: headers, config: {request: {add: {Host: c}}}}", "spec.middleware[0].config.request.add.Host: 'Host' frames or routes the message"),
        ('{name: a, use: headers, config: {response: {set: {a: "b\\r\\nc: d"}}}}', "spec.middleware[0].config.response.set.a: holds a control character"),
        ("{name: a, use: fault, config: {abort: {httpStatus: 199, percentage: {value: 1}}}}", "spec.middleware[0].config.abort.httpStatus: 199 is out of bounds"),
        ("{name: a, use: fault, config: {abort: {grpcStatus: X, httpStatus: 500, percentage: {value: 1}}}}", "spec.middleware[0].config.abort.grpcStatus: is not supported"),
        ("{name: a, use: fault, config: {delay: {fixedDelay: 1s, percentage: {value: many}}}}", "spec.middleware[0].config.delay.percentage.value: must be a number"),
        ("{name: a, use: accessLog, config: {when: [{flagged: 1}]}}", "spec.middleware[0].config.when[0].flagged: must be true or false"),
        ("{name: a, use: accessLog, config: {extraFields: {a: '%REQ(Authorization)%'}}}", "spec.middleware[0].config.extraFields.a: 'authorization' carries secrets"),
        ("{name: a, use: accessLog, config: {extraFields: {a: '%START_TIME%'}}}", "spec.middleware[0].config.extraFields.a: '%START_TIME%' is no operator"),
        ("{name: a, use: 'm:a'}, {name: a, use: 'm:b'}", "spec.middleware[1].name: the name 'a' is given twice, first in middleware[0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_field(item: str, message: str) -> None:
    [problem] = found(item)
    assert problem.startswith(message)


def test_all_problems_come_at_once() -> None:
    text = f"""{SIDECAR}spec:
  middleware:
  - {{name: a, use: jwt, config: {{}}}}
  - {{name: b, use: fault, config: {{delay: {{}}}}}}
"""
    assert [each.partition(": ")[0] for each in problems(text)] == ["6", "6", "7", "7"]


def test_a_module_that_cannot_be_used_is_a_problem_at_its_line() -> None:
    text = f"{SIDECAR}spec:\n  middleware:\n  - name: a\n    use: 'm:a'\n  - {{name: b, use: fault, config: {{}}}}\n"

    def problem(item: ModuleItem) -> str | None:
        return f"there is no {item.use}"

    loaded = load([Source("f", text)], module_problem=problem)
    assert [str(each) for each in loaded.problems] == ["f:7: spec.middleware[0].use: there is no m:a"]
    assert loaded.sidecar is None
    assert load([Source("f", text)], module_problem=lambda _: None).problems == ()
