"""``sidecar-setup doctor`` on a real machine: it sees what is wrong, and its remedies work."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from interceptor.config.redirect import RedirectSettings
from interceptor.kernel import rules
from interceptor.redirect.kernel_features import FEATURES, FILTER
from tests.support.netns import Topology, topology
from tests.support.processes import interceptor, listens, run, sidecar_setup, started, wait_until

pytestmark = pytest.mark.netns


@pytest.fixture
def bed() -> Iterator[Topology]:
    with topology() as made:
        yield made


def findings(bed: Topology, *flags: str) -> dict[str, str]:
    """What was found, with its remedy; of the namespace, not of the machine around it."""
    result = run(sidecar_setup("doctor", "--no-kernel", "--netns", bed.app.name, "--output", "json", *flags))
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    problems = any(finding["severity"] == "problem" for finding in report["findings"])
    assert (result.returncode, report["ok"]) == ((3, False) if problems else (0, True))
    assert report["unseen"] == []
    return {finding["what"]: finding["remedy"] for finding in report["findings"]}


def remedy(bed: Topology, beginning: str, *flags: str) -> str:
    """The remedy of the one finding that begins so."""
    (found,) = [what for what in findings(bed, *flags).items() if what[0].startswith(beginning)]
    return found[1]


def found(bed: Topology, beginning: str, *flags: str) -> bool:
    return any(what.startswith(beginning) for what in findings(bed, *flags))


def test_with_the_proxy_running_and_the_rules_on_there_is_no_problem(bed: Topology) -> None:
    assert remedy(bed, "nobody listens on ingress") == "start the proxy: 'interceptor proxy'"
    rules.apply(RedirectSettings(), bed.app.path)
    with started(interceptor("proxy", "--netns", bed.app.name)):
        wait_until(listens(bed.app, "127.0.0.1", 15001), "the proxy listens")
        result = run(sidecar_setup("doctor", "--netns", bed.app.name))
    assert result.returncode == 0, result.stdout
    assert "nobody listens" not in result.stdout


@pytest.mark.parametrize(
    ("argv", "beginning"),
    [
        (("sysctl", "-qw", "net.ipv4.ip_local_port_range=15000 61000"), "the proxy's ports 15000, 15001"),
        (("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40100"), "there are 101 ephemeral ports"),
        (
            (
                "iptables-legacy",
                "-t",
                "nat",
                "-A",
                "OUTPUT",
                "-p",
                "tcp",
                "-j",
                "REDIRECT",
                "--to-ports",
                "9",
            ),
            "legacy IPv4 nat OUTPUT has a redirect of another program",
        ),
        (
            ("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "DNAT", "--to", "10.9.0.1:9"),
            "nft ip nat OUTPUT has a redirect of another program",
        ),
    ],
)
def test_remedies_that_are_commands_work(bed: Topology, argv: tuple[str, ...], beginning: str) -> None:
    assert not found(bed, beginning)
    bed.app.run(*argv)
    told = remedy(bed, beginning)
    bed.app.run(*shlex.split(told.partition(" or by '")[2].removesuffix("'") or told))
    assert not found(bed, beginning)


def redirect(bed: Topology, tool: str, port: str) -> None:
    rule = ("-p", "tcp", "--dport", port, "-j", "REDIRECT", "--to-ports", "9")
    bed.app.run(tool, "-t", "nat", "-I", "OUTPUT", *rule)


@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_another_programs_redirect_is_told_once(bed: Topology, tool: str, backend: str) -> None:
    redirect(bed, tool, "9999")
    assert run(sidecar_setup("apply", "--netns", bed.app.name, "--backend", backend)).returncode == 0
    redirect(bed, tool, "9998")
    about = [what for what in findings(bed) if "redirect" in what.lower() and "nobody" not in what]
    assert len(about) == 1, about


def test_another_mesh_is_a_problem(bed: Topology) -> None:
    for command in (
        "-N ISTIO_REDIRECT",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A OUTPUT -p tcp -j ISTIO_REDIRECT",
    ):
        bed.app.run("iptables-legacy", "-t", "nat", *command.split())
    assert found(bed, "legacy IPv4 nat ISTIO_REDIRECT has the rules of another mesh")


def test_half_of_the_rules_is_a_problem_that_apply_puts_right(bed: Topology) -> None:
    rules.apply(RedirectSettings(), bed.app.path)
    bed.app.run("iptables-legacy", "-t", "nat", "-F", "OUTPUT")
    beginning = "IPv4 nat INTERCEPTOR_EGRESS is not hooked in"
    assert remedy(bed, beginning) == "run 'sidecar-setup apply'"
    assert run(sidecar_setup("apply", "--netns", bed.app.name)).returncode == 0
    assert not found(bed, beginning)


@contextmanager
def listening(bed: Topology, host: str, uid: int) -> Iterator[None]:
    """A foreign proxy on the ingress port."""
    script = f"import socket,sys; s=socket.create_server(('{host}',15006)); print('up',flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with bed.app.popen("/usr/bin/python3", "-c", script, uid=uid, **pipes) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "up\n"
        yield
        process.stdin.close()


def test_an_ingress_listener_on_loopback_is_a_problem(bed: Topology) -> None:
    beginning = "the ingress listener on port 15006 is bound to 127.0.0.1"
    with listening(bed, "127.0.0.1", 1337):
        assert remedy(bed, beginning) == "make the proxy listen on every address: bind [::]:15006"
    with listening(bed, "0.0.0.0", 1337):
        assert not found(bed, beginning)


def test_a_proxy_of_another_uid_is_a_problem(bed: Topology) -> None:
    beginning = "the ingress listener belongs to uid 1000"
    with listening(bed, "0.0.0.0", 1000):
        assert remedy(bed, beginning).endswith("give --proxy-uid 1000")
        assert not found(bed, beginning, "--proxy-uid", "1000")


def test_a_program_that_runs_as_the_proxys_uid_is_a_problem(bed: Topology) -> None:
    with bed.app.popen("cat", uid=4711, stdin=subprocess.PIPE) as stranger:
        wait_until(lambda: found(bed, "process ", "--proxy-uid", "4711"), "cat is seen")
        assert stranger.stdin
        assert f"process {stranger.pid} (cat)" in str(findings(bed, "--proxy-uid", "4711"))
        stranger.stdin.close()
    assert not found(bed, "process ", "--proxy-uid", "4711")


def test_what_listens_elsewhere_is_not_taken_for_the_proxy(bed: Topology) -> None:
    elsewhere = bed.peer.call(lambda: socket.create_server(("", 15006)))
    with elsewhere:
        assert found(bed, "nobody listens on ingress")


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_tproxy_has_the_routes_it_needs_where_it_is_tried(bed: Topology, backend: str) -> None:
    flags = ("--mode", "tproxy", "--dns", "capture", "--backend", backend)
    assert not found(bed, "the rules cannot be installed", *flags)


def test_it_tries_everything_that_the_gateway_asks_of_a_kernel(bed: Topology) -> None:
    assert kernel(bed) == {each.name: "expected" if each is FILTER else "works" for each in FEATURES}


def test_what_cannot_be_had_is_told_with_what_it_is_for(bed: Topology) -> None:
    without_extensions = kernel(bed, XTABLES_LIBDIR="/nowhere")
    refused = {name for name, has in without_extensions.items() if has == "refused"}
    assert refused == {each.name for each in FEATURES if each.name.startswith("iptables-legacy")}


def kernel(bed: Topology, **environment: str) -> dict[str, str]:
    words = [f"{name}={value}" for name, value in environment.items()]
    result = bed.app.run("env", *words, *sidecar_setup("doctor", "--output", "json"), check=False)
    return {each["name"]: each["has"] for each in json.loads(result.stdout)["kernel"]["features"]}


def test_without_root_it_says_what_it_could_not_see(bed: Topology) -> None:
    result = run(bed.app.command(*sidecar_setup("doctor"), uid=1000, ours=True))
    assert result.returncode == 3
    assert "problem: this process lacks CAP_NET_ADMIN" in result.stdout
    assert "not seen: the rules of other programs" in result.stdout
    assert "Traceback" not in result.stderr


def test_it_makes_no_table(bed: Topology) -> None:
    findings(bed)
    for names in ("ip_tables_names", "ip6_tables_names"):
        assert bed.app.run("cat", f"/proc/net/{names}").stdout == ""
    assert bed.app.run("nft", "list", "ruleset").stdout == ""
