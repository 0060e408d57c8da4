"""Policies over real connections: refused at once, closed when permission goes, no gap between."""

from __future__ import annotations

import json
import socket

import pytest
import trio

from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import ProtocolName, ResponseFlag
from interceptor.policy.policies import Policies, compiled
from interceptor.protocol.http2.codes import PREFACE
from interceptor.telemetry.request_lines import json_line
from tests.support.client_hellos import hello, name_list, record
from tests.support.documents import configuration
from tests.support.flows import FixedView, Running, listening, running_proxy, settings, wait_until
from tests.support.http2 import GET, Wire, settings as frame_settings
from tests.support.policies import policy_text, security_text
from tests.support.tokens import jwks, token

ALLOW = policy_text("{rules: [{}]}", "{name: allow}")
DENY = policy_text("{action: DENY, rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}", "{name: deny}")
WORDS = "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]]"


def policies(*texts: str) -> Policies:
    return compiled(configuration(*texts))


async def receive(sock: socket.socket) -> bytes:
    return await trio.to_thread.run_sync(sock.recv, 1000)


async def assert_reset(sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        await receive(sock)


async def relayed(running: Running, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A flow that is open, with a byte moved: peer and app."""
    peer = running.connect()
    app, _ = await trio.to_thread.run_sync(server.accept)
    peer.sendall(b"x")
    assert await receive(app) == b"x"
    return peer, app


@pytest.mark.parametrize(
    ("protocol", "said"), [("tcp", b""), ("auto", b"\0no request"), ("auto", b""), ("auto", b"GE")]
)
async def test_a_refused_peer_gets_no_byte_and_the_policy_is_named(
    protocol: ProtocolName, said: bytes
) -> None:
    """One that says nothing may still begin with a request, which would be answered: it has spec.timeouts.detect."""
    server, address = listening()
    with server:
        view = FixedView((address,), policies=policies(DENY), protocol=protocol)
        async with running_proxy(view, settings(detect=0.2)) as running:
            with running.connect() as peer:
                peer.sendall(said)
                await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
    assert (flow.flag, flow.denied, flow.details) == (ResponseFlag.DENY, "policy", WORDS)
    assert (flow.policy, flow.upstream, flow.bytes_sent) == ("AuthorizationPolicy default/deny", None, 0)


async def test_a_policy_that_lets_a_flow_through_is_named_in_its_record() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(ALLOW))) as running:
        with server:
            peer, app = await relayed(running, server)
            peer.close()
            app.close()
        (flow,) = await running.records.wait_closed()
    assert (flow.policy, flow.denied) == ("AuthorizationPolicy default/allow", None)


async def test_an_open_flow_is_reset_when_it_loses_permission_and_others_stay() -> None:
    server, address = listening()
    view = FixedView((address,))
    async with running_proxy(view) as running:
        with server:
            peer, app = await relayed(running, server)
            view.policies = policies(ALLOW)
            assert running.proxy.reconsider() == 0
            peer.sendall(b"still")
            assert await receive(app) == b"still"
            view.policies = policies(DENY)
            assert running.proxy.reconsider() == 1
            await assert_reset(peer)
            await assert_reset(app)
            peer.close()
            app.close()
        (flow,) = await running.records.wait_closed()
        assert (flow.flag, flow.denied) == (ResponseFlag.DENY, "policy")
        assert flow.details == f"permission was withdrawn by configuration: {WORDS}"
        assert (flow.bytes_received, flow.policy) == (6, "AuthorizationPolicy default/deny")
        assert running.proxy.reconsider() == 0


async def test_only_flows_that_lost_permission_are_reset() -> None:
    server, address = listening()
    by_port: dict[int, int] = {}

    def original(_sock: socket.socket, peer: PeerAddress) -> OriginalDestination:
        return OriginalDestination(
            SocketAddress("192.0.2.1", by_port.setdefault(peer.port, 80 + len(by_port)))
        )

    view = FixedView((address,))
    async with running_proxy(view, original=original) as running:
        with server:
            first_peer, first_app = await relayed(running, server)
            second_peer, second_app = await relayed(running, server)
            view.policies = policies(
                policy_text("{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}", "{name: deny}")
            )
            assert running.proxy.reconsider() == 1
            await assert_reset(first_peer)
            second_peer.sendall(b"y")
            assert await receive(second_app) == b"y"
            for sock in (first_peer, first_app, second_peer, second_app):
                sock.close()
        await running.records.wait_closed(2)


async def test_a_flow_that_loses_permission_while_it_is_dialled_never_reaches_the_app() -> None:
    server, address = listening(backlog=0)
    view = FixedView((address,))
    with server, socket.create_connection(address[:2]), socket.socket() as second:
        second.setblocking(False)
        second.connect_ex(address[:2])  # the kernel's queue of one is full: a dial has to wait
        async with running_proxy(view, settings(connect=10)) as running:
            with running.connect() as peer:
                await wait_until(lambda: running.proxy.active == 1 and bool(running.records.opened_flows))
                view.policies = policies(DENY)
                assert running.proxy.reconsider() == 1
                server.accept()[0].close()  # room: the dial goes through
                server.accept()[0].close()
                await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
    assert (flow.flag, flow.denied, flow.bytes_received) == (ResponseFlag.DENY, "policy", 0)


@pytest.mark.parametrize("protocol", ["tcp", "auto"])
async def test_no_flow_slips_between_a_change_and_its_decision(protocol: ProtocolName) -> None:
    """Connections come while policies are swapped: whatever is open after a swap to DENY is gone."""
    server, address = listening(backlog=1000)  # nobody accepts what is dialled
    view = FixedView((address,), protocol=protocol)
    async with running_proxy(view, settings(connections=1000, detect=0.02)) as running:
        with server:
            swaps = 20 if protocol == "tcp" else 3  # what may be a request has a second to become one
            for _ in range(swaps):
                view.policies = None
                peers = [running.connect() for _ in range(10)]
                await trio.lowlevel.checkpoint()  # some of them are accepted, some decided, some dialled
                view.policies = policies(DENY)
                running.proxy.reconsider()
                for peer in peers:
                    await assert_reset(peer)
                    peer.close()
            flows = await running.records.wait_closed(10 * swaps)
    assert {flow.denied for flow in flows} == {"policy"}
    assert len(flows) == 10 * swaps


# --- over HTTP ---

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
READ_ONLY = policy_text("{rules: [{to: [{operation: {methods: [GET], paths: ['/api/*']}}]}]}", "{name: read}")


def asked(target: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: web.shop\r\n{more}\r\n".encode()


async def answered(peer: socket.socket) -> tuple[bytes, bytes, bytes]:
    """One response: its status line, its headers, its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await receive(peer)
        assert data, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    line, _, headers = head.partition(b"\r\n")
    [length] = [
        int(each[15:]) for each in headers.lower().split(b"\r\n") if each.startswith(b"content-length:")
    ]
    while len(body) < length:
        body += await receive(peer)
    return line, headers, body


async def app_answers(server: socket.socket) -> tuple[socket.socket, bytes]:
    """The next request that reaches the app, on a connection of its own, and its answer."""
    app, _ = await trio.to_thread.run_sync(server.accept)
    request = await receive(app)
    app.sendall(ANSWER)
    return app, request


async def test_each_request_is_decided_and_a_refusal_is_istios() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(READ_ONLY))) as running:
        with server, running.connect() as peer:
            peer.sendall(asked("/api/x"))
            app, request = await app_answers(server)
            assert request.startswith(b"GET /api/x ")
            assert (await answered(peer))[2] == b"ok"
            peer.sendall(asked("/api/x", "DELETE"))
            line, _, body = await answered(peer)
            assert (line, body) == (b"HTTP/1.1 403 Forbidden", b"RBAC: access denied")
            peer.sendall(asked("/api/y"))  # the connection goes on
            assert (await receive(app)).startswith(b"GET /api/y ")
            app.sendall(ANSWER)
            assert (await answered(peer))[2] == b"ok"
            app.close()
        await running.records.wait_closed()
    allowed, refused, _ = running.records.requests
    assert (allowed.policy, allowed.status) == ("AuthorizationPolicy default/read", 200)
    assert (refused.policy, refused.status) == ("AuthorizationPolicy none", 403)
    assert (refused.flag, refused.details) == (ResponseFlag.DENY, "rbac_access_denied_matched_policy[none]")


@pytest.mark.parametrize(
    "target", ["/api/../admin", "/admin", "//admin/../admin", "/%61dmin", "http://web.shop/admin"]
)
async def test_no_spelling_reaches_what_is_refused(target: str) -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(READ_ONLY))) as running:
        with server, running.connect() as peer:
            peer.sendall(asked(target))
            assert (await answered(peer))[0] == b"HTTP/1.1 403 Forbidden"


async def test_what_is_compared_is_what_the_app_gets() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(READ_ONLY))) as running:
        with server, running.connect() as peer:
            peer.sendall(asked("/x/../api\\%61?q=/../x"))
            app, request = await app_answers(server)
            assert request.startswith(b"GET /api/a?q=/../x ")
            assert (await answered(peer))[2] == b"ok"
            app.close()


async def test_so_it_is_on_streams_of_http2() -> None:
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(READ_ONLY))) as running:
        with server, running.connect() as sock:
            client = Wire(sock)
            await client.say(PREFACE, frame_settings())
            ids = set()
            app = None
            for number in range(1, 13, 2):
                path = b"/api/a" if number % 4 == 1 else b"/x/../api/a"
                await client.ask(number, [*GET[:3], (b":path", path), (b"x-a", b"b")])
                if app is None:
                    app = Wire((await trio.to_thread.run_sync(server.accept))[0])
                    await app.say(frame_settings())
                seen = await app.fields(number)
                assert (seen[b":path"], seen[b"x-a"]) == (b"/api/a", b"b")
                ids.add(seen[b"x-request-id"])
                await app.answer(number)
                assert await client.body(number) == b"hello"
            await client.ask(13, [*GET[:3], (b":path", b"/api/../x"), (b"x-a", b"b")])
            assert (await client.fields(13))[b":status"] == b"403"
            assert app is not None
            app.sock.close()
        await running.records.wait_closed()
        lines = [json.loads(json_line(each)) for each in running.records.requests]
    assert {line["request_id"].encode() for line in lines[:6]} == ids
    assert len(ids) == 6
    assert [line["path"] for line in lines] == ["/api/a"] * 6 + ["/x"]
    assert [line["policy"] for line in lines] == ["AuthorizationPolicy default/read"] * 6 + [
        "AuthorizationPolicy none"
    ]


async def test_the_next_request_meets_the_policies_of_its_time() -> None:
    server, address = listening()
    view = FixedView((address,))
    async with running_proxy(view) as running:
        with server, running.connect() as peer:
            peer.sendall(asked("/other"))
            app, _ = await app_answers(server)
            await answered(peer)
            view.policies = policies(READ_ONLY)
            assert running.proxy.reconsider() == 0
            peer.sendall(asked("/other"))
            assert (await answered(peer))[0] == b"HTTP/1.1 403 Forbidden"
            view.policies = policies(DENY)
            assert running.proxy.reconsider() == 1  # nothing could be asked any more
            await assert_reset(peer)
            app.close()


async def test_tokens_make_principals() -> None:
    rule = policy_text("{rules: [{from: [{source: {requestPrincipals: [issuer/alice]}}]}]}", "{name: alice}")
    trusted = security_text(
        "RequestAuthentication",
        json.dumps({"jwtRules": [{"issuer": "issuer", "jwks": jwks()}]}),
        "{name: jwt}",
    )
    server, address = listening()
    async with running_proxy(FixedView((address,), policies=policies(rule, trusted))) as running:
        with server, running.connect() as peer:
            peer.sendall(asked("/"))
            assert (await answered(peer))[0] == b"HTTP/1.1 403 Forbidden"
            peer.sendall(asked("/", more="Authorization: Bearer a.b.c\r\n"))
            line, headers, body = await answered(peer)
            assert line == b"HTTP/1.1 401 Unauthorized"
            assert b'www-authenticate: Bearer error="invalid_token"' in headers
            assert body.startswith(b"Jwt is not in the form of")
            lasting = token({"exp": 32503680000})
            peer.sendall(asked("/", more=f"Authorization: Bearer {lasting}\r\n"))
            app, request = await app_answers(server)
            assert b"Bearer" not in request
            assert (await answered(peer))[2] == b"ok"
            app.close()


async def test_where_only_requests_are_let_through_nothing_is_dialled_before_there_is_one() -> None:
    server, address = listening()
    server.setblocking(False)
    async with running_proxy(FixedView((address,), policies=policies(READ_ONLY))) as running:
        with server, running.connect() as peer:
            await wait_until(lambda: running.proxy.active == 1)
            peer.sendall(b"GE")  # may become a request
            await wait_until(lambda: bool(running.records.opened_flows))
            with pytest.raises(BlockingIOError):
                server.accept()
            peer.sendall(asked("/api/x")[2:])
            await wait_until(lambda: connected(server))


def connected(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


BY_NAME = """{action: %s, rules: [{when: [{key: connection.sni, %s: ['good.example']}]}]}"""


@pytest.mark.parametrize("protocol", ["auto", "tls", "tcp"])
@pytest.mark.parametrize(
    ("action", "values", "name", "allowed"),
    [
        ("ALLOW", "values", b"good.example", True),
        ("ALLOW", "values", b"bad.example", False),
        ("DENY", "values", b"good.example", False),
        ("DENY", "values", b"bad.example", True),
        ("DENY", "notValues", b"good.example", True),
        ("DENY", "notValues", b"bad.example", False),
        ("ALLOW", "values", None, False),
        ("DENY", "values", None, True),
    ],
)
async def test_the_name_that_a_client_asks_for_decides_whatever_is_declared(
    protocol: ProtocolName, action: str, values: str, name: bytes | None, allowed: bool
) -> None:
    server, address = listening()
    text = policy_text(BY_NAME % (action, values), "{name: by-name}")
    said = b"no hello" if name is None else record(hello((0, name_list(name))))
    with server:
        view = FixedView((address,), policies=policies(text), protocol=protocol)
        async with running_proxy(view, settings(detect=0.5)) as running:
            with running.connect() as peer:
                peer.sendall(said)
                if allowed:
                    app, _ = await trio.to_thread.run_sync(server.accept)
                    assert await receive(app) == said
                    app.close()
                else:
                    await assert_reset(peer)
            (flow,) = await running.records.wait_closed()
    assert flow.denied == (None if allowed else "policy")


async def test_a_server_that_speaks_first_is_heard_where_names_are_compared() -> None:
    server, address = listening()
    view = FixedView((address,), policies=policies(policy_text(BY_NAME % ("DENY", "values"))), protocol="tcp")
    with server:
        async with running_proxy(view) as running:
            with running.connect() as peer:
                app, _ = await trio.to_thread.run_sync(server.accept)
                app.sendall(b"220 hello")
                assert await receive(peer) == b"220 hello"
                app.close()
