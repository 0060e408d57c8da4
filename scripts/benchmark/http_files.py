"""How the contestants are configured to serve HTTP: requests understood, counted, and logged as JSON with Istio's keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from scripts.benchmark.contestants import EGRESS_PORT, INGRESS_PORT, MOST_FLOWS

if TYPE_CHECKING:
    from collections.abc import Callable

LOG: Final = "access.log"  # in the visit's directory, a tmpfs
DIRECTORY: Final = "/run/bench/visit"

# Istio's access log (pkg/model/telemetry_logging.go), as Envoy's operators, and the keys that we add to it.
_KEYS: Final = {
    "start_time": "START_TIME",
    "method": "REQ(:METHOD)",
    "path": "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "protocol": "PROTOCOL",
    "response_code": "RESPONSE_CODE",
    "response_flags": "RESPONSE_FLAGS",
    "response_code_details": "RESPONSE_CODE_DETAILS",
    "connection_termination_details": "CONNECTION_TERMINATION_DETAILS",
    "bytes_received": "BYTES_RECEIVED",
    "bytes_sent": "BYTES_SENT",
    "duration": "DURATION",
    "upstream_service_time": "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
    "x_forwarded_for": "REQ(X-FORWARDED-FOR)",
    "user_agent": "REQ(USER-AGENT)",
    "request_id": "REQ(X-REQUEST-ID)",
    "authority": "REQ(:AUTHORITY)",
    "upstream_host": "UPSTREAM_HOST",
    "upstream_cluster": "UPSTREAM_CLUSTER",
    "upstream_local_address": "UPSTREAM_LOCAL_ADDRESS",
    "downstream_local_address": "DOWNSTREAM_LOCAL_ADDRESS",
    "downstream_remote_address": "DOWNSTREAM_REMOTE_ADDRESS",
    "requested_server_name": "REQUESTED_SERVER_NAME",
    "route_name": "ROUTE_NAME",
    "upstream_transport_failure_reason": "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "original_dst": "DOWNSTREAM_LOCAL_ADDRESS",
    "peer": "DOWNSTREAM_REMOTE_ADDRESS",
    "peer_identity": "DOWNSTREAM_PEER_URI_SAN",
    "policy": "FILTER_STATE(policy)",
}


def _haproxy(workers: int) -> dict[str, str]:
    return {
        "haproxy.cfg": f"""\
global
  nbthread {workers}
  maxconn {MOST_FLOWS}
  log stdout format raw local0
defaults
  mode http
  option httplog
  log global
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen ingress
  bind 0.0.0.0:{INGRESS_PORT}
  server original 0.0.0.0
listen egress
  bind 0.0.0.0:{EGRESS_PORT}
  server original 0.0.0.0
"""
    }


def _envoy(_workers: int) -> dict[str, str]:
    extensions = "type.googleapis.com/envoy.extensions"
    original = f"{extensions}.filters.listener.original_dst.v3.OriginalDst"
    manager = f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager"
    log: dict[str, object] = {
        "@type": f"{extensions}.access_loggers.file.v3.FileAccessLog",
        "path": f"{DIRECTORY}/{LOG}",
    }
    options = f"{extensions}.upstreams.http.v3.HttpProtocolOptions"
    both: dict[str, object] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    versions = {
        "use_downstream_protocol_config": both
    }  # the app is asked in the version that the client speaks
    router = {"@type": f"{extensions}.filters.http.router.v3.Router"}

    def listener(way: str, port: int) -> dict[str, object]:
        keys = {key: f"%{operator}%" for key, operator in _KEYS.items()}
        log["log_format"] = {"json_format": {**keys, "direction": way, "relay": "http"}}
        configuration = {
            "@type": manager,
            "stat_prefix": way,
            "access_log": [{"name": "file", "typed_config": dict(log)}],
            "http_filters": [{"name": "router", "typed_config": router}],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": way,
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": way}}],
                    }
                ]
            },
        }
        return {
            "name": way,
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
            "listener_filters": [{"name": "original_dst", "typed_config": {"@type": original}}],
            "filter_chains": [{"filters": [{"name": "manager", "typed_config": configuration}]}],
        }

    def cluster(way: str) -> dict[str, object]:
        return {
            "name": way,
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "10s",
            "typed_extension_protocol_options": {options.rpartition("/")[2]: {"@type": options, **versions}},
            "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]},
        }  # fmt: skip

    ways = (("ingress", INGRESS_PORT), ("egress", EGRESS_PORT))
    resources = {"listeners": [listener(*way) for way in ways], "clusters": [cluster(way) for way, _ in ways]}
    return {"envoy.json": json.dumps({"static_resources": resources})}


def _interceptor(workers: int) -> dict[str, str]:
    several = f", workers: {workers}" if workers > 1 else ""
    return {
        "sidecar.yaml": f"""\
apiVersion: interceptor/v1
kind: Sidecar
metadata: {{name: bench}}
spec: {{accessLog: {{path: {DIRECTORY}/{LOG}}}, limits: {{connections: 20000}}{several}}}
"""
    }


HTTP_FILES: Final[dict[str, Callable[[int], dict[str, str]]]] = {
    "haproxy": _haproxy,
    "envoy": _envoy,
    "interceptor": _interceptor,
}

HTTP_FEATURES: Final = {
    "none": "no proxy and no rules",
    "haproxy": "mode http, to the original destination; its log by lines to standard output",
    "envoy": "original_dst + HTTP connection manager with the router; statistics on, x-request-id made, access log as JSON with Istio's keys and ours",
    "interceptor": "a Sidecar document's defaults; protocols detected, metrics on, x-request-id made, access log as JSON with the same keys",
}
