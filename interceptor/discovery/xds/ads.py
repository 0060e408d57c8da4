"""PURE, sans-IO. The ADS protocol: responses go in, requests come out, and ``active`` is what may be used.

Types are used in the order CDS, EDS, LDS, RDS, SDS, and a resource only when all that it needs is there ("warm"): so a
listener never points at a cluster that is not there, and what replaces something is there before that goes away. What
is needed and does not come within ``PATIENCE`` or ``LATE`` does not exist; a resource that was rejected leaves the one before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds.messages import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    Body,
    Judged,
    Key,
    Request,
    Resource,
    Response,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ORDER: Final = (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET)  # of subscriptions: Istio's push order
_WARMING: Final = (SECRET, ENDPOINT, CLUSTER, ROUTE, LISTENER)  # what is needed comes before who needs it
_FULL: Final = frozenset((CLUSTER, LISTENER))  # all of them are asked for, and what is absent is gone
PATIENCE: Final = 15.0  # seconds: the resource-does-not-exist timer of the xDS specification
# Seconds of a type that is told as a whole, and was: what is needed of it comes with the same change, or is not there.
LATE: Final = 1.0
MAX_RESOURCES: Final = 100_000  # of one response, and of one type
NAMED: Final = (
    20  # rejected resources that a NACK names: gRPC servers take headers and messages of some KiB only
)
LONGEST_REASON: Final = 300  # characters for each


@dataclass(frozen=True, slots=True)
class Held:
    """A resource that was accepted."""

    body: Body
    version: str
    needs: tuple[Key, ...]
    expires: float | None = None


@dataclass(slots=True)
class _Kind:
    """What is known of one type."""

    version: str = ""
    nonce: str = ""
    asked: bool = False  # on this stream
    answered: bool = False  # ever
    wanted: tuple[str, ...] = ()  # of the types that are asked for by name
    told: tuple[str, ...] = ()  # what of it the server knows
    held: dict[str, Held] = field(default_factory=dict)
    active: dict[str, Held] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)  # name -> why


class Ads:
    """One client's view; it outlives its streams."""

    def __init__(
        self, judge: Callable[[str, str, Body], Judged], *, delta: bool, roots: tuple[Key, ...] = ()
    ) -> None:
        """``roots`` are needed whatever is there."""
        self._judge = judge
        self._roots = roots
        self._delta = delta
        self._kinds = {type_url: _Kind() for type_url in ORDER}
        self._due: dict[Key, float] = {}  # needed and absent -> when it counts as missing
        self._missing: set[Key] = set()
        self._connected = False
        self.revision = 0  # changes with ``active``

    # The stream's life.

    def connect(self, now: float) -> list[Request]:
        """A stream is open: what is said first."""
        self._connected = True
        for kind in self._kinds.values():
            kind.nonce, kind.asked, kind.told = "", False, ()
        requests = [self._subscription(type_url) for type_url in ORDER if self._subscribes(type_url)]
        requests[0] = replace(requests[0], first=True)
        return [*requests, *self.settle(now)]

    def disconnect(self) -> None:
        """The stream is gone: what was accepted stays, and nobody can be blamed for what does not come."""
        self._connected = False
        self._due.clear()

    def receive(self, response: Response, now: float) -> Request | None:
        """Take a response; the ACK or NACK of it. None for a type that was not asked for."""
        kind = self._kinds.get(response.type_url)
        if kind is None or not kind.asked:
            return None
        kind.nonce = response.nonce
        error = _unusable(response) or self._take(kind, response, now)
        kind.answered = True
        if error is None:
            kind.version = response.version
        if self._delta:
            return Request(response.type_url, response.nonce, error)
        return Request(response.type_url, response.nonce, error, version=kind.version, names=kind.wanted)

    def settle(self, now: float) -> list[Request]:
        """Use what is complete, drop what is over; the subscriptions that change by it. To be called after responses."""
        self._expire(now)
        if self._pass(now):
            self.revision += 1
            while self._pass(now):  # what is over now may have been the last that needed something
                pass
        return self._changed_subscriptions() if self._connected else []

    # What is known.

    def active(self, type_url: str) -> Mapping[str, Held]:
        """The resources of a type that may be used, by name."""
        return self._kinds[type_url].active

    def rejected(self) -> dict[Key, str]:
        """Every resource whose last version was rejected, and why."""
        return {
            (type_url, name): why
            for type_url, kind in self._kinds.items()
            for name, why in kind.rejected.items()
        }

    def versions(self) -> dict[str, str]:
        """The last version accepted of each type."""
        return {type_url: kind.version for type_url, kind in self._kinds.items() if kind.answered}

    @property
    def complete(self) -> bool:
        """Whether clusters and listeners were told, and nothing is waited for."""
        return all(self._kinds[type_url].answered for type_url in _FULL) and not self._due

    @property
    def waiting(self) -> tuple[Key, ...]:
        """What is needed and has not come yet."""
        return tuple(self._due)

    @property
    def deadline(self) -> float | None:
        """When ``settle`` has to be called though nothing came."""
        expiries = (held.expires for kind in self._kinds.values() for held in kind.held.values())
        return min((*self._due.values(), *(each for each in expiries if each is not None)), default=None)

    # Responses.

    def _take(self, kind: _Kind, response: Response, now: float) -> str | None:
        """Keep what is good; what is wrong with the rest."""
        type_url = response.type_url
        rejected: dict[str, str] = {}
        wanted = frozenset(kind.wanted)
        for index, resource in enumerate(response.resources):
            if type_url in _FULL or resource.name in wanted or not resource.name:
                why = self._take_one(type_url, resource, now)
                if why is not None:
                    rejected[resource.name or f"resources[{index}]"] = why
                else:
                    kind.rejected.pop(resource.name, None)
        gone = set(response.removed)
        nameless = any(not resource.name for resource in response.resources)
        if type_url in _FULL and not self._delta:
            told = {resource.name for resource in response.resources}
            # One without a name may be any of those that are absent.
            gone = set() if nameless else kind.held.keys() - told
            kind.rejected = {name: why for name, why in kind.rejected.items() if name in told}
        for name in gone:
            kind.held.pop(name, None)
            kind.rejected.pop(name, None)
            if self._delta:
                self._missing.add((type_url, name))
        kind.rejected.update(rejected)
        return _sentence(rejected)

    def _take_one(self, type_url: str, resource: Resource, now: float) -> str | None:
        """Keep one resource; why not."""
        held = self._kinds[type_url].held
        expires = None if resource.ttl is None else now + resource.ttl
        if resource.problem is not None:
            return resource.problem
        if resource.body is None:
            if (old := held.get(resource.name)) is not None:
                held[resource.name] = renewed = Held(old.body, old.version, old.needs, expires)
                self._renew(type_url, resource.name, old, renewed)
            return None
        if (old := held.get(resource.name)) is not None and old.body == resource.body:
            held[resource.name] = renewed = Held(old.body, resource.version, old.needs, expires)
            self._renew(type_url, resource.name, old, renewed)
            self._missing.discard((type_url, resource.name))
            return None  # it says what it said, and is the same object: nothing that follows from it changes
        judged = self._judge(type_url, resource.name, resource.body)
        if judged.problems:
            return "; ".join(judged.problems)
        if len(held) >= MAX_RESOURCES and resource.name not in held:
            return f"there are more than {MAX_RESOURCES} resources of its type"
        held[resource.name] = Held(resource.body, resource.version, judged.needs, expires)
        self._missing.discard((type_url, resource.name))
        return None

    def _renew(self, type_url: str, name: str, old: Held, renewed: Held) -> None:
        active = self._kinds[type_url].active
        if active.get(name) is old:
            active[name] = renewed

    # What is used.

    def _pass(self, now: float) -> bool:
        """One step towards what is complete, from what is needed to who needs it; whether it changed anything."""
        before = {type_url: dict(kind.active) for type_url, kind in self._kinds.items()}
        self._wait_for_needs(now)
        for type_url in _WARMING:
            kind = self._kinds[type_url]
            for name, held in kind.held.items():
                if kind.active.get(name) is not held and all(map(self._has, held.needs)):
                    kind.active[name] = held
        for type_url in reversed(_WARMING):
            self._remove_stale(type_url)
        return any(kind.active != before[type_url] for type_url, kind in self._kinds.items())

    def _expire(self, now: float) -> None:
        for type_url, kind in self._kinds.items():
            over = [
                name for name, held in kind.held.items() if held.expires is not None and held.expires <= now
            ]
            for name in over:
                del kind.held[name]
                self._missing.add((type_url, name))

    def _needs(self) -> Iterator[Key]:
        yield from self._roots
        for kind in self._kinds.values():
            for name, held in kind.held.items():
                yield from held.needs
                if (old := kind.active.get(name)) is not None and old is not held:
                    yield from old.needs
            for name, old in kind.active.items():
                if name not in kind.held:
                    yield from old.needs

    def _wait_for_needs(self, now: float) -> None:
        """Start the timers of what is absent, and end those that are over."""
        needed = set(self._needs())
        absent = {key for key in needed if key[1] not in self._kinds[key[0]].held}
        self._missing &= needed
        for key in self._due.keys() - absent:
            del self._due[key]
        for key in absent - self._missing:
            told = key[0] in _FULL and self._kinds[key[0]].answered
            if self._connected and self._due.setdefault(key, now + (LATE if told else PATIENCE)) <= now:
                del self._due[key]
                self._missing.add(key)
        for type_url, kind in self._kinds.items():
            if type_url not in _FULL:
                kind.wanted = tuple(sorted(name for of, name in needed if of == type_url))
                wanted = set(kind.wanted)
                for name in kind.held.keys() - wanted:
                    del kind.held[name]
                for name in kind.rejected.keys() - wanted:
                    del kind.rejected[name]

    def _has(self, key: Key) -> bool:
        type_url, name = key
        return name in self._kinds[type_url].active or key in self._missing

    def _remove_stale(self, type_url: str) -> None:
        """What is gone is kept as long as something in use needs it, unless it is known not to exist."""
        kind = self._kinds[type_url]
        stale = kind.active.keys() - kind.held.keys()
        if not stale:
            return
        used = {key for other in self._kinds.values() for held in other.active.values() for key in held.needs}
        used.update(self._roots)
        for name in stale:
            gone = (type_url, name) in self._missing and type_url != SECRET  # a certificate serves on
            if (type_url, name) not in used or gone:
                del kind.active[name]

    # Subscriptions.

    def _subscribes(self, type_url: str) -> bool:
        return type_url in _FULL or bool(self._kinds[type_url].wanted)

    def _subscription(self, type_url: str) -> Request:
        """The first of a type on a stream; it names all that is wanted."""
        kind = self._kinds[type_url]
        kind.asked, kind.told = True, kind.wanted
        if self._delta:
            known = {name: held.version for name, held in kind.held.items()}
            return Request(type_url, subscribe=kind.wanted, known=known)
        return Request(type_url, version=kind.version, names=kind.wanted)

    def _changed_subscriptions(self) -> list[Request]:
        requests: list[Request] = []
        for type_url in ORDER:
            kind = self._kinds[type_url]
            if kind.wanted == kind.told:
                continue
            if not kind.asked:
                requests.append(self._subscription(type_url))
            elif self._delta:
                new, old = set(kind.wanted), set(kind.told)
                more, less = tuple(sorted(new - old)), tuple(sorted(old - new))
                requests.append(Request(type_url, subscribe=more, unsubscribe=less))
            else:
                # An empty list after names means none of them: it is no wildcard any more.
                requests.append(Request(type_url, kind.nonce, version=kind.version, names=kind.wanted))
            kind.told = kind.wanted
        return requests


def _unusable(response: Response) -> str | None:
    """Why nothing of a response is taken."""
    if len(response.resources) + len(response.removed) > MAX_RESOURCES:
        return f"the response has more than {MAX_RESOURCES} resources"
    names = [resource.name for resource in response.resources if resource.name]
    if len(names) != len(set(names)):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        return f"the resource '{twice}' is in the response twice"
    return None


def _sentence(rejected: Mapping[str, str]) -> str | None:
    """The error of a NACK: every rejected resource by name, as far as there is room."""
    if not rejected:
        return None
    parts = [f"{name}: {why[:LONGEST_REASON]}" for name, why in list(rejected.items())[:NAMED]]
    if len(rejected) > NAMED:
        parts.append(f"and {len(rejected) - NAMED} more")
    return "; ".join(parts)
