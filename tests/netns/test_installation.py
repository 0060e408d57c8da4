"""What goes with the rules on a real kernel: draining, older connections, live flows, the state file."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from interceptor.config.redirect import RedirectSettings
from interceptor.kernel import child, connections, conntrack, installation, rules
from interceptor.model.connection import Direction
from interceptor.redirect.existing import Ends
from interceptor.redirect.rules import Family
from tests.support.netns import Topology, topology
from tests.support.processes import interceptor, run, sidecar_setup, started, wait_until

pytestmark = pytest.mark.netns

STATE = Path("/run/interceptor")


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        own = STATE / f"{made.app.path.stat().st_ino}.json"  # the others are of namespaces of other tests
        yield made
        rules.remove(made.app.path)
        assert run(sidecar_setup("remove", "--netns", made.app.name)).returncode == 0
        assert not own.exists()


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def setup(bed: Topology, *argv: str) -> str:
    """Run ``sidecar-setup`` and return all it said."""
    result = run(sidecar_setup(*argv, "--netns", bed.app.name))
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@contextmanager
def connected(
    bed: Topology, family: Family, port: int, through: int | None = None
) -> Iterator[list[socket.socket]]:
    """A connection from the app to the peer, both its ends; ``through`` is the app's port it is redirected to."""
    inet = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as stack:
        where, host = (bed.app, "") if through else (bed.peer, bed.peer.address(family))
        server = stack.enter_context(
            where.call(lambda: socket.create_server((host, through or port), family=inet))
        )
        server.settimeout(10)
        client = stack.enter_context(bed.app.call(lambda: socket.socket(inet)))
        client.settimeout(10)
        client.connect((bed.peer.address(family), port))
        accepted = stack.enter_context(server.accept()[0])
        accepted.settimeout(10)
        yield [client, accepted]


def works(ends: list[socket.socket]) -> bool:
    client, accepted = ends
    client.sendall(b"ping")
    return accepted.recv(4) == b"ping"


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_drain_waits_for_a_redirected_connection_and_tells(
    bed: Topology, family: Family, backend: str
) -> None:
    setup(bed, "apply", "--backend", backend)
    with ExitStack() as stack:
        ends = stack.enter_context(connected(bed, family, 80, through=15001))
        removal = stack.enter_context(
            started(sidecar_setup("remove", "--netns", bed.app.name, "--drain", "60"))
        )
        assert removal.stderr
        assert removal.stderr.readline().startswith("draining: redirected connections left: 1, at most ")
        assert works(ends)  # unhooked, and alive
        with pytest.raises(ConnectionRefusedError):  # a new one goes its own way, where nobody listens
            bed.app.call(lambda: socket.create_connection((bed.peer.address(family), 80), timeout=5))
        assert rules.status(bed.app.path).chains
        for end in ends:
            end.close()
        assert removal.stderr.readline().startswith("draining: redirected connections left: 0")
        assert removal.wait(30) == 0
    assert not rules.status(bed.app.path).chains


@contextmanager
def taken(bed: Topology, family: Family) -> Iterator[list[socket.socket]]:
    """A connection from the peer to the app's port 80 that TPROXY brings to a listener at 15006, both its ends."""
    inet = socket.AF_INET if family == 4 else socket.AF_INET6
    option = (
        (socket.SOL_IP, 19) if family == 4 else (socket.IPPROTO_IPV6, 75)
    )  # IP_TRANSPARENT, IPV6_TRANSPARENT

    def listen() -> socket.socket:
        made = socket.socket(inet)
        made.setsockopt(*option, 1)
        made.bind(("", 15006))
        made.listen()
        made.settimeout(10)
        return made

    with bed.app.call(listen) as proxy:
        address = (bed.app.address(family), 80)
        client = bed.peer.call(lambda: socket.create_connection(address, timeout=10))
        accepted, _ = proxy.accept()
        accepted.settimeout(10)
        with client, accepted:
            yield [client, accepted]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_tproxy_takes_is_counted_and_waited_for(bed: Topology, family: Family, backend: str) -> None:
    setup(bed, "apply", "--backend", backend, "--mode", "tproxy")
    with ExitStack() as stack:
        app = bed.app.call(
            lambda: socket.create_server(("", 80), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        stack.enter_context(app)
        ends = stack.enter_context(taken(bed, family))
        assert installation.live_flows(bed.app.path)[0] == {Direction.INGRESS: 1, Direction.EGRESS: 0}
        again = setup(bed, "apply", "--backend", backend, "--mode", "tproxy", "--existing", "reset")
        assert again.startswith("unchanged")
        assert "opened before" not in again  # it is not older than the rules: they took it
        removal = stack.enter_context(
            started(sidecar_setup("remove", "--netns", bed.app.name, "--drain", "60"))
        )
        assert removal.stderr
        assert removal.stderr.readline().startswith("draining: redirected connections left: 1, at most ")
        assert works(ends)
        address = (bed.app.address(family), 80)
        with bed.peer.call(lambda: socket.create_connection(address, timeout=5)) as direct:
            app.settimeout(10)
            accepted, _ = app.accept()  # a new one reaches the app
            with accepted:
                assert works([direct, accepted])
        for end in ends:
            end.close()
        assert removal.stderr.readline().startswith("draining: redirected connections left: 0")
        assert removal.wait(30) == 0
    assert not rules.status(bed.app.path).chains


def test_drain_ends_with_its_time(bed: Topology) -> None:
    setup(bed, "apply")
    with connected(bed, 4, 80, through=15001):
        said = setup(bed, "remove", "--drain", "0.3")
    assert "Warning: the time is over; redirected connections cut off: 1." in said
    assert "removed" in said


def test_an_interrupted_drain_removes_at_once(bed: Topology) -> None:
    setup(bed, "apply")
    with connected(bed, 4, 80, through=15001):
        with started(sidecar_setup("remove", "--netns", bed.app.name, "--drain", "600")) as removal:
            assert removal.stderr
            assert removal.stderr.readline().startswith("draining: redirected connections left: 1")
            removal.send_signal(signal.SIGINT)
            assert "the wait was interrupted" in removal.stderr.readline()
            assert removal.wait(30) == 0
    assert not rules.status(bed.app.path).chains


def test_a_drain_without_flows_or_rules_is_over_at_once(bed: Topology) -> None:
    setup(bed, "apply")
    assert "removed" in setup(bed, "remove", "--drain", "600")
    assert "nothing was installed" in setup(bed, "remove", "--drain", "600")


def test_status_counts_live_flows_by_direction(bed: Topology, family: Family) -> None:
    setup(bed, "apply", "--egress-port", "16001")
    assert "Live redirected connections: 0 ingress, 0 egress." in setup(bed, "status")
    with connected(bed, family, 80, through=16001):
        assert json.loads(setup(bed, "status", "--output", "json"))["live"] == {"ingress": 0, "egress": 1}
    wait_until(
        lambda: installation.live_flows(bed.app.path)[0] == {Direction.INGRESS: 0, Direction.EGRESS: 0},
        "the closed flow is no longer counted",
    )


def tracking(bed: Topology) -> None:
    """Conntrack at work before the rules are: then what is open already bypasses them."""
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        bed.app.run(tool, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW")


def test_an_older_connection_bypasses_and_is_told(bed: Topology, family: Family) -> None:
    tracking(bed)
    with connected(bed, family, 80) as ends:
        said = setup(bed, "apply")
        assert "Warning: 1 connection opened before the rules bypass the proxy (" in said
        assert "--existing reset ends them" in said
        assert works(ends)


def test_an_older_connection_is_reset_when_asked(bed: Topology, family: Family) -> None:
    tracking(bed)
    with connected(bed, family, 80) as ends:
        said = setup(bed, "apply", "--existing", "reset")
        assert "1 connection opened before the rules bypassed the proxy and were reset" in said
        with pytest.raises(ConnectionAbortedError):
            ends[0].recv(1)
        with pytest.raises(ConnectionResetError):
            ends[1].recv(1)
    assert "opened before" not in setup(bed, "apply")


def test_an_older_ingress_connection_is_reset_when_asked(bed: Topology, family: Family) -> None:
    inet = socket.AF_INET if family == 4 else socket.AF_INET6
    tracking(bed)
    server = bed.app.call(lambda: socket.create_server(("", 8080), family=inet))
    client = bed.peer.call(lambda: socket.create_connection((bed.app.address(family), 8080)))
    with server, client, server.accept()[0] as accepted:
        assert "1 connection opened before" in setup(bed, "apply", "--existing", "reset")
        with pytest.raises(ConnectionAbortedError):
            accepted.recv(1)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_dual_stack_programs_ipv4_connection_is_reset_too(bed: Topology) -> None:
    tracking(bed)
    server = bed.peer.call(lambda: socket.create_server((bed.peer.v4, 80)))
    client = bed.app.call(lambda: socket.socket(socket.AF_INET6))
    with server, client:
        client.connect((f"::ffff:{bed.peer.v4}", 80))
        assert "1 connection opened before" in setup(bed, "apply", "--existing", "reset")
        with pytest.raises(ConnectionAbortedError):
            client.recv(1)


@pytest.mark.parametrize(
    "flags",
    [("--exclude-egress-ports", "80"), ("--exclude-egress-cidrs", "10.9.0.0/24"), ("--exclude-gids", "0")],
)
def test_what_the_rules_would_not_capture_is_left_alone(bed: Topology, flags: tuple[str, ...]) -> None:
    tracking(bed)
    with connected(bed, 4, 80) as ends:
        assert "opened before" not in setup(bed, "apply", "--existing", "reset", *flags)
        assert works(ends)


def test_a_redirected_connection_is_not_taken_for_an_older_one(bed: Topology, family: Family) -> None:
    setup(bed, "apply")
    with connected(bed, family, 80, through=15001) as ends:
        assert "opened before" not in setup(bed, "apply", "--existing", "reset")
        assert works(ends)


def test_a_forgotten_entry_ends_the_connection_with_its_next_packet(bed: Topology, family: Family) -> None:
    """What stands in for the reset where the kernel cannot destroy sockets."""
    tracking(bed)
    with connected(bed, family, 80) as ends:
        rules.apply(RedirectSettings(), bed.app.path)
        client, _ = ends
        here, there = client.getsockname(), client.getpeername()
        child.call(bed.app.path, conntrack.forget, family, Ends(here[0], here[1], there[0], there[1]))
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_the_state_file_tells_the_proxy_that_the_ports_differ(bed: Topology) -> None:
    setup(bed, "apply", "--egress-port", "16001")
    file = STATE / f"{bed.app.path.stat().st_ino}.json"
    told = json.loads(file.read_text())
    assert (told["egress_port"], told["proxy_uids"], told["place"]["inode"]) == (
        16001,
        [1337],
        bed.app.path.stat().st_ino,
    )
    result = run(interceptor("proxy", "--netns", bed.app.name))
    assert result.returncode == 2
    assert "spec.egress.port is 15001, but the installed rules lead egress to port 16001" in result.stderr
    setup(bed, "remove")
    assert not file.exists()


def test_the_state_file_tells_the_proxy_that_the_mode_differs(bed: Topology) -> None:
    setup(bed, "apply", "--mode", "tproxy")
    result = run(interceptor("proxy", "--netns", bed.app.name))
    assert result.returncode == 2
    assert "spec.ingress.mode is REDIRECT, but the installed rules bring ingress by TPROXY" in result.stderr


def test_the_state_file_tells_the_proxy_that_it_would_be_captured(bed: Topology) -> None:
    setup(bed, "apply", "--proxy-uid", "4711")
    result = run(interceptor("proxy", "--netns", bed.app.name))
    assert result.returncode == 2
    assert "the installed rules leave alone uid 4711" in result.stderr
    result = run(bed.app.command(*interceptor("proxy"), uid=1000, ours=True))
    assert (result.returncode, "would run as uid 1000" in result.stderr) == (2, True)


def test_another_namespaces_file_is_not_believed(bed: Topology) -> None:
    setup(bed, "apply", "--egress-port", "16001")
    file = STATE / f"{bed.app.path.stat().st_ino}.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "place": {**told["place"], "cookie": told["place"]["cookie"] + 1}}))
    with started(interceptor("proxy", "--netns", bed.app.name)) as proxy:
        assert proxy.stderr
        assert "ready" in next(line for line in proxy.stderr if "ready" in line)


@pytest.mark.parametrize("lock", ["/run/xtables.lock", "/run/nobody-can-make.lock"])
def test_a_read_only_run_is_a_warning_only(bed: Topology, lock: str) -> None:
    Path("/run/xtables.lock").touch()
    script = 'mount --rbind /run /run && mount -o remount,bind,ro /run && XTABLES_LOCKFILE=$0 exec "$@"'
    apply = sidecar_setup("apply", "--netns", bed.app.name)
    result = run(["unshare", "--mount", "sh", "-c", script, lock, *apply])
    assert result.returncode == 0, result.stderr
    assert "cannot be written (Read-only file system)" in result.stderr
    assert rules.status(bed.app.path).chains


def test_nothing_is_older_in_an_empty_namespace(bed: Topology) -> None:
    applied = rules.apply(RedirectSettings(), bed.app.path)
    assert connections.existing(bed.app.path, applied.ruleset, {15001, 15006}, reset=True) == ((), 0)
