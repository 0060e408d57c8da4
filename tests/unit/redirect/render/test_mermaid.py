"""The packet's way as a mermaid chart."""

from __future__ import annotations

import re
from ipaddress import ip_network

from interceptor.config.redirect import Mode, PortRange, RedirectSettings
from interceptor.redirect.plan import plan
from interceptor.redirect.render.mermaid import render

SETTINGS = RedirectSettings(exclude_egress_ports=(PortRange(22, 22),), strict=True)


def test_the_default_plan() -> None:
    lines = render(plan(RedirectSettings())).splitlines()
    assert lines[0] == "flowchart TD"
    egress = lines[lines.index('    subgraph c1 ["nat OUTPUT, IPv4 and IPv6"]') :]
    assert egress == [
        '    subgraph c1 ["nat OUTPUT, IPv4 and IPv6"]',
        "        direction TD",
        '        c1s(["TCP"])',
        '        c1s --> c1q0{"opened by uid 1337<br>or leaving by lo"}',
        '        c1q0 -- yes --> c1e0["direct"]',
        '        c1q0 -- no --> c1q1{"anything"}',
        '        c1q1 -- yes --> c1e1["to the proxy, port 15001"]',
        '        c1q1 -- no --> c1d["goes on as it is"]',
        "    end",
    ]


def test_every_node_is_defined_and_every_lane_closed() -> None:
    text = render(plan(SETTINGS))
    defined = set(re.findall(r"\b(c\d+[a-z]\d*)[\[({]", text))
    assert set(re.findall(r"\b(c\d+[a-z]\d*)\b", text)) == defined
    assert text.count("subgraph") == text.count("    end\n") == len(plan(SETTINGS).chains)


def test_long_lists_are_a_number() -> None:
    networks = tuple(ip_network(f"10.{number}.0.0/16") for number in range(1, 40))
    text = render(plan(RedirectSettings(exclude_egress_cidrs=networks)))
    assert re.search(r"<br>or one of \d+ more", text)
    assert len(text) < 3000


def test_the_routing_of_tproxy_is_shown() -> None:
    assert "is delivered on this host" in render(plan(RedirectSettings(mode=Mode.TPROXY)))
    assert "is delivered on this host" not in render(plan(SETTINGS))
