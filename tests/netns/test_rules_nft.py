"""What is particular to our table of nftables: repair whatever was done to it, elements that count, life without nft."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from interceptor.config.redirect import Backend, RedirectSettings
from interceptor.errors import KernelError
from interceptor.kernel import nftables, rules
from tests.support.netns import Namespace, namespace, topology
from tests.support.reporters import Attempt, connect, listening

pytestmark = pytest.mark.netns

NETWORKS = (IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.7/32"))
SETTINGS = RedirectSettings(exclude_egress_cidrs=NETWORKS)


@pytest.fixture
def app() -> Iterator[Namespace]:
    with namespace("nft") as made:
        yield made


def apply(where: Namespace, settings: RedirectSettings = SETTINGS) -> rules.Applied:
    return rules.apply(settings, where.path, backend=Backend.NFT)


SPOILS = {
    "a rule before ours": "insert rule inet interceptor nat_OUTPUT accept",
    "a rule in our chain": "add rule inet interceptor nat_INTERCEPTOR_EGRESS accept",
    "our chain emptied": "flush chain inet interceptor nat_INTERCEPTOR_EGRESS",
    "our jump taken": "flush chain inet interceptor nat_OUTPUT",
    "an element more": "add element inet interceptor egress-exclude-cidrs-v4 { 203.0.113.9 }",
    "an element less": "delete element inet interceptor egress-exclude-cidrs-v4 { 198.51.100.7 }",
    "switched off": "add table inet interceptor { flags dormant; }",
    "a chain of theirs": "add chain inet interceptor theirs; add rule inet interceptor theirs accept",
    "a map to a chain": "add map inet interceptor m { type inet_service : verdict; }; "
    "add element inet interceptor m { 7 : jump nat_INTERCEPTOR_EGRESS }",
    "another policy": "add chain inet interceptor nat_OUTPUT { policy drop; }",
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_whatever_was_spoilt_apply_repairs_and_remove_cleans(app: Namespace, spoil: str) -> None:
    apply(app)
    right = sorted(app.run("nft", "list", "ruleset").stdout.splitlines())
    app.run("nft", SPOILS[spoil])
    assert apply(app).outcome == "updated"
    assert sorted(app.run("nft", "list", "ruleset").stdout.splitlines()) == right
    assert list(rules.status(app.path).warnings()) == []
    app.run("nft", SPOILS[spoil])
    assert rules.remove(app.path).outcome == "removed"
    assert app.ruleset() == ""


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("a rule before ours", "a foreign rule comes before ours: accept"),
        ("a rule in our chain", "holds a rule that is not ours"),
        ("our jump taken", "is not hooked in"),
        ("an element more", "holds a rule that is not ours"),
        ("switched off", "is not hooked in"),
    ],
)
def test_status_tells_what_was_spoilt(app: Namespace, spoil: str, says: str) -> None:
    apply(app)
    assert list(rules.status(app.path).warnings()) == []
    app.run("nft", SPOILS[spoil])
    assert any(says in warning for warning in rules.status(app.path).warnings())


def test_each_network_of_a_set_is_counted_as_a_rule() -> None:
    with topology() as bed:
        bed.peer.run("ip", "addr", "add", "192.0.2.9", "dev", "lo")
        with listening(bed.peer, {"direct": [80]}):
            apply(bed.app)
            assert connect(bed.app, [Attempt("192.0.2.9", 80)] * 3)[0].listener == "direct"
        counted = {
            hits.tag.rule: hits.packets
            for chain in rules.status(bed.app.path).of(4)
            for hits in chain.rules
            if hits.tag
        }
    assert counted["egress-exclude-cidr-192.0.2.0/24"] == 3
    assert counted["egress-exclude-cidr-198.51.100.7/32"] == 0


def test_without_nft_a_table_of_ours_is_not_overlooked(
    app: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def without_nft() -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(nftables, "_PATH", str(tmp_path))

    apply(app)
    before = app.ruleset()
    without_nft()
    for act in (rules.remove, rules.status):
        with pytest.raises(KernelError, match=r"rules of ours are in nftables.*'nft' is missing"):
            act(app.path)
    monkeypatch.undo()
    assert app.ruleset() == before
    rules.remove(app.path)
    without_nft()
    assert rules.apply(SETTINGS, app.path).choice.backend is Backend.LEGACY
    assert rules.remove(app.path).outcome == "removed"
    with pytest.raises(KernelError, match="'nft' is missing; install it"):
        apply(app)
