"""Between the bytes of an ADS stream and plain data; needs the extra ``[xds]``.

What this program's copy of Envoy's messages does not know cannot be honoured: a field of another number, a message of
another type, and bytes that are no message are problems of the resource they stand in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.config.trace.v3 import opentelemetry_pb2, zipkin_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.local_ratelimit.v3 import local_rate_limit_pb2 as network_rate_limit_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.formatter.metadata.v3 import metadata_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import Error as JsonError, MessageToDict, ParseDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from udpa.type.v1 import typed_struct_pb2 as old_typed_struct_pb2
from xds.type.v3 import typed_struct_pb2

from interceptor.discovery.xds import observed
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Resource, Response
from interceptor.discovery.xds.repeated import Repeated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.discovery.xds.messages import Request

# What may stand inside a resource has to be loaded to be read.
_READABLE: Final = (
    *(
        original_dst_pb2,
        tls_inspector_pb2,
        http_inspector_pb2,
        http_connection_manager_pb2,
        tcp_proxy_pb2,
        tls_pb2,
        raw_buffer_pb2,
        rbac_pb2,
        http_rbac_pb2,
        cors_pb2,
        local_rate_limit_pb2,
        network_rate_limit_pb2,
    ),
    *(router_pb2, previous_hosts_pb2, previous_priorities_config_pb2, http_protocol_options_pb2),
    *(
        opentelemetry_pb2,
        zipkin_pb2,
        file_pb2,
        als_pb2,
        logs_service_pb2,
        stream_pb2,
        metadata_pb2,
        fault_pb2,
    ),
    *(grpc_stats_pb2, req_without_query_pb2, uuid_pb2, old_typed_struct_pb2, typed_struct_pb2),
)
for (
    _name
) in observed.ISTIO:  # nobody looks inside them, so that their names are enough to read what holds them
    _package, _, _kind = _name.rpartition(".")
    _message = [descriptor_pb2.DescriptorProto(name=_kind)]
    descriptor_pool.Default().AddSerializedFile(
        descriptor_pb2.FileDescriptorProto(
            name=f"interceptor/{_name}.proto", package=_package, message_type=_message
        ).SerializeToString()
    )
_MESSAGES: Final = {
    CLUSTER: (cluster_pb2.Cluster, "name"),
    ENDPOINT: (endpoint_pb2.ClusterLoadAssignment, "cluster_name"),
    LISTENER: (listener_pb2.Listener, "name"),
    ROUTE: (route_pb2.RouteConfiguration, "name"),
    SECRET: (secret_pb2.Secret, "name"),
}
_WRAPPER: Final = "type.googleapis.com/envoy.service.discovery.v3.Resource"
_INVALID_ARGUMENT: Final = 3  # google.rpc.Code


def encode(request: Request, node: Mapping[str, object], *, delta: bool) -> bytes:
    """A request as it is sent."""
    if delta:
        made = discovery_pb2.DeltaDiscoveryRequest(
            type_url=request.type_url,
            response_nonce=request.nonce,
            resource_names_subscribe=request.subscribe,
            resource_names_unsubscribe=request.unsubscribe,
            initial_resource_versions=request.known,
        )
    else:
        made = discovery_pb2.DiscoveryRequest(
            type_url=request.type_url,
            response_nonce=request.nonce,
            version_info=request.version,
            resource_names=request.names,
        )
    if request.error is not None:
        made.error_detail.code = _INVALID_ARGUMENT
        made.error_detail.message = request.error
    if request.first:
        ParseDict(node, made.node)
    return bytes(made.SerializeToString())


def decode(data: bytes, *, delta: bool, known: Repeated | None = None) -> Response:
    """A response; raises ValueError where the bytes are none. ``known``: what is said again is not read again."""
    known = Repeated() if known is None else known
    message = discovery_pb2.DeltaDiscoveryResponse() if delta else discovery_pb2.DiscoveryResponse()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError("it sent what is no response of xDS") from error
    type_url = message.type_url
    if delta:
        resources = tuple(_wrapped(type_url, each, known) for each in message.resources)
        removed = tuple(message.removed_resources)
        return Response(type_url, message.nonce, message.system_version_info, resources, removed)
    resources = tuple(_bare(type_url, each, known) for each in message.resources)
    return Response(type_url, message.nonce, message.version_info, resources)


def _bare(type_url: str, given: Any, known: Repeated) -> Resource:
    if given.type_url != _WRAPPER:
        return _known(type_url, given, known)
    wrapper = discovery_pb2.Resource()
    try:
        wrapper.ParseFromString(given.value)
    except DecodeError:
        return Resource("", problem="is no message of its type")
    return _wrapped(type_url, wrapper, known)


def _wrapped(type_url: str, wrapper: discovery_pb2.Resource, known: Repeated) -> Resource:
    ttl = wrapper.ttl.ToTimedelta().total_seconds() if wrapper.HasField("ttl") else None
    if not wrapper.HasField("resource"):
        return Resource(wrapper.name, None, wrapper.version, ttl)
    found = _known(type_url, wrapper.resource, known)
    return replace(found, name=wrapper.name or found.name, version=wrapper.version, ttl=ttl)


def _known(type_url: str, given: Any, known: Repeated) -> Resource:
    """A resource as it was read before, where it says what it said."""
    if given.type_url != type_url:
        return _resource(type_url, given)
    found = known.find(type_url, given.value)
    if found is None:
        found = _resource(type_url, given)
        known.keep(type_url, given.value, found)
    return found


def _resource(type_url: str, given: Any) -> Resource:
    name = ""
    if given.type_url != type_url or type_url not in _MESSAGES:
        return Resource(name, problem=f"is of the type '{given.type_url}', in a response of '{type_url}'")
    kind, naming = _MESSAGES[type_url]
    message = kind()
    try:
        message.ParseFromString(given.value)
        name = getattr(message, naming)
        strange = next(_strange(message, ""), None)
        if strange is not None:
            return Resource(name, problem=f"{strange} is a field that this version does not know")
        return Resource(name, MessageToDict(message, preserving_proto_field_name=True))
    except DecodeError:
        return Resource(name, problem="is no message of its type")
    except (TypeError, KeyError, JsonError, RecursionError) as error:  # of a message inside that is not known
        return Resource(name, problem=f"holds what this version cannot read: {error}")


def _strange(message: Message, path: str) -> Iterator[str]:
    """The paths of fields that this copy of the messages does not have."""
    for unknown in UnknownFieldSet(message):
        yield f"{path}[{unknown.field_number}]"
    if isinstance(message, Any):
        known = descriptor_pool.Default().FindMessageTypeByName(message.type_url.rpartition("/")[2])
        if known.full_name in observed.ISTIO:
            return
        inside = message_factory.GetMessageClass(known)()
        inside.ParseFromString(message.value)
        yield from _strange(inside, path)
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in [value] if isinstance(value, Message) else value:
                yield from _strange(each, f"{path}{field.name}.")
