"""Everything that a configuration's policy documents mean for this workload, compiled once for each configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.model.connection import Direction
from interceptor.model.identity import SpiffeId
from interceptor.policy import authorization, peer_authentication, tokens
from interceptor.policy.facts import ConnectionFacts
from interceptor.policy.peer_authentication import Mode
from interceptor.policy.requests import UNDECIDED, Answer, RequestRules, answered
from interceptor.policy.selection import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.config.configuration import Configuration
    from interceptor.model.connection import Flow
    from interceptor.model.http import RequestHead
    from interceptor.policy.authorization import Authorizer
    from interceptor.policy.facts import RequestFacts
    from interceptor.policy.peer_authentication import PeerModes
    from interceptor.policy.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Policies:
    """What a workload's policies say, in the forms that are asked."""

    modes: PeerModes
    ingress: Authorizer | None  # over peers' connections and requests to the app
    egress: Mapping[str, Authorizer]  # over the app's own, by the ServiceEntry that names the destination
    identity: SpiffeId  # the app's own: the source of what it opens
    tokens: Tokens | None  # of peers' requests
    requests: RequestRules

    def authorizer(self, direction: Direction, entry: str | None) -> Authorizer | None:
        """The policies about a flow; None where there are none."""
        if direction is Direction.INGRESS:
            return self.ingress
        return self.egress.get(entry) if entry is not None else None

    def refuses_plaintext(self, flow: Flow) -> tuple[str, str] | None:
        """The document and the sentence that refuse a peer's connection for not being mutual TLS, if any do."""
        assert flow.original_dst is not None
        if flow.security == "mutual_tls":
            return None
        effective = self.modes.effective(flow.original_dst.port)
        if effective.mode is not Mode.STRICT:
            return None
        return effective.policy, (
            f"the peer did not speak mutual TLS to port {flow.original_dst.port}, and {effective.policy} is STRICT"
        )

    def connection(self, flow: Flow) -> ConnectionFacts:
        """What policies compare of a flow whose original destination is known."""
        assert flow.original_dst is not None
        ingress = flow.direction is Direction.INGRESS
        identity = flow.peer_identity if ingress else self.identity
        return ConnectionFacts(flow.peer, flow.original_dst, identity, flow.server_name or "")

    def request(self, flow: Flow, entry: str | None, head: RequestHead, now: float) -> Answer:
        """The verdict over a request of a flow; the head is changed to what may be forwarded.

        ``entry`` is the ServiceEntry that names the destination on egress, ``now`` Unix time.
        """
        trusted = self.tokens if flow.direction is Direction.INGRESS else None
        authorizer = self.authorizer(flow.direction, entry)
        return self.requests.decide(authorizer, trusted, self.connection(flow), head, now)

    def request_again(self, flow: Flow, entry: str | None, facts: RequestFacts) -> Answer:
        """The verdict over a request that is under way, by what was known of it when it began."""
        authorizer = self.authorizer(flow.direction, entry)
        if authorizer is None:
            return Answer(UNDECIDED, None, facts)
        return answered(authorizer.decide(self.connection(flow), facts), facts)


def compiled(configuration: Configuration) -> Policies:
    """The policies of a configuration."""
    sidecar = configuration.sidecar
    spec, workload = sidecar.spec, Workload.of(sidecar)
    trust_domains = (spec.trustDomain, *spec.trustDomainAliases)
    documents = configuration.authorization_policies
    return Policies(
        peer_authentication.merged(configuration.peer_authentications, workload),
        authorization.for_workload(documents, workload, trust_domains),
        authorization.for_destinations(documents, trust_domains),
        SpiffeId(spec.trustDomain, workload.namespace, spec.serviceAccount),
        tokens.for_workload(configuration.request_authentications, workload),
        RequestRules(spec.pathNormalization.normalization, spec.gatewayTopology.numTrustedProxies),
    )
