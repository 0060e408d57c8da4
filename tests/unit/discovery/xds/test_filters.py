from __future__ import annotations

from typing import Any

import pytest

from interceptor.discovery.xds import cors, filters
from interceptor.discovery.xds.filters import HTTP_MANAGER, ROUTER, TCP_PROXY, Filters

ROUTES: dict[str, Any] = {"route_config": {}}
LAST = {"name": "router", "typed_config": {"@type": ROUTER}}


def manager(*before: Any, **more: Any) -> dict[str, Any]:
    config = {"@type": HTTP_MANAGER, "http_filters": [*before, LAST], **more}
    return {"filters": [{"name": "http", "typed_config": config}]}


def test_what_a_chain_does() -> None:
    weighted = {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]}
    tcp = {"filters": [{"typed_config": {"@type": TCP_PROXY, "weighted_clusters": weighted}}]}
    assert filters.read(tcp) == Filters((("a", 1), ("b", 2)))
    pages = {"name": "cors", "typed_config": {"@type": cors.FILTER}}
    named = manager(
        pages,
        rds={"route_config_name": "r", "config_source": {"self": {}}},
        upgrade_configs=[{"upgrade_type": "websocket"}],
    )
    assert list(filters.judge(named, "")) == []
    assert filters.read(named) == Filters(route_name="r", of_routes=frozenset({"corsPolicy"}))
    assert filters.is_http(named)
    assert not filters.is_http(tcp)


CONFIG = "filters[0].typed_config"


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ({"filters": []}, "filters: the last one must be a tcp_proxy"),
        ({"filters": [{"typed_config": {"@type": TCP_PROXY, "cluster": "a"}}, {"typed_config": {"@type": TCP_PROXY, "cluster": "a"}}]}, f"{CONFIG}: '{TCP_PROXY}' is not honoured here"),
        (manager(codec_type="HTTP1", **ROUTES), f"{CONFIG}.codec_type:"),
        (manager(use_remote_address=True, **ROUTES), f"{CONFIG}.use_remote_address:"),
        (manager(stream_idle_timeout="1s", **ROUTES), f"{CONFIG}.stream_idle_timeout:"),
        (manager(upgrade_configs=[{"upgrade_type": "CONNECT"}], **ROUTES), f"{CONFIG}.upgrade_configs[0]:"),
        (manager(), f"{CONFIG}: needs one of rds and route_config"),
        (manager(rds={"route_config_name": "r", "config_source": {"path": "x"}}), f"{CONFIG}.rds.config_source:"),
        (manager(rds={"config_source": {"ads": {}}}), f"{CONFIG}.rds.route_config_name:"),
        (manager(http_filters=[], **ROUTES), f"{CONFIG}.http_filters: the last one must be a router"),
        (manager({"name": "x", "typed_config": {"@type": "lua"}}, **ROUTES), f"{CONFIG}.http_filters[0].typed_config: 'lua'"),
        (manager({"name": "x", "typed_config": {"@type": ROUTER, "start_child_span": True}}, **ROUTES), f"{CONFIG}.http_filters[0].typed_config.start_child_span:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said_with_its_path(chain: dict[str, Any], said: str) -> None:
    problems = list(filters.judge(chain, ""))
    assert any(each.startswith(said) for each in problems), problems
