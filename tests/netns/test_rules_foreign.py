"""Our rules beside those of Docker, kube-proxy and ufw, in every form these come in: nothing of theirs is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from interceptor.config.redirect import Backend, Ipv6Policy, RedirectSettings
from interceptor.kernel import rules
from interceptor.redirect.rules import FAMILIES
from tests.support.foreign_rules import FORMS, PROGRAMS, Form, load
from tests.support.netns import Namespace, namespace, topology
from tests.support.reporters import Attempt, connect, listening

pytestmark = pytest.mark.netns

DEFAULT = RedirectSettings()
BLOCK = RedirectSettings(ipv6=Ipv6Policy.BLOCK)
OUR_TABLE = re.compile(r"^table inet interceptor \{.*?^\}[^\n]*\n", re.DOTALL | re.MULTILINE)


@pytest.fixture
def app() -> Iterator[Namespace]:
    with namespace("fo") as made:
        yield made


def everything(where: Namespace) -> list[str]:
    """All rules of both backends, with counters."""
    return [*(where.save(family) for family in FAMILIES), where.ruleset()]


def foreign(where: Namespace) -> list[str]:
    """The same without ours."""
    *saved, ruleset = everything(where)
    return [
        *(
            "".join(line for line in text.splitlines(keepends=True) if "INTERCEPTOR_" not in line)
            for text in saved
        ),
        OUR_TABLE.sub("", ruleset),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_foreign_rules_and_their_counters_stay_byte_equal(
    app: Namespace, backend: Backend, program: str, form: Form
) -> None:
    load(app, program, form)
    for family in FAMILIES:  # the tables that legacy needs: they are the kernel's, and stay when we go
        app.run("iptables-legacy" if family == 4 else "ip6tables-legacy", "-t", "nat", "-S")
        app.run("iptables-legacy" if family == 4 else "ip6tables-legacy", "-t", "filter", "-S")
    before = everything(app)
    assert any(re.search(r"\[22:2200\]|packets 22|\[2:120\]|packets 2 ", text) for text in before)
    assert rules.apply(DEFAULT, app.path, backend=backend).outcome == "installed"
    assert everything(app) != before
    assert foreign(app) == before
    assert rules.apply(BLOCK, app.path, backend=backend).outcome == "updated"
    assert foreign(app) == before
    assert rules.remove(app.path).outcome == "removed"
    assert everything(app) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("program", ["docker", "kube-proxy"])
def test_auto_goes_where_the_nat_rules_are(app: Namespace, program: str, form: Form) -> None:
    load(app, program, form)
    choice = rules.apply(DEFAULT, app.path).choice
    expected = Backend.LEGACY if form == "iptables-legacy" else Backend.NFT
    assert (choice.backend, choice.because) == (expected, "other nat rules are there")


@pytest.mark.parametrize("form", FORMS)
def test_what_may_win_over_ours_is_named_once_for_each_base_chain(app: Namespace, form: Form) -> None:
    load(app, "docker", form)
    assert rules.apply(DEFAULT, app.path, backend=Backend.NFT).warnings == ()
    warnings = rules.apply(DEFAULT, app.path, backend=Backend.LEGACY).warnings
    assert warnings == tuple(rules.status(app.path).warnings())
    if form == "iptables-legacy":
        assert warnings == ()
    else:
        bases = {"iptables-nft": 4, "nft": 3}[form]
        assert len(warnings) == bases
        assert all("before or after ours, whichever was made last" in warning for warning in warnings)
        assert all("--backend nft" in warning for warning in warnings)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("form", FORMS)
def test_connections_are_captured_beside_them(backend: Backend, program: str, form: Form) -> None:
    with topology() as bed, listening(bed.app, {"egress": [15001]}):
        load(bed.app, program, form)
        rules.apply(DEFAULT, bed.app.path, backend=backend)
        answers = connect(bed.app, [Attempt(bed.peer.address(family), 80) for family in FAMILIES])
    if program == "ufw" and form != "nft":
        return  # its stand-in for INPUT lets loopback in, which is where redirected connections arrive
    assert [answer.listener for answer in answers] == ["egress", "egress"]
