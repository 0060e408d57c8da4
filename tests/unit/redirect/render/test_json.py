"""The plan for programs."""

from __future__ import annotations

import json
from ipaddress import ip_network

from interceptor.config.redirect import Dns, Mark, Mode, PortRange, RedirectSettings
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.render.json import render


def test_every_rule_is_there_with_its_reason() -> None:
    settings = RedirectSettings(
        proxy_mark=Mark(5),
        exclude_egress_ports=(PortRange(22, 25),),
        exclude_egress_cidrs=(ip_network("10.0.0.0/8"),),
        exclude_ingress_cidrs=(ip_network("fd00::/8"),),
        exclude_interfaces=("eth1",),
        exclude_gids=(7,),
    )
    ruleset = plan(settings, Ipv6.BLOCK)
    form = json.loads(render(ruleset))
    assert (form["version"], form["hash"]) == (1, ruleset.hash)
    egress = form["chains"][1]
    assert {name: egress[name] for name in ("table", "name", "hook", "families")} == {
        "table": "nat",
        "name": "INTERCEPTOR_EGRESS",
        "hook": "OUTPUT",
        "families": [4],
    }
    assert egress["jump"]["verdict"] == {"action": "jump", "chain": "INTERCEPTOR_EGRESS"}
    matches = {rule["id"]: rule["match"] for chain in form["chains"] for rule in chain["rules"]}
    assert matches["egress-proxy-mark"] == {"protocol": "tcp", "mark": "0x5"}
    assert matches["egress-proxy-uid-1337"] == {"protocol": "tcp", "uid": 1337}
    assert matches["egress-exclude-gid-7"] == {"protocol": "tcp", "gid": 7}
    assert matches["egress-loopback"] == {"protocol": "tcp", "out_interface": "lo"}
    assert matches["egress-exclude-ports-1"] == {"protocol": "tcp", "ports": ["22-25"]}
    assert matches["egress-exclude-cidr-10.0.0.0/8"] == {"protocol": "tcp", "destination": "10.0.0.0/8"}
    assert matches["ingress-everything"] == {"protocol": "tcp", "local_destination": True}
    assert matches["block-ingress-exclude-cidr-fd00::/8"] == {"source": "fd00::/8"}
    assert matches["block-ingress-loopback"] == {"in_interface": "lo"}
    assert form["chains"][3]["jump"]["match"] == {"new": True}
    verdicts = {rule["id"]: rule["verdict"] for chain in form["chains"] for rule in chain["rules"]}
    assert verdicts["egress-loopback"] == {"action": "return"}
    assert verdicts["egress-everything"] == {"action": "redirect", "port": 15001}
    assert verdicts["block-egress-everything"] == {"action": "reject", "answer": "tcp-reset"}
    rule = egress["rules"][0]
    assert rule["flag"] == "--proxy-mark"
    assert rule["because"]


def test_kept_addresses_and_name_queries_have_their_forms() -> None:
    settings = RedirectSettings(
        mode=Mode.TPROXY, dns=Dns.CAPTURE, strict=True, supplementary_groups=True, proxy_gids=(7,)
    )
    form = json.loads(render(plan(settings)))
    assert form["detour"] == {
        "mark": "0x53b/0xfff",
        "table": 15006,
        "preference": 15006,
        "families": [4, 6],
    }
    rules = {rule["id"]: rule for chain in form["chains"] for rule in chain["rules"]}
    assert rules["ingress-taken"]["match"] == {"protocol": "tcp", "connection_mark": "0x53a/0xfff"}
    assert rules["ingress-everything"]["verdict"] == {"action": "tproxy", "port": 15006}
    assert rules["ingress-everything"]["match"] == {"protocol": "tcp", "local_destination": True, "syn": True}
    assert rules["ingress-everything-mark"]["verdict"] == {"action": "mark-connection", "mark": "0x53a/0xfff"}
    assert rules["tproxy-call"]["match"] == {
        "protocol": "tcp",
        "out_interface": "lo",
        "remote_source": True,
        "syn": True,
    }
    assert rules["tproxy-answer"]["match"]["reply"]
    assert rules["tproxy-answer"]["verdict"] == {"action": "mark-packet", "mark": "0x53b/0xfff"}
    assert rules["zone-egress-dns"]["verdict"] == {"action": "zone", "number": 15053}
    assert rules["guard-egress-captured"]["match"]["rewritten"]
    assert rules["egress-proxy-gid-7"]["match"] == {"gid": 7, "supplementary": True}
    assert json.loads(render(plan(RedirectSettings())))["detour"] is None


def test_what_guests_open_to_other_hosts_has_its_form() -> None:
    form = json.loads(render(plan(RedirectSettings(virtual_interfaces=("docker0",)))))
    assert form["chains"][0]["rules"][0]["match"] == {
        "protocol": "tcp",
        "in_interface": "docker0",
        "remote_destination": True,
    }
