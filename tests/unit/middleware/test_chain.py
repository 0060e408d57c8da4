"""The synchronous half of a chain: order, answers, delays, faults."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from interceptor.middleware.api import OWN, Delay, Exchange, Next, Response, Verdict
from interceptor.middleware.chain import Chain
from interceptor.middleware.links import BuiltIn, Failure, Link, Users
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, ResponseHead
from tests.support.exchanges import Observed, an_exchange

DENIED = LocalReply(403, ResponseFlag.DENY, "no")


@dataclass
class Noting:
    """A filter that notes when it is asked, and answers what it is told to."""

    name: str
    notes: list[str]
    verdict: Verdict = None
    raises: bool = False

    def request(self, exchange: Exchange) -> Verdict:
        self.notes.append(f"{self.name}>")
        if self.raises:
            raise KeyError(self.name)
        return self.verdict

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        self.notes.append(f"<{self.name}")
        if self.raises:
            raise KeyError(self.name)


@dataclass
class Stage:
    """A chain of noting filters."""

    notes: list[str] = field(default_factory=list)
    observed: Observed = field(default_factory=Observed)
    links: list[Link] = field(default_factory=list)

    def add(
        self, name: str, verdict: Verdict = None, *, raises: bool = False, failure: Failure = "closed"
    ) -> None:
        self.links.append(BuiltIn(name, failure, Noting(name, self.notes, verdict, raises)))

    def chain(self) -> Chain:
        return Chain(self.links, self.observed)


async def own(exchange: Exchange, call_next: Next) -> Response:
    return await call_next()


def test_requests_pass_in_order_and_responses_in_reverse() -> None:
    stage = Stage()
    stage.add("a")
    stage.add("b")
    chain, exchange = stage.chain(), an_exchange()
    assert chain.start(exchange) is None
    chain.respond(exchange, ResponseHead(200, b"", []))
    assert stage.notes == ["a>", "b>", "<b", "<a"]


def test_an_answer_ends_it_and_is_shown_to_those_before() -> None:
    stage = Stage()
    stage.add("a")
    stage.add("b", DENIED)
    stage.add("c")
    chain, exchange = stage.chain(), an_exchange()
    assert chain.start(exchange) is DENIED
    chain.respond(exchange, ResponseHead(403, b"", []))
    assert stage.notes == ["a>", "b>", "<a"]


def test_after_a_delay_it_goes_on_with_the_next_one() -> None:
    stage = Stage()
    stage.add("a", Delay(2.0))
    stage.add("b")
    chain, exchange = stage.chain(), an_exchange()
    assert chain.start(exchange) == Delay(2.0)
    assert chain.start(exchange) is None
    chain.respond(exchange, ResponseHead(200, b"", []))
    assert stage.notes == ["a>", "b>", "<b", "<a"]


def test_the_users_own_needs_a_task() -> None:
    stage = Stage()
    stage.add("a")
    stage.links.append(Users("mine", "closed", own, 1.0))
    stage.add("b")
    chain, exchange = stage.chain(), an_exchange()
    assert chain.start(exchange) is OWN
    assert chain.start(exchange) is OWN  # asking again changes nothing
    chain.respond(exchange, ResponseHead(200, b"", []))
    assert stage.notes == ["a>", "<a"]


@pytest.mark.parametrize("failure", ["open", "closed"])
def test_a_fault_is_counted_by_name_and_fails_as_declared(failure: Failure) -> None:
    stage = Stage()
    stage.add("a", raises=True, failure=failure)
    stage.add("b")
    chain, exchange = stage.chain(), an_exchange()
    verdict = chain.start(exchange)
    assert stage.observed.failures == ["a"]
    if failure == "open":
        assert verdict is None
        assert stage.notes == ["a>", "b>"]
    else:
        assert isinstance(verdict, LocalReply)
        assert (verdict.status, verdict.details) == (500, "middleware_failed{a}")
        assert verdict.body == b"interceptor: middleware 'a' failed\n"
        assert stage.notes == ["a>"]


def test_a_fault_in_a_response_leaves_the_others_their_turn() -> None:
    stage = Stage()
    stage.add("a")
    stage.add("b", raises=True, failure="open")
    stage.add("c")
    chain, exchange = stage.chain(), an_exchange()
    assert chain.start(exchange) is None
    chain.respond(exchange, ResponseHead(200, b"", []))
    assert stage.notes == ["a>", "b>", "c>", "<c", "<b", "<a"]
    assert stage.observed.failures == ["b", "b"]


def test_it_knows_who_authenticates() -> None:
    stage = Stage()
    stage.add("a")
    assert stage.chain().authenticates is None
    stage.links.append(BuiltIn("jwt", "closed", Noting("jwt", []), authenticates=True))
    assert stage.chain().authenticates == "jwt"
