"""docs/xds.md names every field that is honoured, message by message, as the code has it; all others are NACKed."""

from __future__ import annotations

from pathlib import Path

from interceptor.discovery.xds import (
    balancers,
    clusters,
    cors,
    endpoints,
    fault,
    filters,
    headers,
    health_checks,
    inbound,
    listeners,
    matches,
    observed,
    protocols,
    rate_limits,
    rbac,
    route_parts,
    routes,
    transport_sockets,
    virtual,
)

PAGE = Path(__file__).parents[4] / "docs" / "xds.md"
HONOURED = {
    "Cluster": clusters._CLUSTER,
    **{f"Cluster.{name}": fields for name, fields in balancers.FIELDS.items() if fields},
    "Cluster.CommonLbConfig": balancers.COMMON,
    "HttpProtocolOptions.common_http_protocol_options": protocols.COMMON,
    "HealthCheck": health_checks.FIELDS,
    "CircuitBreakers.Thresholds": clusters._THRESHOLDS,
    "OutlierDetection": clusters._OUTLIERS,
    "ClusterLoadAssignment": endpoints._ASSIGNMENT,
    "LocalityLbEndpoints": endpoints._LOCALITY,
    "LbEndpoint": endpoints._LB_ENDPOINT,
    "Endpoint": endpoints._ENDPOINT,
    "UpstreamTlsContext": transport_sockets._UPSTREAM,
    "DownstreamTlsContext": transport_sockets._DOWNSTREAM,
    "CommonTlsContext": transport_sockets._COMMON,
    "CertificateValidationContext": transport_sockets._VALIDATION,
    "Listener, outbound": listeners._LISTENER,
    "FilterChain, outbound": listeners._CHAIN,
    "FilterChainMatch, outbound": listeners._MATCH,
    "Listener, outbound, with use_original_dst": virtual._LISTENER,
    "Listener, inbound": inbound._LISTENER,
    "FilterChain, inbound": inbound._CHAIN,
    "FilterChainMatch, inbound": inbound._MATCH,
    "TcpProxy": filters._TCP,
    "HttpConnectionManager": filters._HTTP,
    "RBAC": rbac._FILTER,
    "LocalRateLimit, of requests": rate_limits._FIELDS[True],
    "LocalRateLimit, of connections": rate_limits._FIELDS[False],
    "RouteConfiguration": routes._CONFIG,
    "VirtualHost": routes._HOST,
    "Route": routes._ROUTE,
    "RouteMatch": matches._MATCH,
    "HeaderMatcher": matches._HEADER,
    "StringMatcher": matches._TEXT,
    "RouteAction": routes._ACTION,
    "RetryPolicy": route_parts._RETRY,
    "RedirectAction": route_parts._REDIRECT,
    "HeaderValueOption": headers._OPTION,
    "CorsPolicy": cors._FIELDS,
    "HTTPFault, of a route": fault.FIELDS,
    "Observed only, fields of a Cluster": observed.CLUSTER,
    "Observed only, fields of a Listener": observed.LISTENER,
    "Observed only, fields of a TcpProxy": observed.TCP,
    "Observed only, fields of an HttpConnectionManager": observed.HTTP,
    "Observed only, filters of connections and of clusters": observed.FILTERS,
    "Observed only, filters of requests": observed.HTTP_FILTERS,
}


def test_the_page_has_the_fields_that_the_code_honours() -> None:
    wanted = [f"- {name}: {', '.join(sorted(fields - {'@type'}))}" for name, fields in HONOURED.items()]
    page = PAGE.read_text()
    begin = page.index("## Every honoured field")
    found = [line for line in page[begin:].splitlines() if line.startswith("- ")]
    assert found == wanted, "write these lines:\n" + "\n".join(wanted)
