"""TLS on the path: who a peer of ours is, and how an upstream is spoken to. Imported only where TLS is configured.

Certificates are taken at the moment of a handshake, so a rotation is in force for the next one. A handshake is driven
by what the socket tells; whatever a peer sends, and however slowly, costs it its connection and us nothing else.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from interceptor.kernel import sockets
from interceptor.model.connection import ResponseFlag
from interceptor.model.forwarding import Forwarding
from interceptor.model.identity import SECRETS, Issued, SpiffeId
from interceptor.proxy import believed, shaking
from interceptor.proxy.believed import Believed
from interceptor.proxy.endings import HandshakeError
from interceptor.tls import certificates, judgement, rotation
from interceptor.tls.contexts import Upstream
from interceptor.tls.judgement import PeerCertificate, Refusal
from interceptor.tls.rotation import Files, Keeper
from interceptor.tls.secrets import GivenFiles, Secrets
from interceptor.tls.stream import TlsStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping

    from interceptor.config.configuration import Configuration
    from interceptor.config.destination_rule import ClientTls, DestinationRule
    from interceptor.config.sidecar import Tls
    from interceptor.model.address import UpstreamAddress
    from interceptor.model.connection import Flow, ProtocolName
    from interceptor.model.forwarding import CertificateDetails
    from interceptor.model.identity import CertificateFiles
    from interceptor.proxy.waits import Waits
    from interceptor.routing.security import UpstreamTls
    from interceptor.tls.certificates import Material
    from interceptor.tls.contexts import Contexts
    from interceptor.tls.rotation import Source
    from interceptor.tls.spiffe import Agent

# What we take of a peer's list. Istio's proxies also take istio-peer-exchange, and exchange metadata in front of a
# TCP stream then; we do not speak that, so we never agree to it.
ACCEPTED: Final = ("h2", "http/1.1")
# What we offer in the mesh: the first word tells the other proxy that it is one of ours who calls.
OFFERED: Final[Mapping[ProtocolName, tuple[str, ...]]] = {
    "http": ("istio-http/1.1", "istio", "http/1.1"),
    "http2": ("istio-h2", "istio", "h2"),
    "grpc": ("istio-h2", "istio", "h2"),
    "tcp": ("istio",),
    "tls": ("istio",),
    "auto": ("istio",),
}
# The same outside of it.
_OUTSIDE: Final[Mapping[ProtocolName, tuple[str, ...]]] = {
    "http": ("http/1.1",),
    "http2": ("h2",),
    "grpc": ("h2",),
}


class Begun(NamedTuple):
    """A handshake, and what it is made by."""

    stream: TlsStream
    contexts: Contexts
    upstream: Upstream | None = None


@dataclass(slots=True)
class Transport:
    """The certificates of this proxy, and handshakes by them."""

    workload: Keeper | None  # our own: None where only others' are verified
    others: Mapping[CertificateFiles, Keeper]  # that DestinationRules name
    trust_domains: Mapping[str, str]  # each with the primary that it is written as
    hub: Waits
    timeout: float
    forwarding: Forwarding = field(default_factory=Forwarding)
    believed: Believed = field(default_factory=Believed)
    on_change: Callable[[Keeper, Material], None] | None = None  # other certificates are in force than these

    async def accept(self, flow: Flow, sock: socket.socket) -> TlsStream:
        """Let a peer prove who it is, and note it in the flow. Raises HandshakeError; the socket is the caller's then."""
        begun = self.begin_accept(sock)
        await self._shake(begun.stream, "the peer")
        self.admit(flow, begun)
        return begun.stream

    def begin_accept(self, sock: socket.socket) -> Begun:
        """What a peer is answered with. Raises HandshakeError."""
        keeper = self.workload
        assert keeper is not None
        if (own := keeper.refusal()) is not None:
            raise HandshakeError("own_certificate", f"{own}; until then peers are refused")
        contexts = keeper.current
        return Begun(TlsStream(sock, contexts.server(ACCEPTED), server_side=True), contexts)

    def admit(self, flow: Flow, begun: Begun) -> None:
        """The handshake is done: note who the peer is. Raises HandshakeError."""
        keeper, (stream, contexts, _) = self.workload, begun
        assert keeper is not None
        judged = self._judge(stream, contexts, keeper.now())
        if isinstance(judged, Refusal):
            raise HandshakeError(judged.reason, judged.sentence, ResponseFlag.DENY)
        flow.security, flow.peer_identity = "mutual_tls", judged.identity
        if keeper.current is not contexts:  # changed during the handshake
            refusal = self._again(judged, contexts.material)
            if refusal is not None:
                raise HandshakeError(refusal.reason, refusal.sentence, ResponseFlag.DENY)
        flow.proved_until = _until(judged, contexts, keeper)
        flow.peer_certificate = Issued(judged.issuer, judged.serial, judged.authority, judged.above)
        flow.peer_presented = self.forwarding.proved(partial(_forwarded, stream, contexts))

    def judge_again(self, flows: Iterable[Flow], before: Material) -> int:
        """Deny the open flows whose peer the new trust bundle and revocation list do not accept; how many."""
        denied = 0
        for flow in flows:
            if flow.denied is not None or flow.peer_certificate is None:
                continue
            refusal = self._again(flow.peer_certificate, before)
            if refusal is not None:
                flow.denied, flow.flag, flow.details = refusal.reason, ResponseFlag.DENY, refusal.sentence
                denied += 1
        return denied

    def _again(self, peer: Issued | PeerCertificate, before: Material) -> Refusal | None:
        assert self.workload is not None
        return believed.refusal(peer, before, self.workload.current.material)

    async def connect(
        self,
        flow: Flow,
        sock: socket.socket,
        address: UpstreamAddress,
        tls: UpstreamTls,
        protocol: ProtocolName,
    ) -> TlsStream:
        """Speak TLS to an upstream that took our connection. Raises TlsDialError, and closes the socket then."""
        try:
            begun = self.begin_connect(sock, address, tls, protocol)
            await self._shake(begun.stream, "the upstream")
            self.believe(flow, begun, tls)
        except HandshakeError as error:
            sockets.reset(sock)
            raise shaking.no_tls(address, tls, error) from error
        except BaseException:
            sockets.reset(sock)
            raise
        return begun.stream

    def believe(self, flow: Flow, begun: Begun, tls: UpstreamTls) -> None:
        """The handshake is done: believe who answered, until certificates say otherwise, as they may since it began.

        Raises HandshakeError.
        """
        stream, contexts, upstream = begun
        presented, keeper = self._expect(flow, stream, contexts, tls), self._keeper(tls)
        if keeper.current is not contexts:
            refused = believed.refusal(presented, contexts.material, keeper.current.material)
            if refused is not None:
                raise HandshakeError(refused.reason, refused.sentence.replace("peer", "upstream"))
        if keeper.on_change is None and self.on_change is not None:
            keeper.on_change = partial(self.on_change, keeper)
        flow.proved_until = _until(presented, contexts, keeper)
        self.believed.note(stream, flow, keeper, presented)
        assert upstream is not None
        if not (stream.resumed and contexts.serves_on(upstream, keeper.now())):
            by_id = stream.version == "TLSv1.2"
            stream.on_ticket = lambda: contexts.keep(upstream, stream.session, by_id=by_id)

    def _keeper(self, tls: UpstreamTls) -> Keeper:
        keeper = self.workload if tls.files is None else self.others.get(tls.files)
        if (
            keeper is None
        ):  # the configuration was refused without; so that of a flow is older than the one before
            raise HandshakeError(
                "own_certificate", f"nothing names the certificates of {tls.policy} any more"
            )
        return keeper

    def begin_connect(
        self, sock: socket.socket, address: UpstreamAddress, tls: UpstreamTls, protocol: ProtocolName
    ) -> Begun:
        """What an upstream is called with. Raises HandshakeError."""
        keeper = self._keeper(tls)
        if (own := keeper.refusal()) is not None:
            raise HandshakeError("own_certificate", str(own))
        contexts = keeper.current
        mesh = tls.kind == "mesh"
        alpn = OFFERED[protocol] if mesh else _OUTSIDE.get(protocol, ())
        check_host = not mesh and not tls.expected
        if check_host and tls.server_name is None:
            raise HandshakeError(
                "san", "nothing says which name its certificate must have: give subjectAltNames or sni"
            )
        upstream = Upstream(str(address), tls.server_name, tls.expected, alpn)
        stream = TlsStream(
            sock,
            contexts.client(alpn, check_host=check_host),
            server_side=False,
            server_name=tls.server_name,
            session=contexts.session(upstream),
        )
        return Begun(stream, contexts, upstream)

    def _expect(self, flow: Flow, stream: TlsStream, contexts: Contexts, tls: UpstreamTls) -> PeerCertificate:
        """Compare who answered with whom we meant to call."""
        if tls.kind != "mesh":
            flow.security = "mutual_tls" if tls.kind == "mutual" else "tls"
            peer, _ = _presented(stream, contexts)
            refused = judgement.judge_presented(peer, contexts.material.revoked, self._keeper(tls).now())
            if refused is not None:
                raise HandshakeError(refused.reason, refused.sentence.replace("peer", "upstream"))
            wrong = judgement.judge_names(peer.names, tls.expected)
        else:
            judged = self._judge(stream, contexts, self.workload.now() if self.workload else 0.0)
            if isinstance(judged, Refusal):
                raise HandshakeError(judged.reason, judged.sentence.replace("peer", "upstream"))
            wrong = judgement.judge_names(judged.names, tls.expected) or self._judge_domain(judged, tls)
            flow.security, flow.upstream_identity = "mutual_tls", judged.identity
            peer = judged
        if wrong is not None:
            raise HandshakeError(wrong.reason, wrong.sentence)
        return peer

    def _judge_domain(self, upstream: PeerCertificate, tls: UpstreamTls) -> Refusal | None:
        """Without an expectation any identity of our own trust domain will do, and none of a foreign one."""
        assert upstream.identity is not None
        domain = upstream.identity.trust_domain
        if tls.expected or domain in self.trust_domains.values():
            return None
        return Refusal(
            "trust_domain",
            f"the upstream is of the foreign trust domain '{domain}', and nothing expects it; give subjectAltNames",
        )

    def _judge(self, stream: TlsStream, contexts: Contexts, now: float) -> PeerCertificate | Refusal:
        peer, uris = _presented(stream, contexts)
        material = contexts.material
        if not material.anchors:
            return judgement.judge_peer(peer, uris, self.trust_domains, material.revoked, now)
        trusted = {**{each: each for each in material.anchors}, **self.trust_domains}
        judged = judgement.judge_peer(peer, uris, trusted, material.revoked, now)
        if isinstance(judged, Refusal):
            return judged
        assert material.identity is not None  # it came with the bundles
        der = stream.authority()
        root = None if der is None else hashlib.sha256(der).hexdigest()
        own = material.identity.trust_domain
        return judgement.judge_authority(SpiffeId.parse(uris[0]), root, own, material.anchors) or judged

    async def _shake(self, stream: TlsStream, who: str) -> None:
        """Drive a handshake to its end. Raises HandshakeError."""
        try:
            with trio.fail_after(self.timeout):
                while not shaking.go_on(stream, who):
                    if stream.holds:
                        await self.hub.wait_writable(stream.sock)
                    else:
                        await self.hub.wait_readable(stream.sock)
        except trio.TooSlowError:
            raise shaking.too_slow(who) from None


def _presented(stream: TlsStream, contexts: Contexts) -> tuple[PeerCertificate, tuple[str, ...]]:
    der = stream.certificate()
    assert der is not None  # OpenSSL asked for it
    peer, uris = certificates.peer(der)
    return contexts.vouching.traced(peer, der, stream.chain), uris


def _until(presented: PeerCertificate, contexts: Contexts, keeper: Keeper) -> float:
    """When the first of both sides' certificates expires, by the clock of the path."""
    expires = min(presented.not_after, contexts.material.expires)
    return trio.current_time() + expires - keeper.now()


def _forwarded(stream: TlsStream, contexts: Contexts, details: CertificateDetails) -> bytes:
    der = stream.certificate()
    assert der is not None
    return b"By=%b;%b" % (str(contexts.material.identity).encode(), certificates.forwarded(der, details))


class Credentials:
    """Every certificate that a configuration names, read and judged: the workload's, and those of DestinationRules."""

    def __init__(self, configuration: Configuration, wall_clock: Callable[[], float]) -> None:
        """Raises ConfigError where one cannot be used: the proxy does not begin without."""
        spec = configuration.sidecar.spec
        self._timeout = spec.timeouts.handshake
        self._trust_domains = dict.fromkeys((spec.trustDomain, *spec.trustDomainAliases), spec.trustDomain)
        self._wall_clock = wall_clock
        self._tls = spec.tls
        self._forwarding = spec.proxyHeaders.forwarding
        self.secrets = Secrets()
        self.agent = _agent(spec.tls)
        self.workload = (
            None
            if spec.tls is None
            else Keeper(
                self.agent or self._source(spec.tls.files),
                trust_domain=spec.trustDomain,
                wall_clock=wall_clock,
            )
        )
        self.others: dict[CertificateFiles, Keeper] = {}
        self._named: set[CertificateFiles] = set()
        self.admit(configuration)

    def admit(self, configuration: Configuration) -> None:
        """Read what a configuration names beside what is there. Raises ConfigError, and changes nothing then.

        What neither it nor the one before names goes: flows that began by an older one dial by these no more.
        """
        named = {tls.files for rule in configuration.destination_rules for tls in _settings(rule)}
        fresh = {
            files: Keeper(self._source(files), trust_domain=None, wall_clock=self._wall_clock)
            for files in sorted(named - self.others.keys(), key=str)
        }
        self.others.update(fresh)
        for files in self.others.keys() - named - self._named:
            del self.others[files]
        self._named = named

    def _source(self, files: CertificateFiles) -> Source:
        if any(path.startswith(SECRETS) for path in files.paths()):
            return GivenFiles(files, self.secrets)
        return Files(files)

    def give(self, files: Mapping[str, bytes]) -> None:
        """All the secrets of the control plane from now on."""
        self.secrets.replace(files)
        for keeper in self.keepers:
            if keeper.changed:
                keeper.reload()
        if self.secrets.pass_on is not None:
            self.secrets.pass_on(files)

    @property
    def pending(self) -> str | None:
        """Why there is no certificate of the workload's own though there should be: a secret that did not come."""
        tls = self._tls
        if tls is None or tls.sds is None or (missing := self.secrets.missing(tls.files)) is None:
            return None
        return f"spec.tls.sds: the control plane has not given {missing}"

    @property
    def keepers(self) -> tuple[Keeper, ...]:
        """All of them."""
        return (*(() if self.workload is None else (self.workload,)), *self.others.values())

    async def watch(self, expiries: Callable[[dict[str, float]], None] = lambda _: None) -> None:
        """Take new versions of the files, until cancelled."""
        await rotation.watch(lambda: self.keepers, expiries)

    def take(self, data: bytes | None) -> None:
        """What the process that listens to the agent heard: an answer, or that there is no identity any more."""
        assert self.agent is not None
        assert self.workload is not None
        if data is None:
            self.agent.withdraw()
        else:
            self.agent.take(data, self.workload)

    def transport(self, hub: Waits) -> Transport:
        """What the path does handshakes with."""
        return Transport(
            self.workload, self.others, self._trust_domains, hub, self._timeout, self._forwarding
        )


def _agent(tls: Tls | None) -> Agent | None:
    """The agent that gives our certificates; the gateway has seen to it that its library is there."""
    if tls is None or tls.workloadApi is None:
        return None
    from interceptor.tls.spiffe import Agent  # noqa: PLC0415 (gRPC, for who asks for it)

    return Agent(tls.workloadApi.socket, tls.workloadApi.hint, os.environ)


def _settings(rule: DestinationRule) -> Iterable[ClientTls]:
    """The TLS settings of a rule that name files of their own."""
    settings = (rule.spec.trafficPolicy.tls, *rule.port_tls.values())
    return (tls for tls in settings if tls is not None and tls.mode in {"SIMPLE", "MUTUAL"})
