"""The ports of contract.md, in a module that costs nothing to import: rules and proxy must agree on them."""

from __future__ import annotations

from typing import Final

ADMIN_PORT: Final = 15000
EGRESS_PORT: Final = 15001
INGRESS_PORT: Final = 15006
TELEMETRY_PORT: Final = 15020
DNS_PORT: Final = 15053
