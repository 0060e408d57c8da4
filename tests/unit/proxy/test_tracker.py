"""Each flow is opened once and closed once, whatever happens to it."""

from __future__ import annotations

import pytest

from interceptor.model.address import LocalAddress, PeerAddress, SocketAddress
from interceptor.model.connection import Direction, Flow, ResponseFlag
from interceptor.proxy.share import FIRST_SOURCE_PORT, PORTS, Share
from interceptor.proxy.tracker import Tracker
from tests.support.flows import Records

PEER = PeerAddress(SocketAddress("10.0.0.1", 4000))


def make(records: Records, limit: int = 2) -> Tracker:
    return Tracker(Share(limit), records, clock=lambda: 7.0, wall_clock=lambda: 1000.0)


def admitted(tracker: Tracker, peer: PeerAddress = PEER, direction: Direction = Direction.EGRESS) -> Flow:
    flow = tracker.admit(direction, peer)
    assert flow is not None
    return flow


def test_a_flow_is_live_from_its_registration_to_its_close() -> None:
    records = Records()
    tracker = make(records)
    flow = admitted(tracker)
    assert (flow.started_at, flow.opened) == (1000.0, 7.0)
    assert tracker.flows() == [flow]
    assert not records.opened_flows
    tracker.decided(flow)
    assert records.opened_flows == [flow]
    tracker.close(flow)
    tracker.close(flow)
    assert records.opened_flows == records.closed_flows == [flow]
    assert flow.closed == 7.0
    assert tracker.active == 0


def test_a_flow_that_ended_undecided_is_opened_before_it_is_closed() -> None:
    records = Records()
    tracker = make(records)
    tracker.close(admitted(tracker))
    assert len(records.opened_flows) == len(records.closed_flows) == 1


def test_ids_are_never_used_twice() -> None:
    tracker = make(Records())
    first = admitted(tracker)
    second = admitted(tracker, direction=Direction.INGRESS)
    tracker.close(first)
    assert admitted(tracker).id not in {first.id, second.id}


def test_the_limit_counts_live_flows_and_a_refused_one_is_recorded_with_the_reason() -> None:
    records = Records()
    tracker = make(records, limit=2)
    first, _ = admitted(tracker), admitted(tracker)
    assert tracker.admit(Direction.INGRESS, PEER) is None
    ours = LocalAddress(SocketAddress("10.0.0.2", 15006))
    tracker.refuse(Direction.INGRESS, PEER, ours)
    (refused,) = records.closed_flows
    assert refused.downstream_local == ours
    assert (refused.flag, refused.denied) == (ResponseFlag.OVERFLOW, "limit")
    assert "already has 2 connections: raise spec.limits.connections" in refused.details
    assert tracker.active == 2
    tracker.close(first)
    tracker.close(first)
    admitted(tracker)
    assert tracker.admit(Direction.INGRESS, PEER) is None


class Broken(Records):
    def closed(self, flow: Flow) -> None:
        super().closed(flow)
        raise RuntimeError("the disk is full")


def test_a_recorder_that_fails_is_not_asked_again() -> None:
    records = Broken()
    tracker = make(records)
    flow = admitted(tracker)
    with pytest.raises(RuntimeError):
        tracker.close(flow)
    tracker.close(flow)
    assert records.closed_flows == [flow]
    assert tracker.active == 0


def test_the_app_is_dialled_from_ports_that_the_peer_does_not_use() -> None:
    tracker = make(Records(), limit=9)
    first = PeerAddress(PEER._replace(port=FIRST_SOURCE_PORT))
    third = PeerAddress(PEER._replace(port=FIRST_SOURCE_PORT + 2))
    elsewhere = PeerAddress(SocketAddress("10.0.0.9", FIRST_SOURCE_PORT + 1))
    flows = [admitted(tracker, peer, Direction.INGRESS) for peer in (first, third, third, elsewhere)]
    taken = [next(tracker.sources(PEER)) for _ in range(2)]
    assert taken == [PEER._replace(port=FIRST_SOURCE_PORT + 1), PEER._replace(port=FIRST_SOURCE_PORT + 3)]
    tracker.close(flows[0])
    tracker.close(flows[1])
    ports = {source.port for source in tracker.sources(PEER)}
    assert ports == set(range(FIRST_SOURCE_PORT, PORTS)) - {third.port}
