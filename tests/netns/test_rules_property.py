"""For random flags and random connections: what the plan says, the kernel does, and so say its rules read back."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from hypothesis import Phase, event, given, settings

from interceptor.config.redirect import Backend, Dns, RedirectSettings
from interceptor.kernel import live_rules, rules
from interceptor.model.connection import Direction
from interceptor.model.record import replace
from interceptor.redirect.rules import FAMILIES, Redirect, Ruleset, Table, Tproxy
from interceptor.redirect.simulate import Connection, Explanation, explain
from tests.support.netns import BRIDGE, GUEST, Namespace, Topology, guest_of, topology
from tests.support.random_rules import FAR, LOOPBACK, OWN, PEER, PORTS, Case, From, cases, flag_sets, read
from tests.support.reporters import connect, listening
from tests.support.resolvers import resolving
from tests.support.tampering import flush

pytestmark = pytest.mark.netns

RULESETS = int(os.environ.get("INTERCEPTOR_RULESETS", "40"))  # to try for each backend
LEAST = 500  # connections of each family in each backend, whatever hypothesis drew
LISTENERS = {"egress": [15001], "ingress": [15006], "dns": [15053]}
DATAGRAMS = (53, 443)  # ports at which resolvers answer


@dataclass(frozen=True)
class Bed(Topology):
    """The app, its peer, and a guest behind the app's vnet0; every address answers at every port."""

    guest: Namespace
    source_ports: Iterator[
        int
    ]  # each once: a datagram from a port used before may meet what conntrack remembers

    def place(self, case: Case) -> Namespace:
        return {From.APP: self.app, From.PEER: self.peer, From.GUEST: self.guest}[case.by]


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with topology() as made, guest_of(made) as guest, ExitStack() as stack:
        for address in FAR:
            made.peer.run("ip", "addr", "add", address, "dev", "lo")
        # A refusal by ICMP is an answer here, and there are many of them.
        made.app.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        made.app.run("sysctl", "-qw", "net.ipv4.icmp_msgs_per_sec=1000000", check=False)  # not in a namespace
        near = (*OWN, *LOOPBACK, *BRIDGE.values())
        stack.enter_context(listening(made.app, {**LISTENERS, "direct": PORTS}))
        stack.enter_context(listening(made.peer, {"direct": PORTS}))
        for where, hosts in ((made.app, near), (made.peer, (*FAR, *PEER))):
            places = itertools.product(hosts, DATAGRAMS)
            stack.enter_context(resolving(where, dict.fromkeys(places, "direct")))
        redirected = (
            "127.0.0.1",
            "::1",
            *BRIDGE.values(),
        )  # a wildcard socket would answer by another address
        stack.enter_context(resolving(made.app, dict.fromkeys(((host, 15053) for host in redirected), "dns")))
        yield Bed(made.app, made.peer, guest, itertools.cycle(range(20000, 60000)))


def described(case: Case) -> Connection:
    """What the rules see of a connection in this topology."""
    host = ip_address(case.attempt.host)
    index = FAMILIES.index(6 if host.version == 6 else 4)
    local = str(host) in {*OWN, *LOOPBACK, *BRIDGE.values()}
    seen = Connection(
        direction=Direction.EGRESS if case.by is From.APP else Direction.INGRESS,
        source=host,
        destination=host,
        port=case.attempt.port,
        interface="lo" if local else "eth0",
        local=local,
        protocol=case.protocol,
    )
    if case.by is From.PEER:
        return replace(seen, source=ip_address(PEER[index]), interface="eth0")
    if case.by is From.GUEST:
        return replace(seen, source=ip_address(list(GUEST.values())[index]), interface="vnet0")
    attempt = case.attempt
    return replace(
        seen,
        source=host if local else ip_address(OWN[index]),
        uid=attempt.uid,
        gid=attempt.gid,
        groups=frozenset(attempt.groups),
        mark=attempt.mark,
    )


def in_the_kernel(bed: Bed, asked: list[Case]) -> list[str]:
    """Make the connections, and name who answered each."""
    answers = {}
    for by in From:
        mine = [case.attempt._replace(source_port=next(bed.source_ports)) if case.attempt.protocol == "udp" else case.attempt
                for case in asked if case.by is by]  # fmt: skip
        place = next((bed.place(case) for case in asked if case.by is by), bed.app)
        answers[by] = iter(connect(place, mine))
    return [next(answers[case.by]).listener for case in asked]


def who_answers(ruleset: Ruleset, found: Explanation, case: Case, asked: RedirectSettings) -> str:
    """The listener that a verdict leads to."""
    if found.verdict == "rejected":
        return "refused"
    verdicts = {rule.id: rule.verdict for chain in ruleset.chains for rule in chain.rules}
    verdict = verdicts.get(found.rule or "")
    if isinstance(verdict, Redirect | Tproxy):
        return {asked.ingress_port: "ingress", asked.egress_port: "egress", asked.dns_port: "dns"}[
            verdict.port
        ]
    return next((name for name, ports in LISTENERS.items() if case.attempt.port in ports), "direct")


def test_what_the_plan_says_the_kernel_does(bed: Bed, backend: Backend) -> None:
    tried: Counter[int] = Counter()

    # What fails is told connection by connection: making it smaller would take minutes and tell no more.
    @settings(max_examples=RULESETS, phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(flags=flag_sets(backend), asked=cases)
    def hold(flags: dict[str, list[str]], asked: list[Case]) -> None:
        wanted = read(flags)
        ruleset = rules.apply(wanted, bed.app.path, backend=backend).ruleset
        assert rules.apply(wanted, bed.app.path, backend=backend, dry_run=True).outcome == "unchanged"
        compare(bed, ruleset, asked, wanted)
        if wanted.strict:  # then also after a third party's flush, when only the guard is left
            for family in FAMILIES:
                flush(bed.app, backend, family)
            left = replace(
                ruleset, chains=tuple(chain for chain in ruleset.chains if chain.table is not Table.NAT)
            )
            compare(bed, left, asked, wanted)
        tried.update(described(case).family for case in asked)

    hold()
    assert tried[4] >= LEAST
    assert tried[6] >= LEAST
    rules.remove(bed.app.path)


def in_a_set(rule: str) -> str:
    """The one rule of nftables that stands for several of the plan's which differ in their network."""
    kind, _, network = rule.rpartition("-")
    return f"{kind}s-v{6 if ':' in network else 4}"


def compare(bed: Bed, ruleset: Ruleset, asked: list[Case], wanted: RedirectSettings) -> None:
    connections = [described(case) for case in asked]
    said = [explain(ruleset, connection) for connection in connections]
    expected = [who_answers(ruleset, found, case, wanted) for found, case in zip(said, asked, strict=True)]
    wrong = [
        (case, did, wants)
        for case, did, wants in zip(asked, in_the_kernel(bed, asked), expected, strict=True)
        if did != wants
    ]
    assert not wrong
    read_back = live_rules.explain(bed.app.path, connections, wanted)
    misread = [
        each for each in zip(asked, said, read_back, strict=True) if each[1].verdict != each[2].verdict
    ]
    assert not misread
    for found, back in zip(said, read_back, strict=True):
        assert "cannot read" not in back.because
        event(
            f"{found.verdict}{' of a name query' if wanted.dns is Dns.CAPTURE and found.rule and 'dns' in found.rule else ''}"
        )
        if found.verdict != "direct":
            assert back.rule in {found.rule, in_a_set(found.rule or "")}
