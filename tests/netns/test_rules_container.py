"""Inside containers: few capabilities, an iptables that is nft, the namespace of a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptor.redirect.rules import FAMILIES
from tests.support.netns import Namespace, namespace

pytestmark = pytest.mark.netns

MAIN = "from interceptor.cli.sidecar_setup import main; main()"
NEEDED = {"nft": "+net_admin", "legacy": "+net_admin,+net_raw"}
# A mount namespace of its own, as a container has: there the iptables of the alternatives is nft's.
AS_NFT = """
mount --make-rprivate /
cp -a /etc/alternatives "$1/alternatives"
for tool in iptables ip6tables; do
  for end in "" -save -restore; do ln -sf "/usr/sbin/$tool-nft$end" "$1/alternatives/$tool$end"; done
done
mount --bind "$1/alternatives" /etc/alternatives
shift
exec "$@"
"""


@pytest.fixture
def app() -> Iterator[Namespace]:
    with namespace("ctr") as made:
        yield made


def sidecar_setup(*arguments: str, inside: list[str]) -> tuple[int, str, str]:
    """Run it by way of other programs: those that make the container."""
    ended = subprocess.run(
        [*inside, sys.executable, "-c", MAIN, *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


def rules_of(where: Namespace) -> str:
    return where.save(4) + where.save(6) + where.ruleset()


@pytest.mark.parametrize("backend", NEEDED)
def test_an_init_container(app: Namespace, backend: str) -> None:
    """NET_ADMIN alone for nft, NET_RAW as well for legacy; an empty /run of its own; no new privileges."""
    own_run = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /run; exec "$@"', "sh"]
    limited = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{NEEDED[backend]}"]
    inside = app.command(*own_run, *limited)
    status, output, errors = sidecar_setup("apply", "--backend", backend, inside=inside)
    assert (status, output.partition(":")[0], errors) == (0, "installed", "")
    status, output, _ = sidecar_setup("status", inside=inside)
    assert (status, output.startswith("Installed: ")) == (0, True)
    assert sidecar_setup("apply", "--backend", backend, inside=inside)[1].startswith("unchanged: ")
    assert sidecar_setup("remove", inside=inside)[0] == 0
    assert "INTERCEPTOR" not in app.save(4) + app.save(6)
    assert "interceptor" not in app.ruleset()


def test_an_init_container_without_net_raw_is_told_what_legacy_needs(app: Namespace) -> None:
    before = rules_of(app)
    limited = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_admin"]
    status, output, errors = sidecar_setup("apply", "--backend", "legacy", inside=app.command(*limited))
    assert (status, output) == (1, "")
    assert "CAP_NET_ADMIN and CAP_NET_RAW" in errors
    assert rules_of(app) == before


def test_the_namespace_of_a_process_by_nsenter_and_by_number(app: Namespace) -> None:
    sleeper = subprocess.Popen(["nsenter", f"--net={app.path}", "sleep", "60"])
    try:
        while Path(f"/proc/{sleeper.pid}/ns/net").stat().st_ino != app.path.stat().st_ino:
            assert sleeper.poll() is None
        entered = ["nsenter", f"--target={sleeper.pid}", "--net"]
        assert sidecar_setup("apply", inside=entered)[1].startswith("installed: ")
        assert sidecar_setup("apply", "--netns", str(sleeper.pid), inside=[])[1].startswith("unchanged: ")
        assert sidecar_setup("remove", "--netns", str(sleeper.pid), inside=[])[0] == 0
        assert sidecar_setup("status", inside=entered)[1].startswith("Not installed")
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.fixture
def container(app: Namespace, tmp_path: Path) -> list[str]:
    return ["nsenter", f"--net={app.path}", "unshare", "--mount", "sh", "-ec", AS_NFT, "sh", str(tmp_path)]


def in_container(container: list[str], *argv: str) -> str:
    return subprocess.run([*container, *argv], capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_container_whose_iptables_is_nft(app: Namespace, container: list[str]) -> None:
    """Its nat rules are nft's, so ours are; its own programs go on as before, and get back what they had."""
    assert "nf_tables" in in_container(container, "iptables", "--version")
    for tool in ("iptables", "ip6tables"):
        in_container(
            container, tool, "-t", "nat", "-A", "OUTPUT", "-p", "udp", "--dport", "53", "-j", "RETURN"
        )

    def theirs() -> str:
        saved = [in_container(container, f"{tool}-save") for tool in ("iptables", "ip6tables")]
        return "".join(line for text in saved for line in text.splitlines(True) if not line.startswith("#"))

    before, everything = theirs(), rules_of(app)
    status, output, errors = sidecar_setup("apply", inside=container)
    assert (status, errors) == (0, "")
    assert "The backend is nft: " in output
    assert "table inet interceptor" in app.ruleset()
    assert theirs() == before
    for family in FAMILIES:
        assert app.save(family) == ""  # nothing in the legacy tables: not even a table
    in_container(container, "iptables", "-t", "nat", "-A", "OUTPUT", "-p", "icmp", "-j", "RETURN")
    in_container(container, "iptables", "-t", "nat", "-D", "OUTPUT", "-p", "icmp", "-j", "RETURN")
    assert sidecar_setup("apply", inside=container)[1].startswith("unchanged: ")
    assert sidecar_setup("remove", inside=container)[0] == 0
    assert rules_of(app) == everything


def test_legacy_rules_in_a_container_whose_iptables_is_nft(app: Namespace, container: list[str]) -> None:
    """They are ours to find and to remove there as well, though that container's iptables does not show them."""
    assert sidecar_setup("apply", "--backend", "legacy", inside=container)[1].startswith("installed: ")
    assert "INTERCEPTOR" not in in_container(container, "iptables", "-t", "nat", "-S")
    assert "INTERCEPTOR_EGRESS" in app.save(4)
    output = sidecar_setup("apply", "--backend", "nft", inside=container)[1]
    assert output.startswith("updated: ")
    assert "INTERCEPTOR" not in app.save(4)
    assert sidecar_setup("remove", inside=container)[1].startswith("removed")
