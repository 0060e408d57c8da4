"""One connection each way, as explain is asked for them."""

from __future__ import annotations

from ipaddress import ip_address

from interceptor.model.connection import Direction
from interceptor.redirect.simulate import Connection

OUT = Connection(
    direction=Direction.EGRESS,
    source=ip_address("10.9.0.2"),
    destination=ip_address("192.0.2.7"),
    port=443,
    interface="eth0",
    local=False,
    uid=1000,
    gid=1000,
)
IN = Connection(
    direction=Direction.INGRESS,
    source=ip_address("10.9.0.1"),
    destination=ip_address("10.9.0.2"),
    port=8080,
    interface="eth0",
    local=True,
)
