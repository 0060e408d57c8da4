"""What tells of services and names: the control planes, name servers, and the listener that answers name queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.discovery.name_servers import Hosts, NameServers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.config.sidecar import Dns, Sidecar
    from interceptor.config.xds import Xds
    from interceptor.discovery.dns import DnsListener
    from interceptor.discovery.live import Live
    from interceptor.discovery.resolver import Answer, Lookup
    from interceptor.discovery.xds.client import Client
    from interceptor.proxy.transport import Credentials
    from interceptor.runtime.binding import Bound
    from interceptor.state.store import Store
    from interceptor.telemetry.metrics import Metrics


def lookup_of(asked: Dns | None, namespace: str | None) -> Lookup:
    """What asks for the addresses of the registry's names; loaded where there is one, for it is 4 MB."""
    servers = NameServers(() if asked is None else asked.nameservers, namespace)
    hosts = Hosts(namespace)
    made: list[Lookup] = []

    async def lookup(host: str, versions: frozenset[int]) -> Answer:
        if not made:
            from interceptor.discovery.lookup import Lookups  # noqa: PLC0415 (4 MB)

            made.append(Lookups(servers, hosts))
        return await made[0](host, versions)

    return lookup


def dns_listener(
    asked: Dns, namespace: str | None, bound: Bound, store: Store, metrics: Metrics
) -> DnsListener:
    """What answers name queries."""
    from interceptor.discovery.dns import DnsListener  # noqa: PLC0415 (loaded before root was given up)

    servers = NameServers(asked.nameservers, namespace)
    return DnsListener(bound.dns, lambda: store.current.names, servers, metrics.name_query)


def xds_client(
    sidecar: Sidecar, asked: Xds, live: Live, metrics: Metrics, credentials: Credentials
) -> Client:
    """What follows the control planes."""
    from interceptor.discovery.xds.client import Client  # noqa: PLC0415 (loaded before root was given up)
    from interceptor.discovery.xds.status import node  # noqa: PLC0415 (as above)
    from interceptor.discovery.xds.translate import Translator  # noqa: PLC0415 (as above)
    from interceptor.tls import secrets  # noqa: PLC0415 (as above)

    spec, names = sidecar.spec, None if sidecar.spec.tls is None else sidecar.spec.tls.sds

    def check(name: str, files: Mapping[str, bytes]) -> str | None:
        own = names is not None and name in {names.certificate, names.trustBundle}
        return secrets.check(files, spec.trustDomain if own else None)

    translator = Translator(
        sidecar.metadata.namespace,
        spec.timeouts.connect,
        None if names is None else (names.certificate, names.trustBundle),
        any(item.use == "rateLimitDocuments" for item in spec.middleware),
        sidecar.metadata.labels,
        check,
        () if spec.tls is None else (spec.trustDomain, *spec.trustDomainAliases),
        registry_only=spec.egress.policy == "REGISTRY_ONLY",
    )
    own = credentials.workload if asked.as_workload else None
    return Client(asked, node(sidecar, asked), translator, live.supply, metrics.xds(), credentials.give, own)
