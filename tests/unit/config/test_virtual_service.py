from __future__ import annotations

import pytest

from interceptor.config.documents import load
from interceptor.config.problems import Source
from tests.support.documents import problems, virtual_service

HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n"


def test_a_document_as_istio_users_have_it() -> None:
    document = virtual_service(
        """
        hosts: [Reviews.Shop.svc.cluster.local, "*.example.com"]
        http:
        - name: v2
          match:
          - uri: {prefix: /v2}
            headers: {End-User: {exact: jason}, cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}}
            queryParams: {debug: {}}
          route:
          - destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 8080}}
            weight: 75
          - destination: {host: reviews.shop.svc.cluster.local, subset: v3}
            weight: 25
            headers: {response: {remove: [Server]}}
          timeout: 500ms
          retries: {attempts: 3, perTryTimeout: 2s, retryOn: "gateway-error, connect-failure,418"}
          fault: {delay: {percentage: {value: 0.1}, fixedDelay: 5s}, abort: {httpStatus: 400}}
          rewrite: {uri: /}
        - route: [{destination: {host: reviews.shop.svc.cluster.local}}]
        """
    )
    assert document.spec.hosts == ("reviews.shop.svc.cluster.local", "*.example.com")
    first = document.spec.http[0]
    assert first.match[0].headers["end-user"].exact == "jason"
    assert first.timeout == 0.5
    assert first.retries is not None
    assert first.retries.retryOn == "gateway-error,connect-failure,418"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("{hosts: []}", "4: spec: routes nothing"),
        ("{hosts: [reviews], http: [{directResponse: {status: 200}}]}", "is a short name"),
        ("{hosts: [a.b]}", "4: spec: routes nothing; give http, tls or tcp"),
        ("{hosts: [a.b], http: [{}]}", "spec.http[0]: does nothing with a request"),
        (
            "{hosts: [a.b], http: [{redirect: {uri: /x}, directResponse: {status: 200}}]}",
            "spec.http[0].directResponse: cannot be given together with redirect",
        ),
        (
            "{hosts: [a.b], http: [{route: [{destination: {host: a.b}}, {destination: {host: c.d}}]}]}",
            "spec.http[0].route: has several destinations and no weight",
        ),
        (
            "{hosts: [a.b], http: [{match: [{uri: {regex: '('}}], directResponse: {status: 200}}]}",
            "is not an expression of RE2",
        ),
        (
            "{hosts: [a.b], http: [{match: [{uri: {exact: /, prefix: /}}], directResponse: {status: 200}}]}",
            "spec.http[0].match[0].uri: gives both exact and prefix; keep one",
        ),
        (
            "{hosts: [a.b], http: [{match: [{uri: {}}], directResponse: {status: 200}}]}",
            "spec.http[0].match[0].uri: needs one of exact, prefix and regex",
        ),
        (
            "{hosts: [a.b], http: [{match: [{headers: {'a b': {}}}], directResponse: {status: 200}}]}",
            "'a b' is not a header's name",
        ),
        (
            "{hosts: [a.b], http: [{headers: {request: {set: {Host: x}}}, directResponse: {status: 200}}]}",
            "'Host' frames or routes the message",
        ),
        (
            '{hosts: [a.b], http: [{headers: {request: {add: {x: "a\\r\\nb"}}}, directResponse: {status: 200}}]}',
            "must not have a line break",
        ),
        (
            "{hosts: [a.b], http: [{retries: {retryOn: sometimes}, directResponse: {status: 200}}]}",
            "'sometimes' is not a condition to retry on",
        ),
        (
            "{hosts: [a.b], http: [{fault: {abort: {}}, directResponse: {status: 200}}]}",
            "spec.http[0].fault.abort: needs one of httpStatus and grpcStatus",
        ),
        (
            "{hosts: [a.b], http: [{fault: {abort: {httpStatus: 500, grpcStatus: OK}}, directResponse: {status: 200}}]}",
            "spec.http[0].fault.abort: needs one of httpStatus and grpcStatus",
        ),
        (
            "{hosts: [a.b], http: [{fault: {abort: {grpcStatus: NO_SUCH}}, directResponse: {status: 200}}]}",
            "spec.http[0].fault.abort.grpcStatus: 'NO_SUCH' is not a status of gRPC; use one of OK, CANCELLED",
        ),
        (
            "{hosts: [a.b], http: [{rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}, directResponse: {status: 200}}]}",
            "spec.http[0].rewrite: gives both uri and uriRegexRewrite",
        ),
        (
            "{hosts: [a.b], http: [{route: [{destination: {host: a.b, subset: V_1}}]}]}",
            "'V_1' is not a subset's name",
        ),
        *(
            (f"{{hosts: [a.b], http: [{{{field}: x}}]}}", f"spec.http[0].{field}: ")
            for field in ("delegate", "mirrorPercent", "corsPolicy", "mirrors")
        ),
        (
            "{hosts: [a.b], http: [{mirrorPercentage: {value: 5}, route: [{destination: {host: a.b}}]}]}",
            "spec.http[0].mirrorPercentage: needs mirror",
        ),
        (
            "{hosts: [a.b], http: [{mirror: {host: c.d}, directResponse: {status: 200}}]}",
            "spec.http[0].mirror: needs route",
        ),
        (
            "{hosts: [a.b], http: [{mirrors: [{destination: {host: c.d}}], directResponse: {status: 200}}]}",
            "spec.http[0].mirrors: needs route",
        ),
        (
            "{hosts: [a.b], http: [{corsPolicy: {allowOrigin: ['*'], allowOrigins: [{exact: x}]}, directResponse: {status: 200}}]}",
            "spec.http[0].corsPolicy.allowOrigin: ",
        ),
        (
            "{hosts: [a.b], http: [{corsPolicy: {allowOrigins: [{exact: x}], allowMethods: ['A B']}, directResponse: {status: 200}}]}",
            "'A B' is not a method, nor the name of a header",
        ),
        (
            "{tcp: [{route: [{destination: {host: a.b}}]}]}",
            "spec.hosts: must name at least one: tcp routes are of hosts",
        ),
        (
            "{http: [{delegate: {name: other}}]}",
            "spec.http[0].delegate: a VirtualService without hosts, to which others delegate, cannot",
        ),
        (
            "{hosts: [a.b], http: [{delegate: {name: other}, route: [{destination: {host: a.b}}]}]}",
            "spec.http[0].delegate: cannot be given together with route",
        ),
        ("{hosts: [a.b], tcp: [{}]}", "spec.tcp[0].route: is required"),
        (
            "{hosts: [a.b], tcp: [{route: [{destination: {host: a.b}}, {destination: {host: c.d}}]}]}",
            "spec.tcp[0].route: has several destinations and no weight",
        ),
        (
            "{hosts: [a.b], tcp: [{match: [{sourceSubnet: x}], route: [{destination: {host: a.b}}]}]}",
            "spec.tcp[0].match[0].sourceSubnet: is not supported",
        ),
        (
            "{hosts: [a.b], tls: [{match: [{}], route: [{destination: {host: a.b}}]}]}",
            "spec.tls[0].match[0].sniHosts: is required",
        ),
        (
            "{hosts: [a.b, '*.e.f'], tls: [{match: [{sniHosts: [x.e.f, g.h]}], route: [{destination: {host: a.b}}]}]}",
            "spec.tls[0].match[0].sniHosts[1]: 'g.h' is none of spec.hosts",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_field(spec: str, found: str) -> None:
    [problem, *_] = problems(f"{HEAD}spec: {spec}\n")
    assert found in problem


def test_a_name_of_one_label_is_whole_with_a_dot_at_its_end() -> None:
    spec = virtual_service("hosts: [Reviews.]\nhttp: [{directResponse: {status: 200}}]").spec
    assert spec.hosts == ("reviews",)


def test_where_copies_go_and_how_many() -> None:
    document = virtual_service(
        """
        hosts: [a.b]
        http:
        - route: [{destination: {host: a.b}}]
          mirror: {host: c.d, subset: v1}
          mirrors: [{destination: {host: e.f}, percentage: {value: 12.5}}]
        - route: [{destination: {host: a.b}}]
          mirror: {host: c.d}
          mirrorPercentage: {value: 3}
        - route: [{destination: {host: a.b}}]
        """
    )
    found = [[(each.host, share) for each, share, _ in route.copies] for route in document.spec.http]
    assert found == [[("c.d", 100.0), ("e.f", 12.5)], [("c.d", 3.0)], []]


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        (
            "gateways: [outer]\nhosts: ['*']\nhttp: [{directResponse: {status: 200}}]",
            "spec.gateways does not name 'mesh'",
        ),
        (
            "hosts: [a.b]\nhttp: [{directResponse: {status: 200}}, {directResponse: {status: 201}}]",
            "spec.http[1] is never reached: spec.http[0] takes everything",
        ),
        (
            "hosts: [a.b]\ntcp: [{route: [{destination: {host: a.b}}]}, {route: [{destination: {host: a.b}}]}]",
            "spec.tcp[1] is never reached: spec.tcp[0] takes everything",
        ),
    ],
)
def test_an_operator_is_told(spec: str, note: str) -> None:
    loaded = load(
        [Source("f", f"{HEAD}spec:\n" + "".join(f"  {line}\n" for line in spec.splitlines()))],
        sidecar_required=False,
    )
    [status] = loaded.documents
    assert status.notes[0].startswith(note)
