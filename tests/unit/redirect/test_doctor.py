"""From facts to findings: each with its severity, and none without cause."""

from __future__ import annotations

import pytest

from interceptor.config.redirect import Ipv6Policy, Mark, RedirectSettings
from interceptor.model.record import replace
from interceptor.redirect.doctor import (
    DESCRIPTORS,
    FOR_LEGACY,
    NEEDED,
    PORT_RANGE,
    RESERVED_PORTS,
    TRACKED,
    TRACKED_MAX,
    USEFUL,
    Facts,
    ForeignRule,
    Listener,
    Process,
    diagnose,
)

SOUND = Facts(
    capabilities=frozenset({NEEDED, FOR_LEGACY, *USEFUL}),
    trial="",
    lock="",
    unmapped=(),
    installed=(),
    foreign=(),
    listeners=(Listener(15006, "::", 1337), Listener(15001, "::", 1337)),
    strangers=(),
    sysctls={PORT_RANGE: "32768\t60999", RESERVED_PORTS: "", TRACKED: "5", TRACKED_MAX: "262144"},
    nameservers=("192.0.2.53",),
    interfaces=("lo", "eth0"),
    descriptors=DESCRIPTORS,
    unseen=(),
)
PLAIN = RedirectSettings()


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert diagnose(SOUND, PLAIN) == ()
    unseen = replace(SOUND, trial=None, installed=None, unseen=("much",))
    assert diagnose(unseen, PLAIN) == ()


@pytest.mark.parametrize(
    ("changes", "severity", "says"),
    [
        ({"capabilities": frozenset({FOR_LEGACY, *USEFUL})}, "problem", "lacks CAP_NET_ADMIN, without which no rule"),
        ({"capabilities": frozenset({NEEDED, *USEFUL})}, "warning", "lacks CAP_NET_RAW, without which the iptables"),
        ({"capabilities": frozenset({NEEDED, FOR_LEGACY, "CAP_SETUID"})}, "remark", "lacks CAP_SYS_ADMIN"),
        ({"unmapped": (1337,)}, "problem", "id 1337 does not exist in this user namespace"),
        ({"lock": "/run/xtables.lock is not writable"}, "problem", "the xtables lock cannot be had: /run/xtables.lock"),
        ({"trial": "no nat table"}, "problem", "throw-away namespace: no nat table"),
        ({"sysctls": {}}, "warning", "no connection tracking yet"),
        ({"sysctls": {TRACKED: "95", TRACKED_MAX: "100"}}, "problem", "holds 95 of at most 100"),
        ({"installed": ("IPv4 nat X is not hooked in: run 'sidecar-setup apply'",)}, "problem", "IPv4 nat X is not hooked"),
        ({"installed": ("in IPv4 nat OUTPUT a foreign rule comes before ours: -j X",)}, "warning", "before ours: -j X"),
        ({"foreign": (ForeignRule("nft ip nat X", "rule 3", "delete"),)}, "warning", "a redirect of another program: rule 3"),
        ({"foreign": (ForeignRule("nft ip nat KUMA_MESH_X", "r", "d"),)}, "problem", "the rules of another mesh"),
        ({"strangers": (Process(7, "curl", 1337),)}, "problem", "process 7 (curl) runs as uid 1337 and is not the proxy"),
        ({"sysctls": {**SOUND.sysctls, PORT_RANGE: "40000 40100"}}, "warning", "there are 101 ephemeral ports"),
        ({"descriptors": 1024}, "warning", "may open 1024 descriptors"),
        ({"sysctls": {**SOUND.sysctls, "net.ipv4.ip_forward": "1"}}, "remark", "forwards packets: what"),
        (
            {"sysctls": {**SOUND.sysctls, "net.ipv4.ip_forward": "1"}, "interfaces": ("docker0", "eth0")},
            "remark",
            "forwards packets (docker0): what",
        ),
        ({"sysctls": {**SOUND.sysctls, "net.bridge.bridge-nf-call-iptables": "1"}}, "remark", "bridged containers"),
        ({"nameservers": ("127.0.0.11",)}, "remark", "Docker at 127.0.0.11"),
    ],
)  # fmt: skip
def test_each_cause_is_one_finding(changes: dict[str, object], severity: str, says: str) -> None:
    (finding,) = diagnose(replace(SOUND, **changes), PLAIN)  # type: ignore[arg-type]  # the fields of Facts
    assert finding.severity == severity
    assert says in finding.what
    assert finding.remedy


def test_the_remedy_comes_from_the_sentence_of_status() -> None:
    sentence = "IPv4 nat X is not hooked in: run 'sidecar-setup apply'"
    (finding,) = diagnose(replace(SOUND, installed=(sentence,)), PLAIN)
    assert (finding.what, finding.remedy) == ("IPv4 nat X is not hooked in", "run 'sidecar-setup apply'")


@pytest.mark.parametrize(
    ("sysctls", "remedy"),
    [
        (
            {PORT_RANGE: "15000 61000", RESERVED_PORTS: ""},
            f"sysctl -w {RESERVED_PORTS}=15000,15001,15006,15020,15053",
        ),
        (
            {PORT_RANGE: "15002 61000", RESERVED_PORTS: "15020,15050-15060"},
            f"sysctl -w {RESERVED_PORTS}=15020,15050-15060,15006",
        ),
        ({PORT_RANGE: "10000 61000", RESERVED_PORTS: "15000-15100"}, None),
    ],
)
def test_ephemeral_ports_that_are_the_proxys(sysctls: dict[str, str], remedy: str | None) -> None:
    found = diagnose(replace(SOUND, sysctls={**SOUND.sysctls, **sysctls}), PLAIN)
    assert [finding.remedy for finding in found] == ([] if remedy is None else [remedy])


@pytest.mark.parametrize(
    ("ingress", "egress", "says"),
    [
        ((), ("::",), ["nobody listens on ingress port 15006"]),
        (("127.0.0.1",), ("::",), ["bound to 127.0.0.1, where no redirected IPv4 or IPv6"]),
        (("0.0.0.0",), ("127.0.0.1", "::1"), ["the ingress listener on port 15006 is bound to 0.0.0.0, where no redirected IPv6"]),
        (("::",), ("10.0.0.1",), ["the egress listener on port 15001 is bound to 10.0.0.1, where no redirected IPv4 or IPv6"]),
        (("0.0.0.0", "::"), ("127.0.0.1",), ["bound to 127.0.0.1, where no redirected IPv6"]),
    ],
)  # fmt: skip
def test_listeners_where_nothing_arrives(
    ingress: tuple[str, ...], egress: tuple[str, ...], says: list[str]
) -> None:
    listeners = [Listener(15006, host, 1337) for host in ingress]
    listeners += [Listener(15001, host, 1337) for host in egress]
    found = diagnose(replace(SOUND, listeners=listeners), PLAIN)
    assert len(found) == len(says)
    assert all(part in finding.what for part, finding in zip(says, found, strict=True))


def test_without_ipv6_captured_ipv4_listeners_will_do() -> None:
    listeners = (Listener(15006, "0.0.0.0", 1337), Listener(15001, "127.0.0.1", 1337))
    settings = RedirectSettings(ipv6=Ipv6Policy.BLOCK)
    assert diagnose(replace(SOUND, listeners=listeners), settings) == ()


@pytest.mark.parametrize(
    ("settings", "uid", "loops"),
    [
        (PLAIN, 1000, True),
        (PLAIN, 0, False),
        (RedirectSettings(proxy_uids=(1000,)), 1000, False),
        (RedirectSettings(proxy_gids=(5,)), 1000, False),
        (RedirectSettings(proxy_mark=Mark(1)), 1000, False),
    ],
)
def test_a_proxy_that_the_rules_capture(settings: RedirectSettings, uid: int, loops: bool) -> None:
    listeners = (Listener(15006, "::", uid), Listener(15001, "::", 0))
    found = diagnose(replace(SOUND, listeners=listeners), settings)
    expected = [f"run the proxy as uid 1337, or give --proxy-uid {uid}"] if loops else []
    assert [finding.remedy for finding in found] == expected


def test_the_worst_comes_first() -> None:
    found = diagnose(replace(SOUND, trial="no", nameservers=("127.0.0.11",), descriptors=1), PLAIN)
    assert [finding.severity for finding in found] == ["problem", "warning", "remark"]
