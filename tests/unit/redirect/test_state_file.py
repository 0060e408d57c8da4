"""What the proxy is told of the rules, and what it makes of it."""

from __future__ import annotations

import json

import pytest

from interceptor.config.redirect import Mark, RedirectSettings
from interceptor.model.record import replace
from interceptor.redirect.state_file import Place, read, state, write

PLACE = Place(4026531840, 7, "boot")
TOLD = state(RedirectSettings(proxy_gids=(5,), proxy_mark=Mark(1)), PLACE, "legacy")


def test_what_is_written_is_read() -> None:
    assert read(write(TOLD)) == TOLD
    assert json.loads(write(TOLD))["hash"] == TOLD.hash


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"version": 1}', '{"version": 2}', '{"version": 2, "place": {"inode": 1}}', "7"],
)
def test_what_is_no_state_file_is_not_believed(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(("uid", "gid"), [(1337, 9), (9, 5)])
def test_a_proxy_that_fits(uid: int, gid: int) -> None:
    assert (
        list(
            TOLD.mismatches(
                mode="redirect", ingress_port=15006, egress_port=15001, dns_port=None, uid=uid, gid=gid
            )
        )
        == []
    )


def test_each_mismatch_is_a_sentence_with_a_remedy() -> None:
    ingress, egress, ids = TOLD.mismatches(
        mode="redirect", ingress_port=1, egress_port=2, dns_port=None, uid=3, gid=4
    )
    assert ingress.startswith("spec.ingress.port is 1, but the installed rules lead ingress to port 15006")
    assert egress.endswith("run 'sidecar-setup apply' with --egress-port 2")
    assert "uid 3 and gid 4" in ids
    assert "leave alone uid 1337, gid 5, the mark 0x1, which this proxy does not set" in ids


def test_rules_without_a_mark_do_not_speak_of_one() -> None:
    told = state(RedirectSettings(), PLACE, "legacy")
    (ids,) = told.mismatches(
        mode="redirect", ingress_port=15006, egress_port=15001, dns_port=None, uid=3, gid=4
    )
    assert "leave alone uid 1337: " in ids


def test_another_mode_is_a_sentence() -> None:
    (mode,) = TOLD.mismatches(
        mode="tproxy", ingress_port=15006, egress_port=15001, dns_port=None, uid=1337, gid=1
    )
    assert mode.startswith("spec.ingress.mode is TPROXY, but the installed rules bring ingress by REDIRECT")
    assert mode.endswith("run 'sidecar-setup apply' with --mode tproxy")


@pytest.mark.parametrize(("here", "said"), [(None, "no spec.dns"), (16053, "16053 as spec.dns.port")])
def test_captured_names_need_a_listener(here: int | None, said: str) -> None:
    told = replace(TOLD, dns_port=15053)
    (found,) = told.mismatches(
        mode="redirect", ingress_port=15006, egress_port=15001, dns_port=here, uid=1337, gid=1
    )
    assert said in found
    assert "write spec.dns: {port: 15053}" in found
