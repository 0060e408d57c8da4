"""PURE. What Istio's control plane sends beside what it wants done: it only counts, logs, traces or names the peers.

Nothing of it says where traffic goes or who may pass; logs, metrics, traces and the peer's labels are the Sidecar's own.
Filters are known by the type of what configures them, also where that is written as a struct (TypedStruct).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Body

_PREFIX: Final = "type.googleapis.com/"
_STRUCTS: Final = frozenset({f"{_PREFIX}udpa.type.v1.TypedStruct", f"{_PREFIX}xds.type.v3.TypedStruct"})
_EXCHANGE: Final = "envoy.tcp.metadataexchange.config.MetadataExchange"
_STATS: Final = "stats.PluginConfig"
_PEERS: Final = "io.istio.http.peer_metadata.Config"
_ALPN: Final = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
ISTIO: Final = (_EXCHANGE, _STATS, _PEERS, _ALPN)  # messages of Istio's that are in no copy of Envoy's
FILTERS: Final = frozenset({_EXCHANGE, _STATS})  # of connections, there and in clusters
HTTP_FILTERS: Final = frozenset(
    {_STATS, _PEERS, _ALPN, "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"}
)
LISTENER: Final = frozenset(
    {
        *("access_log", "connection_balance_config", "continue_on_listener_filters_timeout"),
        *("listener_filters_timeout", "max_connections_to_accept_per_socket_event", "transparent"),
    }
)
# What only Envoy's own buffers, look-ups and statistics go by.
CLUSTER: Final = frozenset(
    {"per_connection_buffer_limit_bytes", "dns_jitter", "track_cluster_stats", "track_timeout_budgets"}
)
TCP: Final = frozenset({"access_log"})
HTTP: Final = frozenset({"access_log", "tracing", "server_name", "request_id_extension"})


def kind(config: Body) -> str:
    """The message that a filter's configuration is, also where it is written as a struct."""
    given = str(config.get("@type", ""))
    return (str(config.get("type_url", "")) if given in _STRUCTS else given).removeprefix(_PREFIX)
