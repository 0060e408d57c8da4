"""For random flags and random connections: what the ruleset says is what the kernel does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, event, given, settings, strategies as st

from interceptor.config.redirect import Backend, from_command_line
from interceptor.config.redirect_flags import parse
from interceptor.kernel import rules
from interceptor.kernel.users import NAMES
from interceptor.model.connection import Direction
from interceptor.redirect.rules import Ruleset
from interceptor.redirect.simulate import Connection, explain
from tests.support.netns import Topology, topology
from tests.support.reporters import Attempt, connect, listening

pytestmark = pytest.mark.netns

PORTS = [80, 81, 443, 8080, 15020]
FAR = ["192.0.2.7", "198.51.100.9", "2001:db8::7", "2001:db9::9"]  # on the peer, behind the default route
PEER = ["10.9.0.1", "fd09::1"]
OWN = ["10.9.0.2", "fd09::2"]
LOOPBACK = ["127.0.0.1", "127.0.0.53", "::1"]

port_lists = st.lists(
    st.sampled_from(["80", "81", "80-81", "79-90", "443", "8000-8100", "15020", "1-65535"]),
    min_size=1,
    max_size=3,
)
cidr_lists = st.lists(
    st.sampled_from(
        [
            *(
                "10.9.0.0/24",
                "10.9.0.1",
                "192.0.2.0/24",
                "192.0.2.7",
                "198.51.100.0/25",
                "0.0.0.0/0",
                "127.0.0.0/8",
            ),
            *("fd09::/64", "fd09::1", "2001:db8::/32", "2001:db8::7", "2001::/16", "::/0", "::1"),
        ]
    ),
    min_size=1,
    max_size=3,
)
ids = st.lists(st.sampled_from(["0", "7", "1000", "1001", "1000650000"]), min_size=1, max_size=2)
proxy_ids = st.lists(st.sampled_from(["7", "1337", "1001"]), min_size=1, max_size=2)
flag_sets = st.fixed_dictionaries(
    {"ipv6": st.sampled_from([["on"], ["block"], ["off"]])},
    optional={
        "proxy-uid": proxy_ids,
        "proxy-gid": proxy_ids,
        "proxy-mark": st.sampled_from([["0x539"], ["0x39/0xff"]]),
        "include-ingress-ports": port_lists,
        "exclude-ingress-ports": port_lists,
        "include-egress-ports": port_lists,
        "exclude-egress-ports": port_lists,
        "include-egress-cidrs": cidr_lists,
        "exclude-egress-cidrs": cidr_lists,
        "exclude-ingress-cidrs": cidr_lists,
        "exclude-uids": ids,
        "exclude-gids": ids,
        "exclude-interfaces": st.sampled_from([["eth0"], ["eth+"], ["lo"], ["et"], ["nope0"]]),
    },
)


class Case(NamedTuple):
    """A connection to make and its direction."""

    direction: Direction
    attempt: Attempt


egress = st.builds(
    lambda host, port, uid, gid, mark: Case(Direction.EGRESS, Attempt(host, port, uid, gid, mark)),
    st.sampled_from([*FAR, *FAR, *PEER, *OWN, *LOOPBACK]),
    st.sampled_from(PORTS),
    st.sampled_from([0, 7, 1000, 1000, 1001, 1337, 1000650000]),
    st.sampled_from([0, 7, 1000, 1000, 1337]),
    st.sampled_from([0, 0, 0x539, 0x139]),
)
ingress = st.builds(
    lambda host, port: Case(Direction.INGRESS, Attempt(host, port)),
    st.sampled_from(OWN),
    st.sampled_from(PORTS),
)


@pytest.fixture(scope="module", params=Backend, ids=lambda backend: backend.value)
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found


@pytest.fixture(scope="module")
def bed() -> Iterator[Topology]:
    with topology() as made:
        for address in FAR:
            made.peer.run("ip", "addr", "add", address, "dev", "lo")
        with (
            listening(made.app, {"egress": [15001], "ingress": [15006], "direct": PORTS}),
            listening(made.peer, {"direct": PORTS}),
        ):
            yield made


def described(case: Case) -> Connection:
    """What the rules see of a connection in this topology."""
    host = case.attempt.host
    family_index = 1 if ":" in host else 0
    if case.direction is Direction.INGRESS:
        return Connection(
            direction=case.direction,
            source=ip_address(PEER[family_index]),
            destination=ip_address(host),
            port=case.attempt.port,
            interface="eth0",
            local=True,
        )
    local = host in {*OWN, *LOOPBACK}
    return Connection(
        direction=case.direction,
        source=ip_address(host if local else OWN[family_index]),
        destination=ip_address(host),
        port=case.attempt.port,
        interface="lo" if local else "eth0",
        local=local,
        uid=case.attempt.uid,
        gid=case.attempt.gid,
        mark=case.attempt.mark,
    )


def in_the_kernel(bed: Topology, cases: list[Case]) -> list[str]:
    """Make the connections and name each verdict in the simulator's words."""
    where = {Direction.EGRESS: bed.app, Direction.INGRESS: bed.peer}
    answers = {
        direction: iter(connect(place, [case.attempt for case in cases if case.direction is direction]))
        for direction, place in where.items()
    }
    found = [next(answers[case.direction]).listener for case in cases]
    return ["rejected" if listener == "refused" else listener for listener in found]


def in_the_plan(ruleset: Ruleset, cases: list[Case]) -> list[str]:
    return [explain(ruleset, described(case)).verdict for case in cases]


EXAMPLES = int(os.environ.get("INTERCEPTOR_RULESETS", "60"))  # rule sets to try for each backend
LEAST = 500  # connections of each family in each backend, whatever hypothesis drew


def test_what_the_ruleset_says_is_what_the_kernel_does(bed: Topology, backend: Backend) -> None:
    tried: Counter[int] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(flags=flag_sets, cases=st.lists(egress | ingress, min_size=30, max_size=60))
    def hold(flags: dict[str, list[str]], cases: list[Case]) -> None:
        asked = parse([from_command_line(flags)], NAMES).settings
        ruleset = rules.apply(asked, bed.app.path, backend=backend).ruleset
        assert rules.apply(asked, bed.app.path, backend=backend, dry_run=True).outcome == "unchanged"
        said = in_the_plan(ruleset, cases)
        assert in_the_kernel(bed, cases) == said
        for verdict in Counter(said):
            event(verdict)
        tried.update(6 if ":" in case.attempt.host else 4 for case in cases)

    hold()
    assert tried[4] >= LEAST
    assert tried[6] >= LEAST
    rules.remove(bed.app.path)
