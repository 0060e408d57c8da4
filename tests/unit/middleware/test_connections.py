"""What stands around a connection: who refuses it, who fails, and what the failures cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
import trio

from interceptor.middleware.api import Connection, ConnectionNext, Delay, Refusal
from interceptor.middleware.connections import ConnectionChain
from interceptor.middleware.links import BuiltInConnection, ConnectionLink, UsersConnection
from tests.support.sample_flows import OK

Failure = Literal["open", "closed"]
REFUSED = Refusal("too many", "rate_limit")


@dataclass
class Observed:
    """Notes what the middleware did."""

    failures: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)

    def failed(self, name: str) -> None:
        self.failures.append(name)

    def took(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.times.append(name)


@dataclass
class Says:
    """A filter that always says the same; an exception is raised."""

    verdict: Refusal | Delay | Exception | None

    def connection(self, connection: Connection) -> Refusal | Delay | None:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def filtering(verdict: Refusal | Delay | Exception | None, failure: Failure = "closed") -> ConnectionLink:
    return BuiltInConnection("built-in", failure, Says(verdict))


async def passes(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    await call_next()
    return None


async def refuses(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    return Refusal("not this one")


async def ignores(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    return None


async def breaks(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    raise KeyError("broken")


async def breaks_later(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    await call_next()
    raise KeyError("broken")


async def twice(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    await call_next()
    await call_next()
    return None


async def late(connection: Connection, call_next: ConnectionNext) -> Refusal | None:
    await trio.sleep(60)
    return None


def own(call: object, failure: Failure = "closed") -> ConnectionLink:
    return UsersConnection("own", failure, call, 0.05)  # type: ignore[arg-type]  # one of the functions above


async def run(*links: ConnectionLink) -> tuple[Refusal | None, int, Observed]:
    """The chain's verdict, how often the connection was served, and what was noted."""
    served, observed = 0, Observed()

    async def serve() -> None:
        nonlocal served
        served += 1
        await trio.lowlevel.checkpoint()

    verdict = await ConnectionChain(links, observed).run(Connection(replace(OK)), serve)
    return verdict, served, observed


async def test_who_objects_to_nothing_lets_it_pass() -> None:
    verdict, served, observed = await run(filtering(None), own(passes), filtering(Delay(0.001)), own(passes))
    assert (verdict, served, observed.failures, observed.times) == (None, 1, [], ["own", "own"])


async def test_the_first_refusal_counts_wherever_it_is() -> None:
    assert (await run(filtering(REFUSED), own(breaks)))[:2] == (REFUSED, 0)
    assert (await run(own(passes), filtering(REFUSED)))[:2] == (REFUSED, 0)
    assert (await run(own(refuses)))[:2] == (Refusal("not this one", "middleware"), 0)
    verdict, served, _ = await run(own(ignores))
    assert verdict is not None
    assert (verdict.details, served) == ("the middleware 'own' refused it", 0)


@pytest.mark.parametrize(
    "link",
    [
        lambda failure: filtering(ValueError("fault"), failure),
        lambda failure: own(breaks, failure),
        lambda failure: own(late, failure),
    ],
    ids=["built-in", "own breaks", "own is late"],
)
async def test_a_failure_is_counted_and_closes_or_opens(link: object) -> None:
    assert callable(link)
    verdict, served, observed = await run(link("closed"))
    assert verdict is not None
    assert ("failed" in verdict.details, served, len(observed.failures)) == (True, 0, 1)
    verdict, served, observed = await run(link("open"), filtering(None))
    assert (verdict, served, len(observed.failures)) == (None, 1, 1)


async def test_what_fails_after_the_connection_changes_nothing_of_it() -> None:
    assert (await run(own(breaks_later)))[:2] == (None, 1)
    assert (await run(own(breaks_later), filtering(REFUSED)))[:2] == (REFUSED, 0)
    verdict, served, observed = await run(own(twice, "open"))
    assert (verdict, served, observed.failures) == (None, 1, ["own"])


async def test_a_fault_of_the_rest_is_nobodys_in_the_list() -> None:
    observed = Observed()

    async def serve() -> None:
        raise OSError("the rest")

    with pytest.raises(OSError, match="the rest"):
        await ConnectionChain((own(passes),), observed).run(Connection(replace(OK)), serve)
    assert observed.failures == []


async def test_a_cancellation_is_no_failure() -> None:
    observed = Observed()
    with trio.move_on_after(0.02) as scope:
        await ConnectionChain((UsersConnection("own", "open", late, 60),), observed).run(
            Connection(replace(OK)), trio.sleep_forever
        )
    assert scope.cancelled_caught
    assert observed.failures == []
