"""From what the documents ask for to the chains that run: reads the files, imports the user's own."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from interceptor.errors import ConfigError
from interceptor.middleware import modules
from interceptor.middleware.access_log import Condition, LogFilter
from interceptor.middleware.chain import Chain
from interceptor.middleware.connections import ConnectionChain
from interceptor.middleware.documented import DocumentedLimits
from interceptor.middleware.fault import AbortFault, DelayFault
from interceptor.middleware.files import WatchedFile
from interceptor.middleware.headers import Changes, HeaderFilter
from interceptor.middleware.limits import BodyLimit, KeyOf, RateLimit, written_key
from interceptor.middleware.links import BuiltIn, BuiltInConnection, Users, UsersConnection
from interceptor.policy.rate_limit import Limiter, LocalStore, Quota

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeAlias

    from interceptor.config import middleware as documents, middleware_credentials as credentials
    from interceptor.config.middleware_item import Item
    from interceptor.config.rate_limit import RateLimit as RateLimitDocument
    from interceptor.middleware.api import ConnectionMiddleware, Filter, Middleware
    from interceptor.middleware.links import ConnectionLink, Link, Observer
    from interceptor.model.connection import Flow
    from interceptor.policy.rate_limit import Store

    StoreOf: TypeAlias = Callable[[str, int], Store]  # a limiter's, by its name, for so many keys
    Maker: TypeAlias = Callable[[Item, "Means"], Iterator[Filter]]  # of the kind of item it is for


@dataclass(frozen=True, slots=True)
class Means:
    """What filters work with, given so that a test can give its own."""

    clock: Callable[[], float]  # seconds, monotonic
    chance: Callable[[], float]  # evenly from 0 up to 1
    observer: Observer
    wall_clock: Callable[[], float]  # Unix time
    store: StoreOf = lambda _name, keys: LocalStore(keys)
    limits: Callable[[], Sequence[RateLimitDocument]] = tuple  # the documents in force


class Stack:
    """The chains of one configuration: which of its entries a flow passes depends on its direction and port."""

    def __init__(
        self,
        items: Sequence[Item],
        requests: Sequence[Sequence[Link]],
        connections: Sequence[Sequence[ConnectionLink]],
        observer: Observer,
    ) -> None:
        self._items = items
        self._requests = requests  # by item, as are the connections'
        self._connections = connections
        self._observer = observer
        # By which items apply: as many as there are combinations in use, whatever ports are dialled.
        self._chains: dict[tuple[bool, ...], tuple[Chain | None, ConnectionChain | None]] = {}

    def request_chain(self, flow: Flow) -> Chain | None:
        """What the requests of a flow pass; None where that is nothing."""
        return self._of(flow)[0]

    def connection_chain(self, flow: Flow) -> ConnectionChain | None:
        """What a flow passes before its upstream is dialled; None where that is nothing."""
        return self._of(flow)[1]

    def authenticates(self, flow: Flow) -> str | None:
        """The name of the filter that asks the flow's requests who they are from; None where none does."""
        chain = self._of(flow)[0]
        return None if chain is None else chain.authenticates

    def _of(self, flow: Flow) -> tuple[Chain | None, ConnectionChain | None]:
        applies = tuple(_applies(item, flow) for item in self._items)
        found = self._chains.get(applies)
        if found is None:
            links = [link for each, on in zip(self._requests, applies, strict=True) if on for link in each]
            others = [
                link for each, on in zip(self._connections, applies, strict=True) if on for link in each
            ]
            found = self._chains[applies] = (
                Chain(links, self._observer) if links else None,
                ConnectionChain(others, self._observer) if others else None,
            )
        return found


def _applies(item: Item, flow: Flow) -> bool:
    if item.direction is not None and item.direction != flow.direction.value:
        return False
    port = 0 if flow.original_dst is None else flow.original_dst.port
    return not item.ports or any(first <= port <= last for first, last in item.port_ranges)


def build(items: Sequence[documents.AnyItem], means: Means) -> Stack | None:
    """The chains; None where nothing is asked for. ConfigError with every problem."""
    if not items:
        return None
    problems: list[str] = []
    requests: list[list[Link]] = []
    connections: list[list[ConnectionLink]] = []
    for index, item in enumerate(items):
        try:
            links, others = _built(item, means)
        except ValueError as error:
            problems.append(f"spec.middleware[{index}] ({item.name}): {error}")
            continue
        requests.append(links)
        connections.append(others)
    if problems:
        raise ConfigError(*problems)
    return Stack(items, requests, connections, means.observer)


def preload(items: Sequence[documents.AnyItem]) -> None:
    """Import what they need, while that can still be read; what cannot be imported, ``build`` says."""
    for item in items:
        with contextlib.suppress(Exception, SystemExit):
            for module in _NEEDS.get(item.use, (item.use.partition(":")[0],)):
                importlib.import_module(module)


def _built(item: documents.AnyItem, means: Means) -> tuple[list[Link], list[ConnectionLink]]:
    """One entry of the list, in one of the two chains."""
    if item.use == "rateLimitDocuments":
        both = DocumentedLimits(means.limits, means.store, means.clock)
        return [BuiltIn(item.name, "closed", both)], [BuiltInConnection(item.name, "closed", both)]
    make = cast("Maker | None", _MAKERS.get(item.use))
    if make is None:
        return _users(cast("documents.ModuleItem", item))
    filters = list(make(item, means))
    if item.scope == "connection":
        limits = cast("list[RateLimit]", filters)  # the only one that can stand there
        return [], [BuiltInConnection(item.name, item.failure, each) for each in limits]
    authenticates = item.use in {"jwt", "basic", "apiKey"}
    return [BuiltIn(item.name, item.failure, each, authenticates) for each in filters], []


def _users(item: documents.ModuleItem) -> tuple[list[Link], list[ConnectionLink]]:
    call = modules.load(item)
    if item.scope == "connection":
        own = cast("ConnectionMiddleware", call)
        return [], [UsersConnection(item.name, item.failure, own, item.timeout)]
    return [Users(item.name, item.failure, cast("Middleware", call), item.timeout)], []


def _jwt(item: credentials.JwtItem, means: Means) -> Iterator[Filter]:
    from interceptor.config.jwks import parse_jwks  # noqa: PLC0415 (see _NEEDS)
    from interceptor.middleware.tokens import JwtFilter, Verifier  # noqa: PLC0415

    config = item.config
    parse = partial(parse_jwks, allowed=frozenset(config.algorithms))
    keys = WatchedFile(config.jwksFile, parse, means.clock)
    verifier = Verifier(
        config.issuer, config.audiences, config.clockSkew, lambda: keys.current, means.wall_clock
    )
    places = [(place.name.lower().encode(), place.prefix.encode()) for place in config.fromHeaders]
    claims = [(each.header.encode(), each.claim) for each in config.outputClaimToHeaders]
    yield JwtFilter(item.name, verifier, places, claims, config.forwardOriginalToken)


def _basic(item: credentials.BasicItem, means: Means) -> Iterator[Filter]:
    from interceptor.middleware.basic import BasicFilter, parse_users  # noqa: PLC0415 (as above)

    config = item.config
    users = WatchedFile(config.usersFile, parse_users, means.clock)
    realm = config.realm.replace("\\", "\\\\").replace('"', '\\"')
    challenge = f'Basic realm="{realm}", charset="UTF-8"'.encode()
    yield BasicFilter(
        item.name, lambda: users.current, challenge, _bytes(config.userHeader), config.forwardCredentials
    )


def _api_key(item: credentials.ApiKeyItem, means: Means) -> Iterator[Filter]:
    from interceptor.middleware.api_key import ApiKeyFilter, parse_keys  # noqa: PLC0415 (as above)

    config = item.config
    parse = partial(parse_keys, pepper=os.urandom(32))
    keys = WatchedFile(config.keysFile, parse, means.clock)
    header = None if config.header is None else config.header.lower().encode()
    where = (header, _bytes(config.query), _bytes(config.clientHeader))
    yield ApiKeyFilter(item.name, lambda: keys.current, *where, forward=config.forwardCredentials)


def _rate_limit(item: documents.RateLimitItem, means: Means) -> Iterator[RateLimit]:
    config, per_key = item.config, item.config.perKey
    by = () if per_key is None else per_key.by
    prefixes = () if per_key is None else per_key.pathPrefixes
    limiter = Limiter(
        means.store(item.name, 1 if per_key is None else per_key.maxKeys),
        total=_quota(config.total),
        per_key=_quota(per_key),
        overrides={written_key(by, each.key): Quota.of(*each.numbers) for each in config.overrides},
    )
    ordered = tuple(sorted((prefix.encode() for prefix in prefixes), key=len, reverse=True))
    yield RateLimit(item.name, limiter, KeyOf(by, ordered), means.clock)


def _quota(limit: documents.Limit | None) -> Quota | None:
    return None if limit is None else Quota.of(*limit.numbers)


def _headers(item: documents.HeadersItem, _means: Means) -> Iterator[Filter]:
    yield HeaderFilter(_changes(item.config.request), _changes(item.config.response))


def _changes(asked: documents.HeaderChanges) -> Changes:
    return Changes(
        tuple(name.lower().encode() for name in asked.remove),
        tuple((name.encode(), value.encode()) for name, value in asked.set.items()),
        tuple((name.encode(), value.encode()) for name, value in asked.add.items()),
    )


def _fault(item: documents.FaultItem, means: Means) -> Iterator[Filter]:
    """As Envoy: what is held back may be answered with an error after that."""
    delay, abort = item.config.delay, item.config.abort
    if delay is not None:
        yield DelayFault(delay.fixedDelay, delay.percentage.value, means.chance)
    if abort is not None:
        yield AbortFault(abort.httpStatus, abort.percentage.value, means.chance)


def _body_limit(item: documents.BodyLimitItem, _means: Means) -> Iterator[Filter]:
    yield BodyLimit(item.config.maxRequestBytes)


def _access_log(item: documents.AccessLogItem, means: Means) -> Iterator[Filter]:
    when = tuple(
        Condition(
            each.minStatus,
            each.minDuration,
            each.flagged,
            None if each.percentage is None else each.percentage.value,
        )
        for each in item.config.when
    )
    fields = item.config.extraFields.items()
    texts = tuple((name, value) for name, value in fields if not value.startswith("%"))
    yield LogFilter(when, texts, tuple(_from("%REQ(", fields)), tuple(_from("%RESP(", fields)), means.chance)


def _from(operator: str, fields: Iterable[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """The fields that an operator of Envoy's fills, each with the header it names."""
    for name, value in fields:
        if value.startswith(operator):
            yield name, value.removeprefix(operator).removesuffix(")%").encode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


# Beyond this module's own imports: 6 MB and 100 ms of cryptography, and less for the others.
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "jwt": ("interceptor.config.jwks", "interceptor.middleware.tokens"),
    "basic": ("interceptor.middleware.basic",),
    "apiKey": ("interceptor.middleware.api_key",),
    **dict.fromkeys(("rateLimit", "rateLimitDocuments", "headers", "fault", "bodyLimit", "accessLog"), ()),
}
_MAKERS: Final = {
    "jwt": _jwt,
    "basic": _basic,
    "apiKey": _api_key,
    "rateLimit": _rate_limit,
    "headers": _headers,
    "fault": _fault,
    "bodyLimit": _body_limit,
    "accessLog": _access_log,
}
