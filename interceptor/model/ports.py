"""The ports this product is known by; dashboards, probes and rules outside this repository rely on them."""

from __future__ import annotations

from typing import Final

ADMIN_PORT: Final = 15000
EGRESS_PORT: Final = 15001
INGRESS_PORT: Final = 15006
TELEMETRY_PORT: Final = 15020
DNS_PORT: Final = 15053
