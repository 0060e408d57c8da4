"""The nft program missing, too old, or saying what it should not."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import netlink, nftables
from interceptor.redirect.foreign import Presence
from interceptor.redirect.rules import Ruleset


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only nft is looked for; netlink does not tell what there is."""

    def refuse() -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(netlink, "nftables", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nftables, "_PATH", "/bin")
    return tmp_path / "nft"


def say(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_missing_program(program: Path) -> None:
    with pytest.raises(KernelError, match=r"'nft' is missing; install it with 'apt install nftables'"):
        nftables._need_recent_program()


@pytest.mark.parametrize("printed", ["nftables v0.9.8 (E.D.S.)", "nftables v1.0 (x)", "busybox"])
def test_a_program_that_is_too_old_or_another(program: Path, printed: str) -> None:
    say(program, f"echo '{printed}'")
    with pytest.raises(KernelError, match=r"too old or not nftables'.*1\.0\.2 is needed: update nftables"):
        nftables._need_recent_program()


@pytest.mark.parametrize(
    "printed", ["nftables v1.0.2 (Lester Gooch)", "nftables v1.1 (x)", "nftables v2.0.0"]
)
def test_a_program_that_is_recent_enough(program: Path, printed: str) -> None:
    say(program, f"echo '{printed}'")
    nftables._need_recent_program()


def test_a_kernel_without_nftables_has_no_rules(program: Path) -> None:
    say(program, "echo 'Unable to initialize Netlink socket: Protocol not supported' >&2; exit 1")
    assert nftables._look() == Presence(ours=False, foreign=(), ipv6_nat=True)
    assert not nftables._compare(Ruleset("", ())).needed


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'netlink: Error: cache initialization failed: Operation not permitted' >&2; exit 1",
            "CAP_NET_ADMIN",
        ),
        ("echo 'Error: odd' >&2; exit 1", r"\(odd\); 'nft list ruleset' shows"),
        ("echo odd >&2; exit 1", r"\(odd\)"),
        ("exit 3", r"\(exit status 3\)"),
        ("echo '{'", "printed what is no JSON"),
        ("echo '{}'", "printed what is no JSON"),
    ],
)
def test_a_program_that_fails(program: Path, script: str, says: str) -> None:
    say(program, script)
    with pytest.raises(KernelError, match=says):
        nftables._look()
