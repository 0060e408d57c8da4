"""What is installed, for a person and for programs."""

from __future__ import annotations

import json

from interceptor.config.redirect import Backend
from interceptor.model.connection import Direction
from interceptor.redirect.render.status import as_json, text
from interceptor.redirect.rules import FAMILIES, Table, Tag
from interceptor.redirect.status import Hits, InstalledChain, Status

STATUS = Status(
    (
        InstalledChain(
            Backend.LEGACY,
            (4,),
            Table.NAT,
            "INTERCEPTOR_EGRESS",
            (Hits(Tag("abc", "egress-loopback"), 12, 720), Hits(None, 0, 0)),
            "OUTPUT",
            ("-p tcp -j ACCEPT", "-j LOG"),
        ),
        InstalledChain(Backend.LEGACY, (4,), Table.NAT, "INTERCEPTOR_INGRESS", (), None, ()),
    )
)


def test_nothing_installed() -> None:
    assert text(Status(())) == "Not installed.\n"
    assert "Warning: policy routing" in text(Status((), routed={6: True}))
    assert json.loads(as_json(Status(()))) == {
        "installed": False,
        "hash": None,
        "backends": [],
        "families": {"4": {"installed": False, "chains": []}, "6": {"installed": False, "chains": []}},
        "live": {},
        "warnings": [],
    }


def test_the_text_has_hits_hooks_and_warnings() -> None:
    lines = text(STATUS).splitlines()
    assert lines[:7] == [
        "Installed: configuration abc, in iptables' legacy tables.",
        "IPv4:",
        "  nat INTERCEPTOR_EGRESS, from OUTPUT after 2 foreign rules",
        "            12 hits  egress-loopback",
        "             0 hits  (not ours)",
        "  nat INTERCEPTOR_INGRESS, not hooked in",
        "IPv6: nothing installed",
    ]
    assert [line.partition(":")[0] for line in lines[7:]] == ["Warning"] * 5


def test_one_foreign_rule_is_singular_and_none_is_not_mentioned() -> None:
    one = InstalledChain(Backend.LEGACY, (6,), Table.NAT, "INTERCEPTOR_EGRESS", (), "OUTPUT", ("-j LOG",))
    none = InstalledChain(Backend.LEGACY, (6,), Table.NAT, "INTERCEPTOR_INGRESS", (), "PREROUTING", ())
    assert "from OUTPUT after 1 foreign rule\n" in text(Status((one,)))
    assert "from PREROUTING\n" in text(Status((none,)))
    assert "configuration unknown" in text(Status((none,)))


def test_the_json_has_the_same() -> None:
    form = json.loads(as_json(STATUS))
    assert (form["installed"], form["hash"]) == (True, "abc")
    egress = form["families"]["4"]["chains"][0]
    assert egress == {
        "backend": "legacy",
        "counted_families": [4],
        "table": "nat",
        "name": "INTERCEPTOR_EGRESS",
        "hook": "OUTPUT",
        "foreign_rules_before": ["-p tcp -j ACCEPT", "-j LOG"],
        "rules": [
            {"id": "egress-loopback", "hash": "abc", "packets": 12, "bytes": 720},
            {"id": None, "hash": None, "packets": 0, "bytes": 0},
        ],
    }
    assert len(form["warnings"]) == 5


def test_several_configurations_have_no_single_hash() -> None:
    chains = tuple(
        InstalledChain(
            Backend.LEGACY,
            (family,),
            Table.NAT,
            "INTERCEPTOR_EGRESS",
            (Hits(Tag(name, "id"), 0, 0),),
            "OUTPUT",
            (),
        )
        for family, name in zip(FAMILIES, ("abc", "def"), strict=True)
    )
    assert json.loads(as_json(Status(chains)))["hash"] is None


def test_a_chain_for_both_families_is_printed_once() -> None:
    both = InstalledChain(Backend.NFT, (4, 6), Table.NAT, "INTERCEPTOR_EGRESS", (), "OUTPUT", ())
    six = InstalledChain(Backend.NFT, (6,), Table.FILTER, "INTERCEPTOR_EGRESS", (), "OUTPUT", ())
    assert text(Status((both, six))).splitlines() == [
        "Installed: configuration unknown, in nftables' table inet interceptor.",
        "IPv4 and IPv6:",
        "  nat INTERCEPTOR_EGRESS, from OUTPUT",
        "IPv6:",
        "  filter INTERCEPTOR_EGRESS, from OUTPUT",
    ]


def test_live_flows_are_told_where_they_are_known() -> None:
    flows = {Direction.INGRESS: 2, Direction.EGRESS: 0}
    assert "Live redirected connections: 2 ingress, 0 egress." in text(STATUS, flows)
    assert "Live" not in text(STATUS)
    assert json.loads(as_json(STATUS, flows))["live"] == {"ingress": 2, "egress": 0}
