"""Where our rules lead, out of what the backends' programs print."""

from __future__ import annotations

from interceptor.config.redirect import Mark, Mode, RedirectSettings
from interceptor.model.connection import Direction
from interceptor.redirect.listing import ports, taken
from interceptor.redirect.plan import plan
from interceptor.redirect.render import iptables, nft


def test_our_own_rendering_is_understood() -> None:
    settings = RedirectSettings(ingress_port=16006, egress_port=16001)
    assert ports([iptables.render(plan(settings))]) == {
        Direction.INGRESS: frozenset({16006}),
        Direction.EGRESS: frozenset({16001}),
    }


def test_nft_and_tproxy_and_what_is_not_ours() -> None:
    text = """
        tcp dport 80 redirect to :8080
        meta l4proto tcp redirect to :15001 comment "interceptor:v1:abc:egress-everything"
        meta l4proto tcp tproxy to :15006 comment "interceptor:v1:abc:ingress-everything"
        accept comment "interceptor:v1:abc:egress-loopback"
    """
    saved = '-A X -m comment --comment "interceptor:v1:abc:ingress-everything" -j TPROXY --on-port 15007 --on-ip 0.0.0.0'
    assert ports([text, saved]) == {
        Direction.INGRESS: frozenset({15006, 15007}),
        Direction.EGRESS: frozenset({15001}),
    }
    assert ports([]) == {Direction.INGRESS: frozenset(), Direction.EGRESS: frozenset()}


def test_the_mark_of_what_tproxy_takes() -> None:
    ruleset = plan(RedirectSettings(mode=Mode.TPROXY, strict=True))
    for text in (iptables.render(ruleset), nft.render(ruleset)):
        assert taken(["nothing", text]) == Mark(0x53A, 0xFFF)
    assert taken([iptables.render(plan(RedirectSettings()))]) is None
    assert taken(['ct mark 1 tproxy to :1 comment "interceptor:v1:abc:ingress-taken"']) is None
