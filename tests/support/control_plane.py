"""An ADS server that knows nothing of ours: grpcio and Envoy's messages; what it says is what a test tells it to."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2 as config_rbac_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def _socket(host: str, port: int) -> dict[str, object]:
    return {"socketAddress": {"address": host, "portValue": port}}


def _assignment(name: str, *hosts: str, port: int) -> dict[str, object]:
    given = [{"endpoint": {"address": _socket(host, port)}} for host in hosts]
    return {"clusterName": name, "endpoints": [{"lbEndpoints": given}]}


def eds_cluster(name: str, **more: object) -> cluster_pb2.Cluster:
    given = {"name": name, "type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}}}, **more}
    return json_format.ParseDict(given, cluster_pb2.Cluster())


def static_cluster(name: str, *hosts: str, port: int = 80) -> cluster_pb2.Cluster:
    given = {"name": name, "loadAssignment": _assignment(name, *hosts, port=port)}
    return json_format.ParseDict(given, cluster_pb2.Cluster())


def original_cluster(name: str) -> cluster_pb2.Cluster:
    given = {"name": name, "type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED"}
    return json_format.ParseDict(given, cluster_pb2.Cluster())


def endpoints(name: str, *hosts: str, port: int = 80) -> endpoint_pb2.ClusterLoadAssignment:
    return json_format.ParseDict(_assignment(name, *hosts, port=port), endpoint_pb2.ClusterLoadAssignment())


def listener(name: str, host: str, port: int, cluster: str) -> listener_pb2.Listener:
    made = json_format.ParseDict(
        {"name": name, "address": _socket(host, port), "bindToPort": False}, listener_pb2.Listener()
    )
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="x", cluster=cluster)
    made.filter_chains.add().filters.add(name="tcp").typed_config.Pack(proxy)
    return made


def named_listener(name: str, host: str, port: int, **clusters: tuple[str, ...]) -> listener_pb2.Listener:
    """A listener whose chains are told apart by the server names of their clients, by cluster."""
    made = json_format.ParseDict(
        {"name": name, "address": _socket(host, port), "bindToPort": False}, listener_pb2.Listener()
    )
    inspector = made.listener_filters.add(name="envoy.filters.listener.tls_inspector")
    inspector.typed_config.Pack(tls_inspector_pb2.TlsInspector())
    for cluster, names in clusters.items():
        chain = made.filter_chains.add()
        chain.filter_chain_match.server_names.extend(names)
        proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="x", cluster=cluster)
        chain.filters.add(name="tcp").typed_config.Pack(proxy)
    return made


def limited(made: listener_pb2.Listener, tokens: int) -> listener_pb2.Listener:
    """A listener of so many requests in ten minutes."""
    last = made.filter_chains[0].filters[-1]
    manager = http_connection_manager_pb2.HttpConnectionManager()
    last.typed_config.Unpack(manager)
    router = manager.http_filters.pop()
    all_of_it = {"defaultValue": {"numerator": 100}}
    given = {
        "statPrefix": "x",
        "tokenBucket": {"maxTokens": tokens, "tokensPerFill": tokens, "fillInterval": "600s"},
        "filterEnabled": all_of_it,
        "filterEnforced": all_of_it,
    }
    limit = json_format.ParseDict(given, local_rate_limit_pb2.LocalRateLimit())
    manager.http_filters.add(name="limit").typed_config.Pack(limit)
    manager.http_filters.append(router)
    last.typed_config.Pack(manager)
    return made


def guarded(made: listener_pb2.Listener, action: str, permission: object) -> listener_pb2.Listener:
    """A listener before whose filters one of RBAC stands."""
    policy = {"permissions": [permission], "principals": [{"any": True}]}
    rules = json_format.ParseDict({"action": action, "policies": {"p": policy}}, config_rbac_pb2.RBAC())
    [chain] = made.filter_chains
    last = chain.filters[-1]
    if last.name == "http":
        manager = http_connection_manager_pb2.HttpConnectionManager()
        last.typed_config.Unpack(manager)
        router = manager.http_filters.pop()
        manager.http_filters.add(name="rbac").typed_config.Pack(http_rbac_pb2.RBAC(rules=rules))
        manager.http_filters.append(router)
        last.typed_config.Pack(manager)
    else:
        del chain.filters[:]
        chain.filters.add(name="rbac").typed_config.Pack(rbac_pb2.RBAC(rules=rules, stat_prefix="x"))
        chain.filters.append(last)
    return made


def inbound_listener(name: str, port: int, pair: str, bundle: str) -> listener_pb2.Listener:
    """A listener of the app's port that takes mutual TLS alone."""
    given = {"name": name, "address": _socket("0.0.0.0", port), "bindToPort": False}
    made = json_format.ParseDict({**given, "trafficDirection": "INBOUND"}, listener_pb2.Listener())
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    common = context.common_tls_context
    certificate = common.tls_certificate_sds_secret_configs.add(name=pair)
    certificate.sds_config.ads.SetInParent()
    common.validation_context_sds_secret_config.name = bundle
    common.validation_context_sds_secret_config.sds_config.ads.SetInParent()
    chain = made.filter_chains.add()
    chain.transport_socket.name = "envoy.transport_sockets.tls"
    chain.transport_socket.typed_config.Pack(context)
    chain.filters.add(name="tcp").typed_config.Pack(tcp_proxy_pb2.TcpProxy(stat_prefix="x", cluster="app"))
    return made


def http_listener(name: str, host: str, port: int, routes: str) -> listener_pb2.Listener:
    """A listener of requests whose routes come by RDS."""
    given = {"name": name, "address": _socket(host, port), "bindToPort": False}
    made = json_format.ParseDict(given, listener_pb2.Listener())
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="x")
    manager.rds.route_config_name = routes
    manager.rds.config_source.ads.SetInParent()
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(router_pb2.Router())
    made.filter_chains.add().filters.add(name="http").typed_config.Pack(manager)
    return made


def route_configuration(name: str, *hosts: object) -> route_pb2.RouteConfiguration:
    return json_format.ParseDict({"name": name, "virtualHosts": list(hosts)}, route_pb2.RouteConfiguration())


def pair_secret(name: str, certificate: bytes, key: bytes) -> secret_pb2.Secret:
    made = secret_pb2.Secret(name=name)
    made.tls_certificate.certificate_chain.inline_bytes = certificate
    made.tls_certificate.private_key.inline_bytes = key
    return made


def bundle_secret(name: str, pem: bytes) -> secret_pb2.Secret:
    made = secret_pb2.Secret(name=name)
    made.validation_context.trusted_ca.inline_bytes = pem
    return made


def secured(
    cluster: cluster_pb2.Cluster, pair: str, bundle: str, sni: str, *names: str, alpn: tuple[str, ...] = ()
) -> cluster_pb2.Cluster:
    """A cluster that is spoken to by mutual TLS; pair and bundle come by SDS."""
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    common = context.common_tls_context
    common.alpn_protocols.extend(alpn)
    common.tls_certificate_sds_secret_configs.add(name=pair).sds_config.ads.SetInParent()
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.name = bundle
    combined.validation_context_sds_secret_config.sds_config.ads.SetInParent()
    for name in names:
        kind = "URI" if ":" in name else "DNS"
        matcher = combined.default_validation_context.match_typed_subject_alt_names.add(san_type=kind)
        matcher.matcher.exact = name
    combined.default_validation_context.SetInParent()
    cluster.transport_socket.name = "envoy.transport_sockets.tls"
    for source in (
        common.tls_certificate_sds_secret_configs[0].sds_config,
        combined.validation_context_sds_secret_config.sds_config,
    ):
        source.resource_api_version = "V3"
    cluster.transport_socket.typed_config.Pack(context)
    return cluster


def packed(resource: Any) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(resource)
    return made


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # it ships no types
    """Keeps resources, and sends them to whoever subscribes: state of the world, and delta with all that is asked for."""

    def __init__(
        self, port: int = 0, host: str = "127.0.0.1", credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.requests: queue.Queue[Any] = queue.Queue()
        self.resources: dict[str, dict[str, Any]] = {
            each: {} for each in (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET)
        }
        self.version = 0
        self.silent = False
        self.callers: list[list[bytes]] = []  # the names in the certificate behind each stream
        self._streams: list[tuple[queue.Queue[Any], dict[str, set[str]], bool]] = []
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        address = f"{host}:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self._server.start()

    def stop(self) -> None:
        for outgoing, _, _ in self._streams:
            outgoing.put(None)
        self._server.stop(0).wait()

    def put(self, type_url: str, *resources: Any, push: bool = True) -> None:
        """All the resources of a type from now on."""
        self.resources[type_url] = {_name(each): each for each in resources}
        if push:
            self.push(type_url)

    def push(self, type_url: str) -> None:
        for stream in list(self._streams):
            if type_url in stream[1]:
                self._send(stream, type_url)

    def say(self, data: Any) -> None:
        """A response as it is, to every stream."""
        for outgoing, _, _ in self._streams:
            outgoing.put(data)

    def drop(self) -> None:
        """End every stream with an error."""
        for outgoing, _, _ in self._streams:
            outgoing.put(grpc.StatusCode.UNAVAILABLE)

    def wait_for(self, matches: Any, seconds: float = 20.0) -> Any:
        """The next request of which something holds."""
        while True:
            request = self.requests.get(timeout=seconds)
            if matches(request):
                return request

    def StreamAggregatedResources(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802 (gRPC's name)
        return self._serve(request_iterator, context, delta=False)

    def DeltaAggregatedResources(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802 (gRPC's name)
        return self._serve(request_iterator, context, delta=True)

    def _serve(self, request_iterator: Any, context: Any, *, delta: bool) -> Iterator[Any]:
        self.callers.append(list(context.auth_context().get("x509_subject_alternative_name", ())))
        outgoing: queue.Queue[Any] = queue.Queue()
        stream: tuple[queue.Queue[Any], dict[str, set[str]], bool] = (outgoing, {}, delta)
        self._streams.append(stream)
        context.add_callback(lambda: outgoing.put(None))
        reader = ThreadPoolExecutor(1)
        reader.submit(self._read, request_iterator, stream)
        try:
            while (said := outgoing.get()) is not None:
                if isinstance(said, grpc.StatusCode):
                    context.abort(said, "the stream was dropped")
                yield said
        finally:
            self._streams.remove(stream)
            reader.shutdown(wait=False)

    def _read(
        self, request_iterator: Any, stream: tuple[queue.Queue[Any], dict[str, set[str]], bool]
    ) -> None:
        _, asked, delta = stream
        try:
            for request in request_iterator:
                self.requests.put(request)
                type_url, known = request.type_url, request.type_url in asked
                before = set(asked.get(type_url, ()))
                names = asked.setdefault(type_url, set())
                if delta:
                    names |= set(request.resource_names_subscribe)
                    names -= set(request.resource_names_unsubscribe)
                else:
                    asked[type_url] = names = set(request.resource_names)
                if not self.silent and (not known or names - before):
                    self._send(stream, type_url)
        except grpc.RpcError:
            pass

    def _send(self, stream: tuple[queue.Queue[Any], dict[str, set[str]], bool], type_url: str) -> None:
        outgoing, asked, delta = stream
        self.version += 1
        table = self.resources[type_url]
        names = asked[type_url]
        chosen = {name: each for name, each in table.items() if names <= {"*"} or name in names}
        nonce, version = f"n{self.version}", str(self.version)
        if delta:
            made = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce)
            for name, each in chosen.items():
                made.resources.add(name=name, version=version, resource=packed(each))
            outgoing.put(made)
        else:
            resources = [packed(each) for each in chosen.values()]
            outgoing.put(
                discovery_pb2.DiscoveryResponse(
                    type_url=type_url, nonce=nonce, version_info=version, resources=resources
                )
            )


def _name(resource: Any) -> str:
    return str(getattr(resource, "name", "") or resource.cluster_name)
