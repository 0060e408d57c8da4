"""Rule sets as Docker, kube-proxy and ufw make them, with counters that are not zero, in each form that a kernel may hold.

``iptables-legacy`` and ``iptables-nft`` load the same text, each family with its own addresses; ``nft`` loads what such
programs write for nftables itself.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final, Literal

from interceptor.redirect.rules import FAMILIES, Family
from tests.support.netns import Namespace

Form = Literal["iptables-legacy", "iptables-nft", "nft"]

FORMS: Final[tuple[Form, ...]] = ("iptables-legacy", "iptables-nft", "nft")
PROGRAMS: Final = ("docker", "kube-proxy", "ufw")
_ADDRESSES: Final[dict[Family, dict[str, str]]] = {
    4: {
        "loopback": "127.0.0.0/8",
        "bridge": "172.17.0.0/16",
        "container": "172.17.0.2/32",
        "container_port": "172.17.0.2:80",
        "other": "172.17.0.3/32",
        "other_port": "172.17.0.3:6443",
        "service": "10.96.0.1/32",
    },
    6: {
        "loopback": "::1/128",
        "bridge": "fd00:17::/64",
        "container": "fd00:17::2/128",
        "container_port": "[fd00:17::2]:80",
        "other": "fd00:17::3/128",
        "other_port": "[fd00:17::3]:6443",
        "service": "fd00:96::1/128",
    },
}


def load(where: Namespace, program: str, form: Form) -> None:
    """Put a program's rules into a namespace, as it would."""
    here = Path(__file__).parent / "foreign"
    if form == "nft":
        _feed(where.command("nft", "-f", "-"), (here / f"{program}.nft").read_text())
        return
    text = (here / f"{program}.rules").read_text()
    for family, tool in zip(FAMILIES, (form, form.replace("iptables", "ip6tables")), strict=True):
        _feed(where.command(f"{tool}-restore", "-c"), text.format(**_ADDRESSES[family]))


def _feed(command: list[str], text: str) -> None:
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)
