"""Whom and what the finer flags select, on a real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from interceptor.config.redirect import Backend
from interceptor.errors import ConfigError
from interceptor.kernel import child, rules
from interceptor.redirect.rules import Family
from tests.support.netns import BRIDGE, GUEST, Namespace, guest_of
from tests.support.processes import sidecar_setup
from tests.support.reporters import Answer, Attempt, connect, listening, send_datagram
from tests.support.resolvers import Query, ask, resolving
from tests.support.rule_bed import FAR, Bed, rule_bed
from tests.support.tampering import flush

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("clean")]

BIG = 4294967294  # the largest id there is
GROUP = 4242


@pytest.fixture(scope="module")
def bed(backend: Backend) -> Iterator[Bed]:
    with rule_bed(backend) as made:
        near = {"egress": [15001], "ingress": [15006], "direct": [80, 8080]}
        with listening(made.app, near), listening(made.peer, {"direct": [80, 443, 8443], "upstream": [53]}):
            yield made


@pytest.fixture(scope="module")
def guest(bed: Bed) -> Iterator[Namespace]:
    with guest_of(bed) as made:
        yield made


def test_ports_are_exempt_for_their_users_alone(bed: Bed, family: Family) -> None:
    bed.apply(exclude_egress_ports_for_uids=f"443:1000,8000-9000:{BIG},80:{BIG}")
    https = Attempt(FAR[family], 443)
    answers = connect(
        bed.app,
        [
            https,
            https._replace(port=80),
            https._replace(uid=1001),
            https._replace(uid=BIG, port=8443),
            https._replace(uid=BIG, port=80),
            https._replace(uid=BIG),
        ],
    )
    assert [answer.listener for answer in answers] == [
        "direct",
        "egress",
        "egress",
        "direct",
        "direct",
        "egress",
    ]


def test_more_ports_of_a_user_than_fit_a_rule(bed: Bed, family: Family) -> None:
    bed.apply(
        exclude_egress_ports_for_uids=",".join(f"{port}:1000" for port in (*range(2000, 2040, 2), 8443))
    )
    attempt = Attempt(FAR[family], 8443)
    answers = connect(bed.app, [attempt, attempt._replace(uid=1001), attempt._replace(port=443)])
    assert [answer.listener for answer in answers] == ["direct", "egress", "egress"]


def connect_in_groups(host: str, gid: int, groups: list[int]) -> str:
    """As a user whose process has supplementary groups."""
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(1000)
    with socket.create_connection((host, 80), timeout=5) as connection:
        return connection.recv(4096).decode().split('"')[1]


def test_supplementary_groups_count_when_asked(bed: Bed, family: Family) -> None:
    if bed.backend is Backend.NFT:
        with pytest.raises(ConfigError, match="--supplementary-groups cannot be had with nftables"):
            bed.apply(exclude_gids=f"{GROUP}", supplementary_groups="yes")
        return

    def listener(gid: int, *groups: int) -> str:
        return child.call(bed.app.path, connect_in_groups, FAR[family], gid, list(groups))

    for flag in ("exclude_gids", "proxy_gid"):
        bed.apply(**{flag: f"{GROUP}"})
        assert listener(1000, GROUP) == "egress"
        assert listener(GROUP) == "direct"
        bed.apply(**{flag: f"{GROUP}"}, supplementary_groups="yes")
        assert listener(1000, 5, GROUP) == "direct"
        assert listener(GROUP) == "direct"
        assert listener(1000, 5) == "egress"


def test_several_proxies_and_the_largest_ids(bed: Bed, family: Family) -> None:
    bed.apply(proxy_uid=f"1337,1338,{BIG}", proxy_gid=f"7,{BIG}", strict="yes")
    far = Attempt(FAR[family], 80)
    asked = [far._replace(uid=uid) for uid in (1337, 1338, BIG)] + [far._replace(gid=gid) for gid in (7, BIG)]
    assert [answer.listener for answer in connect(bed.app, [*asked, far])] == ["direct"] * 5 + ["egress"]


def test_guests_pass_by_unless_asked(bed: Bed, guest: Namespace, family: Family) -> None:
    bed.apply(strict="yes")
    assert connect(guest, [Attempt(FAR[family], 80)])[0].listener == "direct"


def test_what_guests_open_to_other_hosts_is_egress(bed: Bed, guest: Namespace, family: Family) -> None:
    for flags in ({"strict": "no"}, {"strict": "yes"}, {"strict": "yes", "mode": "tproxy"}):
        bed.apply(virtual_interfaces="vnet+", exclude_egress_ports="443", **flags)
        host = FAR[family]
        printed = f"[{host}]:80" if family == 6 else f"{host}:80"
        captured, excluded = connect(guest, [Attempt(host, 80), Attempt(host, 443)])
        assert captured == Answer("egress", printed, GUEST[family])
        assert excluded.listener == "direct"


def test_what_guests_open_to_this_host_is_ingress(bed: Bed, guest: Namespace, family: Family) -> None:
    bed.apply(virtual_interfaces="vnet0", exclude_egress_ports="8080")
    assert connect(guest, [Attempt(BRIDGE[family], 8080)])[0].listener == "ingress"
    assert connect(bed.app, [Attempt(FAR[family], 80)])[0].listener == "egress"


def test_guests_do_not_leak_when_strict(bed: Bed, guest: Namespace, family: Family) -> None:
    bed.apply(virtual_interfaces="vnet0", exclude_egress_ports="443", strict="yes")
    flush(bed.app, bed.backend, family)
    answers = connect(guest, [Attempt(FAR[family], 80), Attempt(FAR[family], 443)])
    assert [answer.listener for answer in answers] == ["refused", "direct"]


def test_an_excluded_interface_is_not_virtual(bed: Bed, guest: Namespace, family: Family) -> None:
    bed.apply(virtual_interfaces="vnet+", exclude_interfaces="vnet0", strict="yes", dns="capture")
    answers = connect(guest, [Attempt(FAR[family], 80), Attempt(FAR[family], 53)])
    assert [answer.listener for answer in answers] == ["direct", "upstream"]


def test_quic_of_guests_is_refused_where_asked(bed: Bed, guest: Namespace, family: Family) -> None:
    def hits(name: str) -> int:
        chains = rules.status(bed.app.path).of(family)
        return sum(hit.packets for chain in chains for hit in chain.rules if hit.tag and hit.tag.rule == name)

    bed.apply(virtual_interfaces="vnet0", quic="block")
    assert send_datagram(guest, FAR[family]) == "ConnectionRefusedError"
    assert hits("guard-forward-quic-vnet0-everything") == 1


def test_name_queries_of_guests_go_to_the_proxy(bed: Bed, guest: Namespace, family: Family) -> None:
    with (
        resolving(bed.app, {(BRIDGE[family], 15053): "proxy"}),
        resolving(bed.peer, {(FAR[family], 53): "upstream"}),
        listening(bed.app, {"proxy": [15053]}),
    ):
        bed.apply(virtual_interfaces="vnet0", dns="capture", strict="yes")
        far = Query(FAR[family], source_port=40010)
        assert ask(guest, far, Query(BRIDGE[family]), far) == ["proxy"] * 3
        assert connect(guest, [Attempt(FAR[family], 53)])[0].listener == "proxy"
        bed.apply(virtual_interfaces="vnet0", dns="capture", exclude_egress_cidrs=FAR[family], strict="yes")
        assert ask(guest, far) == ["upstream"]
        bed.apply(virtual_interfaces="vnet0", dns="capture", strict="yes")
        flush(bed.app, bed.backend, family)
        assert ask(guest, far._replace(source_port=40011)) == ["ConnectionRefusedError"]


def test_blocked_ipv6_blocks_guests(bed: Bed, guest: Namespace) -> None:
    bed.apply(virtual_interfaces="vnet0", ipv6="block")
    answers = connect(guest, [Attempt(FAR[4], 80), Attempt(FAR[6], 80)])
    assert [answer.listener for answer in answers] == ["egress", "refused"]
    guest.run("ping", "-6", "-c1", "-W2", FAR[6])


def test_the_kernel_has_what_the_plan_prints_for_every_flag(bed: Bed, family: Family) -> None:
    """Through the backend's own reader: it accepts the rendering and makes the same rules of it."""
    if bed.backend is Backend.LEGACY:
        what_iptables_makes_of_the_rendering_is_ours(bed, family)
    else:
        what_nft_makes_of_the_rendering_is_ours(bed)


FLAGS = {
        "mode": "tproxy", "dns": "capture", "strict": "yes", "quic": "block", "proxy_gid": "7", "exclude_gids": "8",
        "supplementary_groups": "yes", "virtual_interfaces": "vnet+", "exclude_egress_ports_for_uids": "443:1000",
        "proxy_mark": "0x539/0xfff", "exclude_egress_cidrs": "192.0.2.0/24,2001:db8::/32",
    }  # fmt: skip


def printed(bed: Bed, form: str, flags: dict[str, str]) -> str:
    command = [f"--{name.replace('_', '-')}={text}" for name, text in flags.items()]
    switches = {"--strict=yes": "--strict", "--supplementary-groups=yes": "--supplementary-groups"}
    words = (switches.get(word, word) for word in command)
    return bed.app.run(*sidecar_setup("plan", f"--output={form}", *words)).stdout


def what_nft_makes_of_the_rendering_is_ours(bed: Bed) -> None:
    flags = {name: text for name, text in FLAGS.items() if name != "supplementary_groups"}
    for what in ({}, {"ipv6": "block"}):
        text = printed(bed, "nft", {**flags, **what})
        subprocess.run(bed.app.command("nft", "-f", "-"), input=text, text=True, check=True)
        changes = bed.apply(**{**flags, **what}).changes
        assert [change for change in changes if change.startswith("nft")] == []
        rules.remove(bed.app.path)


def what_iptables_makes_of_the_rendering_is_ours(bed: Bed, family: Family) -> None:
    bed.apply(**FLAGS)
    ours = saved(bed, family)
    rules.remove(bed.app.path)
    text = printed(bed, "iptables", FLAGS).partition("# IPv6")[0 if family == 4 else 2].partition("\n")[2]
    tool = "iptables-legacy-restore" if family == 4 else "ip6tables-legacy-restore"
    subprocess.run(bed.app.command(tool, "--noflush"), input=text, text=True, check=True)
    try:
        assert saved(bed, family) == ours
    finally:
        rules.remove(bed.app.path)


def saved(bed: Bed, family: Family) -> list[str]:
    return [line.partition(" [")[0] for line in bed.app.run(
        "iptables-legacy-save" if family == 4 else "ip6tables-legacy-save"
    ).stdout.splitlines() if "INTERCEPTOR" in line]  # fmt: skip
