"""sidecar-setup as a user types it, on a real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace, namespace

pytestmark = pytest.mark.netns

MAIN = "from interceptor.cli.sidecar_setup import main; main()"


@pytest.fixture
def app() -> Iterator[Namespace]:
    with namespace("cli") as made:
        yield made


def sidecar_setup(*arguments: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_from_install_to_removal(app: Namespace) -> None:
    def first_line(*arguments: str) -> str:
        status, output, errors = sidecar_setup(*arguments, "--netns", app.name)
        assert (status, errors) == (0, "")
        return output.splitlines()[0].partition(":")[0]

    assert first_line("status") == "Not installed."
    assert first_line("apply", "--dry-run") == "would be installed"
    assert first_line("apply") == "installed"
    assert first_line("apply") == "unchanged"
    assert first_line("apply", "--exclude-uids", "7") == "updated"
    assert first_line("status") == "Installed"
    assert first_line("remove") == "removed"
    assert first_line("remove") == "nothing was installed"


def test_status_for_programs(app: Namespace) -> None:
    sidecar_setup("apply", "--netns", app.name)
    status, output, _ = sidecar_setup("status", "--netns", app.name, "--output", "json")
    form = json.loads(output)
    assert (status, form["installed"], form["warnings"]) == (0, True, [])
    assert {family: form["families"][family]["installed"] for family in "46"} == {"4": True, "6": True}
    assert form["families"]["6"]["chains"][0]["hook"] == "OUTPUT"


def test_a_namespace_by_path_and_by_process(app: Namespace) -> None:
    assert sidecar_setup("apply", "--netns", str(app.path))[0] == 0
    sleeper = app.popen("sleep", "60")
    try:
        # 'ip netns exec' is still entering the namespace until the process is 'sleep'.
        while Path("/proc", str(sleeper.pid), "comm").read_text() != "sleep\n":
            assert sleeper.poll() is None
        status, output, _ = sidecar_setup("apply", "--netns", str(sleeper.pid))
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (status, output.partition(":")[0]) == (0, "unchanged")


def test_a_file_that_is_no_namespace(app: Namespace) -> None:
    status, output, errors = sidecar_setup("apply", "--netns", "/dev/null")
    assert (status, output) == (1, "")
    assert errors.startswith("sidecar-setup: cannot enter the network namespace /dev/null")


def test_the_ruleset_that_is_printed_is_one_that_iptables_takes(app: Namespace) -> None:
    """And what iptables makes of it is what apply would have made: nothing is left to change."""
    _, text, _ = sidecar_setup(
        "plan", "--output", "iptables", "--exclude-egress-cidrs", "10.0.0.0/8,fd00::/8"
    )
    v4, v6 = text.split("# IPv6:")
    for tool, rules in (("iptables-legacy-restore", v4), ("ip6tables-legacy-restore", f"# {v6}")):
        subprocess.run(app.command(tool, "--noflush"), input=rules, text=True, check=True)
    status, output, _ = sidecar_setup(
        "apply", "--netns", app.name, "--exclude-egress-cidrs", "10.0.0.0/8,fd00::/8"
    )
    assert (status, output.partition(":")[0]) == (0, "unchanged")


def with_capabilities(where: Namespace, kept: str, *arguments: str) -> tuple[int, str, str]:
    """Run it inside a namespace as root with these capabilities and no other."""
    limited = ("setpriv", f"--bounding-set=-all,{kept}", sys.executable, "-c", MAIN, *arguments)
    ended = where.run(*limited, check=False, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


def test_an_init_containers_capabilities_are_enough(app: Namespace) -> None:
    for command in ("apply", "status", "remove"):
        status, _, errors = with_capabilities(app, "+net_admin,+net_raw", command)
        assert (status, errors) == (0, "")
    assert "INTERCEPTOR" not in app.save(4) + app.save(6)


def test_missing_capabilities_are_named_and_nothing_is_changed(app: Namespace) -> None:
    status, output, errors = with_capabilities(app, "+net_raw", "apply")
    assert (status, output) == (1, "")
    assert "give this process CAP_NET_ADMIN and CAP_NET_RAW" in errors
    assert "INTERCEPTOR" not in app.save(4) + app.save(6)
