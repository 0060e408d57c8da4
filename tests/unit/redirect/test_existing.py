"""Which connections that are older than the rules bypass them."""

from __future__ import annotations

import pytest

from interceptor.config.redirect import Mark, PortRange, RedirectSettings
from interceptor.model.record import replace
from interceptor.redirect.existing import Ends, Established, bypassing, describe
from interceptor.redirect.plan import plan

OUT = Established(
    family=4,
    ends=Ends("10.9.0.2", 40000, "192.0.2.7", 443),
    accepted=False,
    interface="eth0",
    uid=1000,
    gid=1000,
    mark=0,
    cookie=1,
)
IN = replace(OUT, ends=Ends("10.9.0.1", 40000, "10.9.0.2", 8080), accepted=True, uid=1337)
OUT6 = replace(OUT, family=6, ends=Ends("fd09::2", 1, "2001:db8::7", 443))
SETTINGS = RedirectSettings(
    proxy_mark=Mark(0x539),
    proxy_gids=(7,),
    exclude_egress_ports=(PortRange(22, 22),),
    exclude_interfaces=("docker0",),
)


@pytest.mark.parametrize("each", [OUT, IN, OUT6])
def test_what_would_be_captured_bypasses(each: Established) -> None:
    assert bypassing(plan(SETTINGS), [each], ()) == (each,)
    assert bypassing(plan(SETTINGS), [each], {each.ends}) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": 1337},
        {"gid": 7},
        {"mark": 0x539},
        {"interface": "lo"},
        {"interface": "docker0"},
        {"ends": Ends("10.9.0.2", 1, "192.0.2.7", 22)},
        {"accepted": True, "interface": "lo"},
        {"accepted": True, "ends": Ends("10.9.0.1", 1, "10.9.0.2", 15006)},
    ],
)
def test_what_is_exempt_does_not(changes: dict[str, object]) -> None:
    assert bypassing(plan(SETTINGS), [replace(OUT, **changes)], ()) == ()  # type: ignore[arg-type]  # its fields


@pytest.mark.parametrize(
    ("found", "ended", "says"),
    [
        ([OUT], None, "1 connection opened before the rules bypass the proxy (10.9.0.2:40000 to 192.0.2.7:443); --existing"),
        ([OUT6], 1, "1 connection opened before the rules bypassed the proxy and were reset ([fd09::2]:1 to [2001:db8::7]:443)"),
        ([OUT, IN], 1, "; only 1 could be reset at once, the others end with their next packet"),
        ([OUT] * 6, None, "6 connections opened before"),
    ],
)  # fmt: skip
def test_the_sentence(found: list[Established], ended: int | None, says: str) -> None:
    assert says in describe(found, ended)


def test_a_long_list_is_cut() -> None:
    assert describe([OUT] * 6, None).count(str(OUT)) == 5
    assert ", ...)" in describe([OUT] * 6, None)
