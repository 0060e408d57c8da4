"""What ``interceptor certs`` does with the files of the small authority and of those it issued certificates to."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509

from interceptor.errors import ConfigError
from interceptor.model.identity import SpiffeId, is_segment, is_trust_domain
from interceptor.tls import authority, certificates, judgement
from interceptor.tls.authority import Pair
from interceptor.tls.files import BUNDLE, CERTIFICATE, KEY, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from interceptor.tls.judgement import Facts

ROOT_KEY: Final = "ca.key"
_LIFETIME: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_DNS_NAME: Final = re.compile(r"(?:\*\.)?[a-z0-9]([-a-z0-9]{0,62})(\.[a-z0-9][-a-z0-9]{0,62})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate in a file."""

    file: str
    facts: Facts
    now: float

    def as_mapping(self) -> dict[str, object]:
        """For JSON."""
        facts = self.facts
        return {
            "file": self.file,
            "subject": facts.subject,
            "issuer": facts.issuer,
            "serial_number": f"{facts.serial:x}",
            "fingerprint_sha256": facts.fingerprint,
            "uris": list(facts.uris),
            "dns_names": list(facts.dns_names),
            "authority": facts.is_authority,
            "not_before": _iso(facts.not_before),
            "not_after": _iso(facts.not_after),
            "valid": judgement.judge_time(facts, self.now) is None,
        }

    def __str__(self) -> str:
        facts = self.facts
        wrong = judgement.judge_time(facts, self.now)
        names = ", ".join((*facts.uris, *facts.dns_names)) or facts.subject
        kind = "authority" if facts.is_authority else "certificate"
        state = (
            wrong.sentence
            if wrong
            else judgement.warning(facts, self.now) or f"valid until {_iso(facts.not_after)}"
        )
        return f"{self.file}: {kind} of {names}: {state} (issued by {facts.issuer}, SHA-256 {facts.fingerprint[:16]}...)"


def seconds(lifetime: str) -> float:
    """``24h``, ``90m`` in seconds. Raises ConfigError."""
    match = _LIFETIME.fullmatch(lifetime)
    if match is None or not any(match.groups()) or len(lifetime) > 12:
        raise ConfigError(f"--lifetime: '{lifetime}' is not a duration; write it like 24h or 90m")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    total = float(hours * 3600 + minutes * 60 + rest)
    if not 1 <= total <= 100 * 366 * judgement.DAY:
        raise ConfigError(
            f"--lifetime: {lifetime} is out of bounds; give more than nothing and less than a century"
        )
    return total


def init(directory: Path, *, trust_domain: str, lifetime: float, now: float, renew: bool) -> Path:
    """Make an authority, or a new root beside the old one; where the trust bundle is."""
    if not is_trust_domain(trust_domain):
        raise ConfigError(
            f"--trust-domain: '{trust_domain}' is not a trust domain; use lower-case letters, digits, '.', '-', '_'"
        )
    bundle, key = directory / BUNDLE, directory / ROOT_KEY
    exists = key.exists() or bundle.exists()
    if exists and not renew:
        raise ConfigError(
            f"{directory}: there is an authority already; --renew makes a new root beside the old one"
        )
    if renew and not exists:
        raise ConfigError(f"{directory}: there is no authority to renew; leave --renew out")
    root = authority.make_root(trust_domain, lifetime=lifetime, now=now)
    older = b""
    if renew:
        older = b"".join(
            certificates.pem(each)
            for each in certificates.read(bundle)
            if each.not_valid_after_utc.timestamp() > now
        )
    write(directory, {BUNDLE: root.certificate + older, ROOT_KEY: root.key})
    return bundle


class Wanted(NamedTuple):
    """What a workload's certificate is to say."""

    namespace: str
    service_account: str
    dns_names: tuple[str, ...]
    lifetime: float


def issue(
    directory: Path, root_directory: Path, wanted: Wanted, *, now: float, owner: int | None
) -> SpiffeId:
    """Write a workload's pair and its trust bundle; who it is."""
    for flag, value in (("--namespace", wanted.namespace), ("--service-account", wanted.service_account)):
        if not is_segment(value):
            raise ConfigError(
                f"{flag}: '{value}' cannot be part of an identity; use letters, digits, '.', '-' and '_'"
            )
    for name in wanted.dns_names:
        if len(name) > 253 or not _DNS_NAME.fullmatch(name):
            raise ConfigError(f"--dns: '{name}' is not a host name in lower case")
    root, bundle = _authority(root_directory)
    identity = SpiffeId(_trust_domain(root_directory, root), wanted.namespace, wanted.service_account)
    pair = authority.issue(root, identity, dns_names=wanted.dns_names, lifetime=wanted.lifetime, now=now)
    write(directory, {CERTIFICATE: pair.certificate, KEY: pair.key, BUNDLE: bundle}, owner=owner)
    return identity


def show(paths: Iterable[Path], now: float) -> list[Shown]:
    """Every certificate of some files, and of the ``*.crt`` and ``*.pem`` files of some directories."""
    found = []
    for path in paths:
        files = sorted((*path.glob("*.crt"), *path.glob("*.pem"))) if path.is_dir() else [path]
        if not files:
            raise ConfigError(f"{path}: there is no file *.crt or *.pem in it; name a file")
        for file in files:
            found += [Shown(str(file), certificates.facts(each), now) for each in certificates.read(file)]
    if not found:
        raise ConfigError(f"{', '.join(map(str, paths))}: there is no certificate in it")
    return found


def rotate(
    directories: Sequence[Path],
    root_directory: Path,
    *,
    now: float,
    everything: bool,
    owner: int | None,
    jitter: Callable[[], float],
) -> tuple[list[str], float]:
    """Issue anew what is past half of its lifetime; what was done, and when the next one is due.

    First everybody gets the authority's trust bundle, then somebody is signed by its newest root: both are trusted
    everywhere before the new one is met anywhere.
    """
    root, bundle = _authority(root_directory)
    done = []
    leaves = {directory: _leaf(directory) for directory in directories}
    for directory in directories:
        if (directory / BUNDLE).read_bytes() != bundle:
            pair = {name: (directory / name).read_bytes() for name in (CERTIFICATE, KEY)}
            write(directory, {**pair, BUNDLE: bundle}, owner=owner)
            done.append(f"{directory}: it trusts the authority's new bundle")
    next_due = float("inf")
    for directory, leaf in leaves.items():
        due = _due(leaf, jitter)
        if everything or now >= due:
            identity = _identity(directory, leaf)
            lifetime = leaf.lifetime - authority.BACKDATE
            pem = authority.issue(root, identity, dns_names=leaf.dns_names, lifetime=lifetime, now=now)
            write(directory, {CERTIFICATE: pem.certificate, KEY: pem.key, BUNDLE: bundle}, owner=owner)
            done.append(f"{directory}: {identity} was issued anew")
            due = _due(_leaf(directory), jitter)  # the root may have cut its lifetime
        next_due = min(next_due, due)
    return done, next_due


def _due(leaf: Facts, jitter: Callable[[], float]) -> float:
    """At half of the lifetime that was asked for: what it lies in the past is for other clocks."""
    return judgement.rotation_due(leaf.not_before + authority.BACKDATE, leaf.not_after, jitter())


def _leaf(directory: Path) -> Facts:
    chain = certificates.read(directory / CERTIFICATE)
    if not chain:
        raise ConfigError(
            f"{directory / CERTIFICATE}: it holds no certificate; issue one with 'interceptor certs issue'"
        )
    certificates.read_bytes(directory / BUNDLE)
    certificates.read_bytes(directory / KEY)
    return certificates.facts(chain[0])


def _identity(directory: Path, leaf: Facts) -> SpiffeId:
    identity = judgement.identity_of(leaf.uris)
    if not isinstance(identity, SpiffeId):
        raise ConfigError(f"{directory / CERTIFICATE}: {identity}")
    return identity


def _authority(directory: Path) -> tuple[Pair, bytes]:
    """The newest root and the bundle of all."""
    bundle = certificates.read_bytes(directory / BUNDLE)
    key = certificates.read_bytes(directory / ROOT_KEY)
    roots = certificates.read(directory / BUNDLE)
    if not roots:
        raise ConfigError(
            f"{directory / BUNDLE}: it holds no certificate; make an authority with 'interceptor certs init'"
        )
    return Pair(certificates.pem(roots[0]), key), bundle


def _trust_domain(directory: Path, root: Pair) -> str:
    uris = certificates.facts(x509.load_pem_x509_certificate(root.certificate)).uris
    if len(uris) != 1 or not is_trust_domain(uris[0].removeprefix("spiffe://")):
        raise ConfigError(
            f"{directory / BUNDLE}: the authority's certificate names no trust domain; make one with 'interceptor certs init'"
        )
    return uris[0].removeprefix("spiffe://")


def _iso(unix: float) -> str:
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
