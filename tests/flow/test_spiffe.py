"""Certificates from a SPIFFE agent (grpcio on a unix socket) through the path: given, rotated, taken back, spoiled."""

from __future__ import annotations

import functools
import logging
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import trio

from interceptor.model.connection import Direction
from interceptor.model.identity import SpiffeId
from interceptor.policy.peer_authentication import Mode
from interceptor.proxy.transport import Credentials
from interceptor.routing.security import UpstreamTls
from interceptor.tls import spiffe
from tests.support.documents import SIDECAR, configuration
from tests.support.flows import FixedView, Running, running_proxy
from tests.support.identities import DB, WEB, Root
from tests.support.mesh import ask, call, client, echo, server, shake, view, wrap
from tests.support.until import until
from tests.support.workload_api import Agent, answer, bundle_of, svid_of

FOREIGN = SpiffeId("other.org", "shop", "web")


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@pytest.fixture(scope="module")
def other() -> Root:
    return Root("other.org")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    made.start()
    yield made
    made.stop()


@dataclass
class Counted:
    """What would be in the metrics."""

    there: bool = False
    results: list[str] = field(default_factory=list)

    def connected(self, value: bool) -> None:
        self.there = value

    def updated(self, result: str) -> None:
        self.results.append(result)


@dataclass
class Gateway:
    """The certificates of a proxy that follows an agent."""

    credentials: Credentials
    metrics: Counted

    @property
    def source(self) -> spiffe.Agent:
        assert self.credentials.agent is not None
        return self.credentials.agent

    @property
    def identity(self) -> SpiffeId | None:
        assert self.credentials.workload is not None
        return self.credentials.workload.current.material.identity

    async def counted(self, *results: str) -> None:
        await until(lambda: self.metrics.results == list(results))


@asynccontextmanager
async def following(agent: Agent, more: str = "", now: list[float] | None = None) -> AsyncIterator[Gateway]:
    """A gateway's certificates, from an agent; ``now`` holds what its clock says."""
    text = f"{SIDECAR}spec: {{tls: {{workloadApi: {{socket: '{agent.address}'{more}}}}}}}\n"
    clock = time.time if now is None else lambda: now[0]
    gateway = Gateway(Credentials(configuration(text), clock), Counted())
    assert gateway.credentials.workload is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.source.follow, gateway.credentials.workload, gateway.metrics)
        yield gateway
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[Running]:
    async with echo() as app:
        async with running_proxy(view(app, Mode.STRICT), transport=gateway.credentials.transport) as running:
            yield running


async def refused(running: Running, context: ssl.SSLContext) -> str | None:
    """Why a peer that tries to come in does not."""
    before = len(running.records.closed_flows)
    with pytest.raises(OSError):
        with await shake(running, context) as peer:
            await ask(peer)
    return (await running.records.wait_closed(before + 1))[-1].denied


async def test_certificates_come_are_rotated_under_live_traffic_and_outlive_the_agent(
    tmp_path: Path, agent: Agent, root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    context = client(tmp_path, root.issue(WEB), root)
    agent.say(answer(svid_of(DB, root.issue(DB), root), svid_of(WEB, root.issue(WEB), root)))
    async with following(agent) as gateway, serving(gateway) as running:
        await gateway.source.given.wait()
        assert (gateway.identity, gateway.source.pending, gateway.source.remark) == (DB, None, None)
        assert agent.asked.get()["workload.spiffe.io"] == "true"
        with await shake(running, context) as before:
            assert await ask(before) == b"QUESTION"
            first = before.getpeercert(binary_form=True)
            agent.say(answer(svid_of(DB, root.issue(DB), root)))
            await gateway.counted("accepted", "accepted")
            with await shake(running, context) as after:
                assert after.getpeercert(binary_form=True) != first
                assert await ask(after) == await ask(before) == b"QUESTION"
            await trio.to_thread.run_sync(agent.stop)
            await until(lambda: not gateway.metrics.there)
            assert "the last certificates stay in use" in str(gateway.source.remark)
            assert gateway.source.pending is None
            with await shake(running, context) as orphan:
                assert await ask(orphan) == await ask(before) == b"QUESTION"
            agent.start()  # the same socket: it is found again, by itself
            await gateway.counted("accepted", "accepted", "accepted")
            assert await ask(before) == b"QUESTION"
    assert "PRIVATE" not in caplog.text


async def test_who_has_no_identity_is_told_so_and_lets_nobody_in(
    tmp_path: Path, agent: Agent, root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    context = client(tmp_path, root.issue(WEB), root)
    async with following(agent) as gateway, serving(gateway) as running:
        await until(lambda: "PERMISSION_DENIED" in str(gateway.source.pending))
        assert "register one for the proxy's user" in str(gateway.source.pending)
        assert await refused(running, context) == "own_certificate"
        agent.say(answer(svid_of(DB, root.issue(DB), root)))
        await gateway.source.given.wait()
        with await shake(running, context) as peer:
            assert await ask(peer) == b"QUESTION"
            agent.say(grpc.StatusCode.PERMISSION_DENIED)  # the entry was deleted
            await until(lambda: gateway.source.pending is not None)
            assert "took the identity of this workload back" in str(gateway.source.pending)
            assert await refused(running, context) == "own_certificate"
            assert await ask(peer) == b"QUESTION"
    assert "no identity issued" in caplog.text


async def test_garbage_and_foreign_certificates_change_nothing(
    tmp_path: Path, agent: Agent, root: Root, other: Root, caplog: pytest.LogCaptureFixture
) -> None:
    context = client(tmp_path, root.issue(WEB), root)
    agent.say(answer(svid_of(DB, root.issue(DB), root)))
    async with following(agent) as gateway, serving(gateway) as running:
        await gateway.source.given.wait()
        agent.say(b"\xff\xff garbage")
        agent.say(answer())
        agent.say(answer(svid_of(FOREIGN, other.issue(FOREIGN), other)))
        await gateway.counted("accepted", "rejected", "rejected", "rejected")
        assert gateway.identity == DB
        assert "its last answer is refused" in str(gateway.source.remark)
        with await shake(running, context) as peer:
            assert await ask(peer) == b"QUESTION"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 3
    assert "is of the trust domain 'other.org' and spec.trustDomain is 'cluster.local'" in told[2]


async def test_a_hint_chooses_among_several_identities(agent: Agent, root: Root) -> None:
    agent.say(answer(svid_of(DB, root.issue(DB), root), svid_of(WEB, root.issue(WEB), root, hint="external")))
    async with following(agent, ", hint: external") as gateway:
        await gateway.source.given.wait()
        assert gateway.identity == WEB


async def test_what_the_agent_gave_is_not_used_after_it_expired(
    tmp_path: Path, agent: Agent, root: Root
) -> None:
    now = [time.time()]
    agent.say(answer(svid_of(DB, root.issue(DB, lifetime=60), root)))
    async with following(agent, now=now) as gateway, serving(gateway) as running:
        await gateway.source.given.wait()
        now[0] += 61
        assert await refused(running, client(tmp_path, root.issue(WEB), root)) == "own_certificate"


async def test_an_agent_that_says_nothing_is_called_again(
    agent: Agent, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spiffe, "SILENCE", 0.1)
    agent.say(None)
    async with following(agent) as gateway:
        await until(lambda: "did not answer" in str(gateway.source.pending))
        agent.say(answer(svid_of(DB, root.issue(DB), root)))
        await gateway.source.given.wait()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_foreign_trust_domain_is_vouched_for_by_its_own_authorities_alone(
    tmp_path: Path, agent: Agent, root: Root, other: Root, version: ssl.TLSVersion
) -> None:
    agent.say(answer(svid_of(DB, root.issue(DB), root), federated={"spiffe://other.org": bundle_of(other)}))
    async with following(agent) as gateway, serving(gateway) as running:
        await gateway.source.given.wait()
        for by, who, reason in (
            (root, WEB, None),
            (other, FOREIGN, None),
            (other, WEB, "trust_domain"),  # one of ours, by them
            (root, FOREIGN, "trust_domain"),
            (other, SpiffeId("third.org", "a", "b"), "trust_domain"),
            (Root(), WEB, "certificate"),
        ):
            context = client(tmp_path, by.odd((str(who),)), root)
            context.maximum_version = version
            if reason is None:
                with await shake(running, context) as peer:
                    assert await ask(peer) == b"QUESTION"
                    session = peer.session
                resume = functools.partial(wrap, context, running.connect(), session=session)
                with await trio.to_thread.run_sync(resume) as peer:
                    assert await ask(peer) == b"QUESTION"
                    assert not peer.session_reused
            else:
                assert await refused(running, context) == reason
        agent.say(answer(svid_of(DB, root.issue(DB), root)))  # federation has ended
        await gateway.counted("accepted", "accepted")
        assert await refused(running, client(tmp_path, other.issue(FOREIGN), root)) == "certificate"
    identities = [flow.peer_identity for flow in running.records.closed_flows if flow.denied is None]
    assert set(identities) == {WEB, FOREIGN}


@pytest.mark.parametrize(("expected", "answered"), [((), b"reset"), ((str(FOREIGN),), b"QUESTION")])
async def test_an_upstream_of_a_foreign_trust_domain_has_to_be_expected(
    tmp_path: Path, agent: Agent, root: Root, other: Root, expected: tuple[str, ...], answered: bytes
) -> None:
    agent.say(answer(svid_of(WEB, root.issue(WEB), root), federated={"spiffe://other.org": bundle_of(other)}))
    upstream = server(tmp_path / "db", other.issue(FOREIGN), root)
    fixed = FixedView(
        (upstream.address,),
        tls=UpstreamTls("DestinationRule a/b", "mesh", None, "x", expected),
        protocol="tcp",
    )
    async with following(agent) as gateway:
        await gateway.source.given.wait()
        async with running_proxy(
            fixed, transport=gateway.credentials.transport, direction=Direction.EGRESS
        ) as running:
            with upstream.listener:
                assert await call(running, upstream) == answered
