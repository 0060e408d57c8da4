"""Certificates from a SPIFFE agent (SPIRE's, or any other) by the Workload API; needs the extra ``[spiffe]``.

gRPC reads one stream in a thread of its own; each answer is handed to trio's thread, judged there, and in use for the
next handshake. An agent that is gone changes nothing until the certificates expire. One that says that this workload has
no identity any more takes it back at once (SPIFFE Workload API, section 5.2.1). Keys stay in memory.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import random  # noqa: TID251 (spreads reconnects; nobody gains by guessing it)
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from interceptor.errors import ConfigError
from interceptor.model.chance import backoff
from interceptor.model.identity import is_trust_domain
from interceptor.tls import certificates, judgement, workload_api
from interceptor.tls.certificates import UNREADABLE, Material
from interceptor.tls.judgement import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.tls.rotation import Keeper
    from interceptor.tls.workload_api import Answer
    from interceptor.watching import Signature

VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"  # SPIFFE Workload Endpoint, section 4
SILENCE: Final = 30.0  # seconds until an agent that took a call and never answered is called again
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # each call dials anew: gRPC would wait for up to 2 minutes
    ("grpc.enable_http_proxy", 0),
)
_NOBODY: Final = Material(bundle_pem=b"")  # what there is before the first answer: it believes nobody

_log: Final = logging.getLogger(__name__)


class Metrics(Protocol):
    """What is counted."""

    def connected(self, value: bool) -> None: ...  # noqa: FBT001

    def updated(self, result: str) -> None: ...


class Agent:
    """An agent behind a socket: what it said last, and in the main process the stream that it says it over."""

    def __init__(self, socket: str | None, hint: str | None, environment: Mapping[str, str]) -> None:
        """Raises ConfigError where nothing says where the agent is."""
        self._target = _target(socket, environment)
        self._hint = hint
        self._data: bytes | None = None
        self._count = 0  # of answers
        self._withdrawn: str | None = None
        self.pass_on: Callable[[bytes | None], None] = lambda _: None  # what was taken, to other processes
        self.said: bytes | None = None  # the last answer that was taken; None where there is none, or no more
        self.given = trio.Event()  # there were certificates once
        self._lost: str | None = "it has not answered yet"  # why there is no stream
        self._refused = False  # whether the last answer was

    # A source of certificates.

    @property
    def certificate(self) -> str:
        """The agent's address."""
        return self._target

    @property
    def trust_bundle(self) -> str:
        """As well."""
        return f"{self._target} (trust bundle)"

    def names(self) -> tuple[str, ...]:
        """Where all of it comes from."""
        return (self._target,)

    def signature(self) -> Signature:
        """Counts the answers."""
        return ((self._count, 0, 0, 0),)

    def load(self, now: float, trust_domain: str | None) -> Material:
        """Judge the last answer. Raises ConfigError."""
        if self._data is None:
            return _NOBODY
        try:
            answer = workload_api.decode(self._data)
            return material(answer, self._hint, self._target, now, trust_domain or "")
        except ValueError as error:
            raise ConfigError(f"{self._target}: its answer cannot be used: {error}") from None

    def refusal(self) -> Refusal | None:
        """There is no identity yet, or no more."""
        if self._withdrawn is not None:
            return Refusal("withdrawn", self._withdrawn)
        if self.said is None:
            return Refusal("none", f"the SPIFFE agent {self._target} has given no certificate yet")
        return None

    # What is said.

    def take(self, data: bytes, keeper: Keeper) -> bool:
        """An answer has come: whether its certificates are in use now; if not, the ones before stay."""
        self._lost = None
        self._data = data
        self._count += 1
        before = self.said, self._withdrawn
        self.said, self._withdrawn = data, None  # so says who is told of the change
        taken = keeper.reload()
        self._refused = not taken
        if taken:
            self.given.set()
            self.pass_on(data)
        else:
            self.said, self._withdrawn = before
        return taken

    def withdraw(self) -> None:
        """The agent says that there is no identity for us: what it gave before is not used any more."""
        if self.said is not None:
            _log.error(
                "the SPIFFE agent %s took the identity back; handshakes are refused until it gives one",
                self._target,
            )
            self.pass_on(None)
        self.said = None
        if self.given.is_set():
            self._withdrawn = f"the SPIFFE agent {self._target} took the identity of this workload back"

    # What an operator is told.

    @property
    def pending(self) -> str | None:
        """Why there is no identity."""
        refused = self.refusal()
        return None if refused is None else f"SPIFFE: {refused}: {self._why}"

    @property
    def remark(self) -> str | None:
        """What an operator should know though there is an identity."""
        if self.said is None or (self._lost is None and not self._refused):
            return None
        return f"SPIFFE: the agent {self._target}: {self._why}; the last certificates stay in use until they expire"

    @property
    def _why(self) -> str:
        return self._lost or (
            "its last answer is refused, see the log" if self._refused else "it is connected"
        )

    # The stream.

    async def follow(self, keeper: Keeper, metrics: Metrics) -> None:
        """Take what the agent says until cancelled."""
        failures = 0
        while True:
            answered, reason = await self._stream(keeper, metrics)
            failures = 1 if answered else failures + 1
            metrics.connected(False)  # noqa: FBT003
            level = logging.WARNING if failures == 1 or reason != self._lost else logging.DEBUG
            self._lost = reason
            _log.log(level, "the SPIFFE agent %s: %s", self._target, reason)
            await trio.sleep(backoff(failures, random.random()))  # noqa: S311 (as above)

    async def _stream(self, keeper: Keeper, metrics: Metrics) -> tuple[bool, str]:
        """One stream to its end: whether anything was said, and why it ended."""
        answered, silent = trio.Event(), trio.Event()

        def take(data: bytes) -> None:
            answered.set()
            metrics.connected(True)  # noqa: FBT003
            metrics.updated("accepted" if self.take(data, keeper) else "rejected")

        with grpc.insecure_channel(self._target, _OPTIONS) as channel:
            call = channel.unary_stream(workload_api.METHOD)(b"", metadata=workload_api.METADATA)
            token = trio.lowlevel.current_trio_token()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_give_up, answered, silent, call)
                    await trio.to_thread.run_sync(_read, call, token, take, abandon_on_cancel=True)
                    nursery.cancel_scope.cancel()
            finally:
                call.cancel()
        code = call.code()
        if code is grpc.StatusCode.PERMISSION_DENIED:
            self.withdraw()
            return answered.is_set(), (
                f"PERMISSION_DENIED: {call.details()}: it has no identity for this process; register one for the "
                "proxy's user"
            )
        if silent.is_set():
            return False, f"it did not answer within {SILENCE:.0f} s"
        return answered.is_set(), f"{code.name}: {call.details() or 'it ended the stream'}"


async def _give_up(answered: trio.Event, silent: trio.Event, call: grpc.Call) -> None:
    with trio.move_on_after(SILENCE):
        await answered.wait()
        return
    silent.set()
    call.cancel()


def _read(call: grpc.Call, token: trio.lowlevel.TrioToken, take: Callable[[bytes], None]) -> None:
    with contextlib.suppress(grpc.RpcError, trio.RunFinishedError):
        for data in call:
            token.run_sync_soon(take, data)


def _target(socket: str | None, environment: Mapping[str, str]) -> str:
    """Where the agent is, as gRPC wants it."""
    asked = socket if socket is not None else environment.get(VARIABLE)
    place = "spec.tls.workloadApi.socket" if socket is not None else VARIABLE
    if not asked:
        raise ConfigError(
            f"spec.tls.workloadApi names no socket and {VARIABLE} is not set; write socket: unix:///run/spire/agent.sock"
        )
    path = asked.removeprefix("unix:").removeprefix("//")
    if not asked.startswith("unix:") or not PurePosixPath(path).is_absolute():
        raise ConfigError(f"{place}: '{asked}' is not a socket; write it like unix:///run/spire/agent.sock")
    return f"unix://{path}"


def material(answer: Answer, hint: str | None, where: str, now: float, trust_domain: str) -> Material:
    """What an answer gives, judged as files are; raises ConfigError and ValueError."""
    svid = workload_api.chosen(answer.svids, hint)
    chain, bundle = _certificates(where, svid.chain), _certificates(where, svid.bundle)
    if not chain:
        raise ConfigError(f"{where}: the SVID holds no certificate")
    try:
        key = serialization.load_der_private_key(svid.key, None).public_key()
    except UNREADABLE:
        raise ConfigError(f"{where}: the SVID's private key cannot be read") from None
    own = [certificates.facts(each) for each in chain]
    identity = certificates.judge_own(where, own, certificates.digest(key), now, trust_domain)
    if str(identity) != svid.spiffe_id:
        raise ConfigError(
            f"{where}: the SVID is called '{svid.spiffe_id}' and its certificate says {identity}"
        )
    if wrong := judgement.judge_bundle(list(map(certificates.facts, bundle)), now):
        raise ConfigError(f"{where}: {wrong} [{wrong.reason}]")
    bundles = {trust_domain: bundle, **_federated(answer.federated, where, now, trust_domain)}
    believed = [each for bundle in bundles.values() for each in bundle]
    anchors = {domain: frozenset(map(_fingerprint, each)) for domain, each in bundles.items()}
    return Material(
        identity=identity,
        chain=tuple(own),
        bundle=tuple(map(certificates.facts, believed)),
        revoked=certificates.revoked_by(where, _lists(where, answer.revocation_lists), believed, now),
        pair_pem=_pem(svid.key) + b"".join(map(certificates.pem, chain)),
        bundle_pem=b"".join(map(certificates.pem, believed)),
        anchors=anchors if len(anchors) > 1 else {},
    )


def _federated(
    given: Mapping[str, bytes], where: str, now: float, own: str
) -> Mapping[str, Sequence[x509.Certificate]]:
    """The bundles of foreign trust domains; one that cannot be used is left out: its peers are not believed."""
    found = {}
    for name, data in given.items():
        domain = name.removeprefix("spiffe://").removesuffix("/")
        try:
            if not is_trust_domain(domain) or domain == own:
                raise ValueError("it is not a foreign trust domain")  # noqa: TRY301
            bundle = _certificates(where, workload_api.split(data))
            if wrong := judgement.judge_bundle(list(map(certificates.facts, bundle)), now):
                raise ValueError(str(wrong))  # noqa: TRY301
        except (ValueError, ConfigError) as error:
            _log.error("%s: the bundle of %r is left out, and its peers are refused: %s", where, name, error)
            continue
        found[domain] = bundle
    return found


def _certificates(where: str, blocks: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        made = [x509.load_der_x509_certificate(block) for block in blocks]
        for each in made:
            certificates.facts(each)
    except UNREADABLE:
        raise ConfigError(f"{where}: a certificate in its answer cannot be read") from None
    return made


def _lists(where: str, blocks: Sequence[bytes]) -> list[x509.CertificateRevocationList]:
    try:
        return [x509.load_der_x509_crl(block) for block in blocks]
    except UNREADABLE:
        raise ConfigError(f"{where}: a revocation list in its answer cannot be read") from None


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificates.facts(certificate).fingerprint


def _pem(key: bytes) -> bytes:
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(key) + b"-----END PRIVATE KEY-----\n"
