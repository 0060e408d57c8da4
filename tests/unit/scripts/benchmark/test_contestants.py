from __future__ import annotations

import json
from pathlib import Path

import pytest

from interceptor.model.ports import EGRESS_PORT, INGRESS_PORT
from scripts.benchmark import contestants
from scripts.benchmark.contestants import CONTESTANTS, Place
from scripts.benchmark.measures import NAMES

PLACE = Place(Path("/visit"), Path("/peers"), Path("/ours"), "app")


def test_everybody_measured_against_is_there_in_order() -> None:
    assert tuple(CONTESTANTS) == NAMES
    assert (contestants.INGRESS_PORT, contestants.EGRESS_PORT) == (INGRESS_PORT, EGRESS_PORT)


def said(name: str, workers: int, place: Place = PLACE) -> str:
    """All that a contestant is told: its files and its command line."""
    contestant = CONTESTANTS[name]
    return "\n".join([*contestant.files(workers).values(), *contestant.command(place, workers)])


@pytest.mark.parametrize("name", ["haproxy", "nginx", "mitmproxy"])
def test_peers_listen_at_both_ports(name: str) -> None:
    assert "15006" in said(name, 1)
    assert "15001" in said(name, 1)


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("haproxy", "nbthread 1\n", "nbthread 2\n"),
        ("nginx", "worker_processes 1;", "worker_processes 2;"),
        ("nginx", "master_process off;", "master_process on;"),
        ("interceptor", "{connections: 20000}}", "{connections: 20000}, workers: 2}"),
    ],
)
def test_workers_are_what_was_asked(name: str, one: str, two: str) -> None:
    assert one in said(name, 1)
    assert one not in said(name, 2)
    assert two in said(name, 2)
    assert two not in said(name, 1)


def test_envoy_is_started_with_its_threads_and_a_configuration_it_can_read(tmp_path: Path) -> None:
    binary = tmp_path / "lib/python3.11/site-packages/envoy/_bin/envoy"
    binary.parent.mkdir(parents=True)
    binary.touch()
    place = Place(Path("/visit"), tmp_path, Path("/ours"), "app")
    command = CONTESTANTS["envoy"].command(place, 2)
    assert command[:5] == [str(binary), "--config-path", "/visit/envoy.json", "--concurrency", "2"]
    assert CONTESTANTS["envoy"].version(place)[0] == str(binary)
    resources = json.loads(CONTESTANTS["envoy"].files(2)["envoy.json"])["static_resources"]
    ports = [listener["address"]["socket_address"]["port_value"] for listener in resources["listeners"]]
    assert ports == [15006, 15001]


def test_only_we_leave_root_by_ourselves_and_enter_the_namespace() -> None:
    assert [name for name in NAMES if CONTESTANTS[name].drops_root] == ["interceptor"]
    assert CONTESTANTS["interceptor"].command(PLACE, 1)[-2:] == ["--netns", "app"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "envoy"])
def test_each_can_be_asked_for_its_version_and_says_what_is_on(name: str) -> None:
    assert CONTESTANTS[name].version(PLACE)
    assert CONTESTANTS[name].features
    assert bool(CONTESTANTS[name].command(PLACE, 1)) == (name != "none")
