"""The plan for programs."""

from __future__ import annotations

import json
from ipaddress import ip_network

from interceptor.config.redirect import Mark, PortRange, RedirectSettings
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
