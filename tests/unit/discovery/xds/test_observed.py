from __future__ import annotations

import pytest

from interceptor.discovery.xds import observed

STATS = "stats.PluginConfig"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"@type": f"type.googleapis.com/{STATS}"}, STATS),
        ({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": f"type.googleapis.com/{STATS}"}, STATS),
        ({"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": STATS}, STATS),
        ({"@type": "type.googleapis.com/x", "type_url": STATS}, "x"),
        ({}, ""),
    ],
)  # fmt: skip
def test_a_filter_is_known_by_what_configures_it(config: dict[str, str], kind: str) -> None:
    assert observed.kind(config) == kind
