"""``sidecar-setup explain`` over the plan and over the kernel's rules, in both backends, foreign rules included."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from interceptor.kernel import rules
from tests.support.netns import Topology, topology
from tests.support.processes import run, sidecar_setup

pytestmark = pytest.mark.netns

FLAGS = (
    "--exclude-egress-ports", "22,8000-8100", "--exclude-uids", "5000", "--proxy-mark", "0x539/0xfff", "--strict",
    "--exclude-egress-cidrs", "10.96.0.0/12,10.8.0.1,fd00:96::/64", "--exclude-ingress-ports", "22",
)  # fmt: skip
QUESTIONS = (
    ("--uid", "1000", "--to", "192.0.2.7:443"),
    ("--uid", "1337", "--to", "192.0.2.7:443"),
    ("--uid", "5000", "--to", "[2001:db8::7]:443"),
    ("--uid", "1000", "--to", "192.0.2.7:8080", "--mark", "1337"),
    ("--uid", "1000", "--to", "[2001:db8::7]:8080"),
    ("--uid", "1000", "--to", "10.9.0.2:80"),
    ("--uid", "1000", "--to", "[fd09::2]:80"),
    ("--uid", "1000", "--to", "127.0.0.1:80"),
    ("--uid", "1000", "--to", "10.97.1.1:443"),
    ("--uid", "1000", "--to", "192.0.2.7:443", "--protocol", "udp"),
    ("--from", "10.9.0.1", "--to-port", "80"),
    ("--from", "fd09::1", "--to-port", "22"),
    ("--from", "10.9.0.1", "--to-port", "15020"),
)


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        yield made
        rules.remove(made.app.path)


def explained(bed: Topology, *words: str) -> dict[str, str | None]:
    result = run(sidecar_setup("explain", "--netns", bed.app.name, "--output", "json", *words))
    assert result.returncode == 0, result.stderr
    answer: dict[str, str | None] = json.loads(result.stdout)
    assert list(answer) == ["verdict", "rule", "because"]
    return answer


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_the_kernels_rules_say_what_the_plan_says(bed: Topology, backend: str) -> None:
    applied = run(sidecar_setup("apply", "--netns", bed.app.name, "--backend", backend, *FLAGS))
    assert applied.returncode == 0, applied.stderr
    for question in QUESTIONS:
        planned, live = explained(bed, *question, *FLAGS), explained(bed, "--live", *question)
        assert live["verdict"] == planned["verdict"], question
        assert "cannot read" not in str(live["because"])
        if planned["rule"] is not None:
            assert live["rule"] == planned["rule"], question


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_foreign_rules_count(bed: Topology, backend: str) -> None:
    assert run(sidecar_setup("apply", "--netns", bed.app.name, "--backend", "legacy")).returncode == 0
    question = ("--live", "--uid", "1000", "--to", "192.0.2.7:443")
    assert explained(bed, *question)["verdict"] == "egress"
    refusal = ("-p", "tcp", "-m", "owner", "--uid-owner", "1000", "-j", "REJECT")
    bed.app.run(f"iptables-{backend}", "-A", "OUTPUT", *refusal)
    answer = explained(bed, *question)
    assert answer["verdict"] == "rejected"
    assert str(answer["rule"]).startswith("-A OUTPUT -p tcp -m owner --uid-owner 1000 -j REJECT")


def test_an_accept_before_ours_is_the_reason(bed: Topology) -> None:
    assert run(sidecar_setup("apply", "--netns", bed.app.name, "--backend", "legacy")).returncode == 0
    bed.app.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "ACCEPT")
    answer = explained(bed, "--live", "--uid", "1000", "--to", "192.0.2.7:443")
    assert (answer["verdict"], answer["rule"]) == ("direct", "-A OUTPUT -p tcp -j ACCEPT")


def test_a_rule_that_cannot_be_read_is_told(bed: Topology) -> None:
    assert run(sidecar_setup("apply", "--netns", bed.app.name, "--backend", "legacy")).returncode == 0
    strange = ("-p", "tcp", "-m", "string", "--string", "x", "--algo", "bm", "-j", "ACCEPT")
    bed.app.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "1", *strange)
    answer = explained(bed, "--live", "--uid", "1000", "--to", "192.0.2.7:443")
    assert answer["verdict"] == "egress"
    assert (
        "a rule that I cannot read stands before: legacy IPv4 nat OUTPUT: -A OUTPUT -p tcp -m string"
        in str(answer["because"])
    )


def test_without_root_the_plan_can_be_asked_and_the_kernel_not(bed: Topology) -> None:
    question = ("explain", "--uid", "1000", "--to", "192.0.2.7:443")
    planned = run(bed.app.command(*sidecar_setup(*question), uid=1000, ours=True))
    assert planned.returncode == 0
    assert planned.stdout.startswith("egress by egress-everything: ")
    live = run(bed.app.command(*sidecar_setup(*question, "--live"), uid=1000, ours=True))
    assert (live.returncode, "needs root" in live.stderr) == (1, True)


def test_without_rules_everything_is_direct(bed: Topology) -> None:
    answer = explained(bed, "--live", "--uid", "1000", "--to", "192.0.2.7:443")
    assert answer == {"verdict": "direct", "rule": None, "because": "there are no rules in its way"}
