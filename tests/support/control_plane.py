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
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


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


def packed(resource: Any) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(resource)
    return made


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # it ships no types
    """Keeps resources, and sends them to whoever subscribes: state of the world, and delta with all that is asked for."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.requests: queue.Queue[Any] = queue.Queue()
        self.resources: dict[str, dict[str, Any]] = {
            each: {} for each in (CLUSTER, ENDPOINT, LISTENER, ROUTE)
        }
        self.version = 0
        self.silent = False
        self._streams: list[tuple[queue.Queue[Any], dict[str, set[str]], bool]] = []
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"{host}:{port}")
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
