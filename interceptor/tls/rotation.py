"""The certificates in force, and the watch over what they come from: files, or an agent that gives them (``spiffe``).

Files are watched as ``interceptor.watching`` says. What has changed is taken only whole: a pair that does not belong
together, or that was written during the read, is left for the next look, and the old one stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from interceptor.errors import ConfigError
from interceptor.model.identity import CertificateFiles
from interceptor.tls import certificates, judgement
from interceptor.tls.contexts import Contexts
from interceptor.watching import Watch, quiet, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.tls.certificates import Material
    from interceptor.tls.judgement import Facts, Refusal
    from interceptor.watching import Signature

REMIND: Final = 3600.0  # seconds between two warnings of the same certificate

_log: Final = logging.getLogger(__name__)


class Source(Protocol):
    """Where the certificates of one identity come from."""

    @property
    def certificate(self) -> str | None:
        """What the chain is called; None where there is none."""

    @property
    def trust_bundle(self) -> str | None:
        """What the bundle is called."""

    def names(self) -> tuple[str, ...]:
        """What all of it is called."""

    def signature(self) -> Signature:
        """Equal as long as there is nothing new."""

    def load(self, now: float, trust_domain: str | None) -> Material:
        """Read and judge it. Raises ConfigError."""

    def refusal(self) -> Refusal | None:
        """Why it must not be used, whatever it says itself."""


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates in files."""

    files: CertificateFiles

    @property
    def certificate(self) -> str | None:
        """The file of the chain."""
        return self.files.certificate

    @property
    def trust_bundle(self) -> str | None:
        """The file of the bundle."""
        return self.files.trust_bundle

    def names(self) -> tuple[str, ...]:
        """Every file."""
        return self.files.paths()

    def signature(self) -> Signature:
        """What the files look like from outside."""
        return tuple(map(signature, self.files.paths()))

    def load(self, now: float, trust_domain: str | None) -> Material:
        """Read and judge them."""
        return certificates.load(self.files, now=now, trust_domain=trust_domain)

    def refusal(self) -> Refusal | None:
        """None: files say themselves all there is to say."""


class Keeper:
    """The contexts of one identity, in the newest version of its certificates that could be used."""

    def __init__(
        self, source: CertificateFiles | Source, *, trust_domain: str | None, wall_clock: Callable[[], float]
    ) -> None:
        """Raises ConfigError when files cannot be used."""
        self._source = Files(source) if isinstance(source, CertificateFiles) else source
        self._trust_domain = trust_domain
        self._wall_clock = wall_clock
        self._seen = self.signature()
        self.current = self._load()
        self._reminded: dict[
            tuple[str, bool], float
        ] = {}  # fingerprint, whether it had expired -> when it was told
        self.on_change: Callable[[Material], None] | None = None  # told what was in use before
        self.renewed = trio.Event()  # the certificates of now are not those in use any more

    @property
    def names(self) -> tuple[str, ...]:
        """What its certificates come from."""
        return self._source.names()

    def signature(self) -> Signature:
        """Equal as long as there is nothing new."""
        return self._source.signature()

    @property
    def changed(self) -> bool:
        """Whether the certificates differ from those that were read last, or refused."""
        return self.signature() != self._seen

    def reload(self) -> bool:
        """Read the certificates again; whether there are new contexts. What cannot be used is told once, and changes nothing."""
        before = self.signature()
        try:
            fresh = self._load()
        except ConfigError as error:
            self._seen = before
            _log.error("the new certificates are refused, and the old ones stay in use: %s", error)
            return False
        if self.signature() != before:  # written meanwhile: perhaps half of it was read
            return False
        self._seen = before
        before_that, self.current = self.current.material, fresh
        self.renewed.set()
        self.renewed = trio.Event()
        if (refused := self._source.refusal()) is not None:
            _log.warning("%s; handshakes that need it are refused until it comes", refused)
        else:
            _log.info("new certificates are in use: %s", self)
        if self.on_change is not None:
            self.on_change(before_that)
        return True

    def refusal(self) -> Refusal | None:
        """Why nobody can be spoken to by these certificates now: the time they were valid is over, as a rule."""
        if (told := self._source.refusal()) is not None:
            return told
        leaf = self.current.material.chain[:1]
        return judgement.judge_time(leaf[0], self._wall_clock()) if leaf else None

    def now(self) -> float:
        """The time that certificates are judged by."""
        return self._wall_clock()

    def remind(self) -> None:
        """Warn of what will expire soon, or has."""
        now = self._wall_clock()
        reminded = {}
        for facts in self.facts():
            if (told := judgement.warning(facts, now)) is None:
                continue
            key = facts.fingerprint, now >= facts.not_after
            at = self._reminded.get(key, 0.0)
            if now - at >= REMIND:
                _log.warning(told)
                at = now
            reminded[key] = at
        self._reminded = reminded

    def warning(self) -> str | None:
        """What an operator should know of our own certificate: that it will expire soon, or has."""
        now = self._wall_clock()
        return next(
            (told for each in self.current.material.chain if (told := judgement.warning(each, now))), None
        )

    def facts(self) -> Sequence[Facts]:
        """Every certificate in use: the chain, then the bundle."""
        material = self.current.material
        return (*material.chain, *material.bundle)

    def expiries(self) -> dict[str, float]:
        """For each file (or whatever it is called), in how many seconds the first of its certificates expires."""
        now, material = self._wall_clock(), self.current.material
        found = {}
        for path, facts in (
            (self._source.certificate, material.chain),
            (self._source.trust_bundle, material.bundle),
        ):
            if path is not None and facts:
                found[path] = min(each.not_after for each in facts) - now
        return found

    def dump(self) -> dict[str, object]:
        """For ``/certs``: what Envoy shows there, and never a key."""
        now = self._wall_clock()
        material = self.current.material
        return {
            "identity": None if material.identity is None else str(material.identity),
            "files": list(self.names),
            "cert_chain": [_shown(each, now) for each in material.chain],
            "ca_cert": [_shown(each, now) for each in material.bundle],
            "revoked": len(material.revoked),
        }

    def __str__(self) -> str:
        material = self.current.material
        name = material.identity or self._source.certificate or self._source.trust_bundle
        if not material.chain:
            return f"{name}"
        return f"{name}, valid for {judgement.span(material.expires - self._wall_clock())}"

    def _load(self) -> Contexts:
        return Contexts(self._source.load(self._wall_clock(), self._trust_domain))


async def watch(
    keepers: Callable[[], Sequence[Keeper]], expiries: Callable[[dict[str, float]], None]
) -> None:
    """Look at the files of all, until cancelled; after each look it is told when they expire."""
    due = Watch(lambda: (name for keeper in keepers() for name in keeper.names))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(due.listen)
        while True:
            for keeper in keepers():
                if keeper.changed and await quiet(keeper.signature):
                    keeper.reload()
                keeper.remind()
                expiries(keeper.expiries())
            await due.wait()


def _shown(facts: Facts, now: float) -> dict[str, object]:
    return {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial_number": f"{facts.serial:x}",
        "fingerprint": facts.fingerprint,
        "subject_alt_names": [
            *({"uri": uri} for uri in facts.uris),
            *({"dns": name} for name in facts.dns_names),
        ],
        "valid_from": facts.not_before,
        "expiration_time": facts.not_after,
        "days_until_expiration": int((facts.not_after - now) // judgement.DAY),
    }
