"""How a namespace reaches an address, as its routing tables say; needs no right."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from interceptor.kernel import child
from interceptor.redirect.question import Way

if TYPE_CHECKING:
    from pathlib import Path

_LOCAL: Final = 2  # RTN_LOCAL, include/uapi/linux/rtnetlink.h


def look_up(namespace: Path | None, host: str) -> Way | None:
    """The interface and own address of the way there; None when there is none."""
    return child.call(namespace, _look_up, host)


def _look_up(host: str) -> Way | None:
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and needed in this child only)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    with IPRoute() as route:
        try:
            (found,) = route.route("get", family=socket.AF_INET6 if ":" in host else socket.AF_INET, dst=host)
        except NetlinkError:
            return None
        (link,) = route.get_links(found.get_attr("RTA_OIF"))
        own = found.get_attr("RTA_PREFSRC") or host
        return Way(link.get_attr("IFLA_IFNAME"), own, found["type"] == _LOCAL)
