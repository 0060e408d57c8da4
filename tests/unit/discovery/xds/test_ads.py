from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings, strategies as st

from interceptor.discovery.xds import ads as module
from interceptor.discovery.xds.ads import NAMED, PATIENCE, Ads
from interceptor.discovery.xds.messages import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    Body,
    Judged,
    Request,
    Resource,
    Response,
)


def judge(type_url: str, name: str, body: Body) -> Judged:
    """Bodies of these tests say themselves what they need and what is wrong with them."""
    bad = body.get("bad")
    needs = body.get("needs", ())
    assert isinstance(needs, Sequence)
    return Judged((str(bad),) if bad else (), tuple(needs))


def cluster(name: str, version: str = "", *, eds: bool = True, **body: object) -> Resource:
    needs = ((ENDPOINT, name),) if eds else ()
    return Resource(name, {"needs": needs, **body}, version)


def endpoints(name: str, *hosts: str, **body: object) -> Resource:
    return Resource(name, {"hosts": hosts, **body})


def listener(name: str, *clusters: str, **body: object) -> Resource:
    return Resource(name, {"needs": tuple((CLUSTER, each) for each in clusters), **body})


class Talk:
    """A stream: what is said goes in, what is answered comes out."""

    def __init__(self, *, delta: bool = False, roots: tuple[tuple[str, str], ...] = ()) -> None:
        self.ads = Ads(judge, delta=delta, roots=roots)
        self.now = 0.0
        self.nonce = 0

    def connect(self) -> list[Request]:
        return self.ads.connect(self.now)

    def say(
        self, type_url: str, *resources: Resource, version: str = "1", removed: tuple[str, ...] = ()
    ) -> tuple[Request | None, list[Request]]:
        self.nonce += 1
        answer = self.ads.receive(Response(type_url, f"n{self.nonce}", version, resources, removed), self.now)
        return answer, self.ads.settle(self.now)

    def pass_time(self, seconds: float) -> list[Request]:
        self.now += seconds
        return self.ads.settle(self.now)

    def names(self, type_url: str) -> list[str]:
        return sorted(self.ads.active(type_url))


@pytest.fixture
def talk() -> Talk:
    made = Talk()
    made.connect()
    return made


def test_a_stream_begins_with_clusters_and_listeners_and_one_node() -> None:
    first, second = Talk().connect()
    assert first == Request(CLUSTER, first=True)
    assert second == Request(LISTENER)


def test_a_good_response_is_acknowledged_and_what_it_needs_is_asked_for(talk: Talk) -> None:
    answer, asked = talk.say(CLUSTER, cluster("a"), cluster("b", eds=False), version="7")
    assert answer == Request(CLUSTER, "n1", version="7")
    assert asked == [Request(ENDPOINT, names=("a",))]
    assert talk.names(CLUSTER) == ["b"]  # the other one has no endpoints yet
    answer, asked = talk.say(ENDPOINT, endpoints("a", "10.0.0.1"))
    assert answer == Request(ENDPOINT, "n2", version="1", names=("a",))
    assert asked == []
    assert talk.names(CLUSTER) == ["a", "b"]
    assert talk.ads.versions() == {CLUSTER: "7", ENDPOINT: "1"}


def test_what_is_bad_is_rejected_by_name_and_the_rest_is_used(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a", eds=False, size=1), version="1")
    answer, _ = talk.say(
        CLUSTER,
        cluster("a", eds=False, size=2, bad="size: too large"),
        cluster("b", eds=False),
        Resource("", problem="this is no message"),
        version="2",
    )
    assert answer == Request(
        CLUSTER, "n2", "a: size: too large; resources[2]: this is no message", version="1"
    )
    assert talk.ads.active(CLUSTER)["a"].body["size"] == 1
    assert talk.names(CLUSTER) == ["a", "b"]
    assert talk.ads.rejected() == {
        (CLUSTER, "a"): "size: too large",
        (CLUSTER, "resources[2]"): "this is no message",
    }
    answer, _ = talk.say(CLUSTER, cluster("a", eds=False, size=3), version="3")
    assert answer == Request(CLUSTER, "n3", version="3")
    assert talk.ads.rejected() == {}
    assert talk.names(CLUSTER) == ["a"]


def test_a_response_that_nobody_can_read_removes_nothing(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a", eds=False))
    talk.say(CLUSTER, Resource("", problem="this is no message"))
    assert talk.names(CLUSTER) == ["a"]


def test_a_rejection_names_no_more_than_there_is_room_for(talk: Talk) -> None:
    answer, _ = talk.say(CLUSTER, *(cluster(f"c{each}", bad="x" * 1000) for each in range(NAMED + 5)))
    assert answer is not None
    assert answer.error is not None
    assert answer.error.endswith("; and 5 more")
    assert len(answer.error) < 8000


def test_a_name_given_twice_spoils_the_response(talk: Talk) -> None:
    answer, _ = talk.say(CLUSTER, cluster("a", eds=False), cluster("a", eds=False))
    assert answer == Request(CLUSTER, "n1", "the resource 'a' is in the response twice")
    assert talk.names(CLUSTER) == []


def test_a_response_that_is_too_large_is_not_taken(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RESOURCES", 2)
    answer, _ = talk.say(CLUSTER, *(cluster(name, eds=False) for name in "abc"))
    assert answer == Request(CLUSTER, "n1", "the response has more than 2 resources")


def test_a_type_has_no_more_resources_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RESOURCES", 2)
    talk = Talk(delta=True)
    talk.connect()
    talk.say(CLUSTER, cluster("a", eds=False), cluster("b", eds=False))
    answer, _ = talk.say(CLUSTER, cluster("c", eds=False))
    assert answer == Request(CLUSTER, "n2", "c: there are more than 2 resources of its type")
    answer, _ = talk.say(CLUSTER, cluster("b", eds=False))
    assert answer == Request(CLUSTER, "n3")


@pytest.mark.parametrize("type_url", ["type.googleapis.com/no.such.Type", ENDPOINT])
def test_what_was_not_asked_for_is_not_answered(talk: Talk, type_url: str) -> None:
    answer, asked = talk.say(type_url, endpoints("a"))
    assert (answer, asked) == (None, [])


def test_endpoints_that_were_not_asked_for_are_not_kept(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a"))
    talk.say(ENDPOINT, endpoints("a"), endpoints("b"))
    assert talk.names(ENDPOINT) == ["a"]


def test_absent_clusters_are_gone_and_absent_endpoints_are_not(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a"), cluster("b"))
    talk.say(ENDPOINT, endpoints("a"), endpoints("b"))
    talk.say(ENDPOINT, endpoints("a", "10.0.0.9"))
    assert talk.names(CLUSTER) == ["a", "b"]
    _, asked = talk.say(CLUSTER, cluster("a"), version="2")
    assert talk.names(CLUSTER) == ["a"]
    assert asked == [Request(ENDPOINT, "n3", version="1", names=("a",))]
    assert talk.names(ENDPOINT) == ["a"]
    _, asked = talk.say(CLUSTER, version="3")
    assert talk.names(CLUSTER) == []
    assert asked == [Request(ENDPOINT, "n3", version="1")]


def test_a_listener_waits_for_its_cluster_and_the_cluster_for_its_endpoints(talk: Talk) -> None:
    talk.say(LISTENER, listener("l", "a"))
    assert talk.names(LISTENER) == []
    assert talk.ads.waiting == ((CLUSTER, "a"),)
    before = talk.ads.complete
    talk.say(CLUSTER, cluster("a"))
    assert talk.names(LISTENER) == []
    talk.say(ENDPOINT, endpoints("a"))
    assert talk.names(LISTENER) == ["l"]
    assert (before, talk.ads.complete) == (False, True)


def test_what_replaces_something_is_there_before_that_goes_away(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("old", eds=False))
    talk.say(LISTENER, listener("l", "old"))
    talk.say(CLUSTER, cluster("new"))
    assert talk.names(CLUSTER) == ["old"]  # the listener in use still points at it
    talk.say(LISTENER, listener("l", "new"))
    assert talk.ads.active(LISTENER)["l"].needs == ((CLUSTER, "old"),)
    talk.say(ENDPOINT, endpoints("new"))
    assert talk.ads.active(LISTENER)["l"].needs == ((CLUSTER, "new"),)
    assert talk.names(CLUSTER) == ["new"]


def test_what_does_not_come_in_time_does_not_exist(talk: Talk) -> None:
    talk.say(LISTENER, listener("l", "gone"))
    talk.say(CLUSTER, cluster("a"))
    due = [talk.ads.deadline]
    talk.pass_time(PATIENCE - 0.1)
    assert talk.names(LISTENER) == []
    talk.pass_time(0.1)
    assert talk.names(LISTENER) == ["l"]
    assert talk.names(CLUSTER) == ["a"]
    assert [*due, talk.ads.deadline] == [PATIENCE, None]
    talk.say(ENDPOINT, endpoints("a"))  # late is better than never
    assert talk.names(ENDPOINT) == ["a"]


def test_a_cluster_that_is_withdrawn_under_a_listener_goes_when_it_is_overdue(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a", eds=False))
    talk.say(LISTENER, listener("l", "a"))
    talk.say(CLUSTER)
    assert talk.names(CLUSTER) == ["a"]
    talk.pass_time(PATIENCE)
    assert talk.names(CLUSTER) == []


def test_the_revision_changes_with_what_is_in_use_and_only_then(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a"))
    before = talk.ads.revision
    talk.say(ENDPOINT, endpoints("a"))
    assert talk.ads.revision == before + 1
    talk.pass_time(1)
    assert talk.ads.revision == before + 1


def test_a_new_stream_says_what_is_known(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a"), version="5")
    talk.say(ENDPOINT, endpoints("a"), version="6")
    talk.ads.disconnect()
    assert talk.pass_time(1000) == []
    assert talk.names(CLUSTER) == ["a"]
    assert talk.connect() == [
        Request(CLUSTER, version="5", first=True),
        Request(ENDPOINT, version="6", names=("a",)),
        Request(LISTENER),
    ]


def test_nothing_is_overdue_while_there_is_no_stream(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a"))
    talk.ads.disconnect()
    talk.pass_time(PATIENCE * 10)
    due = [talk.ads.deadline]
    talk.connect()
    assert [*due, talk.ads.deadline] == [None, talk.now + PATIENCE]


def test_a_resource_lives_as_long_as_its_heartbeat(talk: Talk) -> None:
    talk.say(CLUSTER, Resource("a", {}, ttl=10))
    revision = talk.ads.revision
    talk.pass_time(8)
    talk.say(CLUSTER, Resource("a", ttl=10), Resource("b", ttl=10))
    talk.pass_time(8)
    assert talk.names(CLUSTER) == ["a"]
    assert talk.ads.revision == revision
    assert talk.ads.deadline == 18
    talk.pass_time(2)
    assert talk.names(CLUSTER) == []


def test_a_heartbeat_changes_nothing_of_a_version_that_is_not_in_use(talk: Talk) -> None:
    talk.say(CLUSTER, Resource("a", {"size": 1}))
    talk.say(CLUSTER, Resource("a", {"size": 2, "needs": ((ENDPOINT, "a"),)}))
    talk.say(CLUSTER, Resource("a", ttl=10))
    assert talk.ads.active(CLUSTER)["a"].body == {"size": 1}


def test_delta_subscribes_and_unsubscribes() -> None:
    talk = Talk(delta=True)
    assert talk.connect() == [Request(CLUSTER, first=True), Request(LISTENER)]
    answer, asked = talk.say(CLUSTER, cluster("a", "v1"), cluster("b", "v1"))
    assert answer == Request(CLUSTER, "n1")
    assert asked == [Request(ENDPOINT, subscribe=("a", "b"))]
    talk.say(ENDPOINT, endpoints("a"), endpoints("b"))
    _, asked = talk.say(CLUSTER, cluster("c", "v1"), removed=("a",))
    assert asked == [Request(ENDPOINT, subscribe=("c",), unsubscribe=("a",))]
    assert talk.names(CLUSTER) == ["b"]
    answer, asked = talk.say(ENDPOINT, removed=("c",))
    assert (answer, asked) == (Request(ENDPOINT, "n4"), [])
    assert talk.names(CLUSTER) == ["b", "c"]  # without endpoints: they do not exist
    talk.ads.disconnect()
    assert talk.connect() == [
        Request(CLUSTER, first=True, known={"b": "v1", "c": "v1"}),
        Request(ENDPOINT, subscribe=("b", "c"), known={"b": ""}),
        Request(LISTENER),
    ]


def test_delta_does_not_count_what_was_rejected_as_known() -> None:
    talk = Talk(delta=True)
    talk.connect()
    talk.say(CLUSTER, cluster("a", "v1", eds=False))
    answer, _ = talk.say(CLUSTER, cluster("a", "v2", bad="no"), cluster("b", "v1", bad="no"))
    assert answer == Request(CLUSTER, "n2", "a: no; b: no")
    talk.ads.disconnect()
    assert talk.connect()[0] == Request(CLUSTER, first=True, known={"a": "v1"})
    talk.say(CLUSTER, removed=("a", "b"))
    assert talk.ads.rejected() == {}


def test_what_was_rejected_and_is_not_wanted_any_more_is_forgotten(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a"))
    talk.say(ENDPOINT, endpoints("a", bad="no"))
    assert talk.ads.rejected() == {(ENDPOINT, "a"): "no"}
    talk.say(CLUSTER)
    assert talk.ads.rejected() == {}


NAMES = "abcd"


class Server:
    """A control plane that knows the protocol: it answers subscriptions and forgets streams."""

    def __init__(self) -> None:
        self.clusters: dict[str, Resource] = {}
        self.endpoints: dict[str, Resource] = {}
        self.listeners: dict[str, Resource] = {}
        self.version = 0
        self.nonces: dict[str, str] = {}
        self.asked: dict[str, tuple[str, ...]] = {}
        self.outgoing: list[Response] = []

    def forget(self) -> None:
        self.nonces, self.asked, self.outgoing = {}, {}, []

    def take(self, request: Request) -> None:
        if request.nonce != self.nonces.get(request.type_url, ""):
            return  # stale
        fresh = request.type_url not in self.asked or request.names != self.asked[request.type_url]
        self.asked[request.type_url] = request.names
        if fresh:
            self.push(request.type_url)

    def push(self, type_url: str) -> None:
        if type_url not in self.asked:
            return
        self.version += 1
        nonce = self.nonces[type_url] = f"n{self.version}"
        table = {CLUSTER: self.clusters, LISTENER: self.listeners, ENDPOINT: self.endpoints}[type_url]
        wanted = self.asked[type_url] if type_url == ENDPOINT else tuple(table)
        resources = tuple(table[name] for name in wanted if name in table)
        self.outgoing.append(Response(type_url, nonce, str(self.version), resources))


STEPS = st.one_of(
    st.tuples(st.just("cluster"), st.sampled_from(NAMES), st.booleans(), st.booleans()),
    st.tuples(st.just("endpoints"), st.sampled_from(NAMES), st.booleans(), st.just(False)),
    st.tuples(st.just("listener"), st.sampled_from(NAMES), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("remove"), st.sampled_from((CLUSTER, ENDPOINT, LISTENER)), st.sampled_from(NAMES)),
    st.tuples(st.just("push"), st.sampled_from((CLUSTER, ENDPOINT, LISTENER))),
    st.tuples(st.just("deliver"), st.integers(0, 5)),
    st.tuples(st.just("time"), st.floats(0.1, 20)),
    st.tuples(st.just("drop")),
)


class World:
    """A client and its server; messages of different types overtake each other, streams end."""

    def __init__(self) -> None:
        self.ads = Ads(judge, delta=False)
        self.server = Server()
        self.now = 0.0
        self.without: set[tuple[str, ...]] = set()  # what was in use without something it needs
        self.send(self.ads.connect(0.0))

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.server.take(request)

    def deliver(self, index: int) -> None:
        """One response; those of its type that were sent before it come first."""
        queue = self.server.outgoing
        if not queue:
            return
        type_url = queue[index % len(queue)].type_url
        response = next(each for each in queue if each.type_url == type_url)
        queue.remove(response)
        answer = self.ads.receive(response, self.now)
        self.send([] if answer is None else [answer])
        self.send(self.ads.settle(self.now))
        if answer is not None and answer.error is None:
            assert answer.version == response.version

    def step(self, step: tuple[object, ...]) -> None:
        match step:
            case ("cluster", str(name), bool(eds), bool(bad)):
                self.server.clusters[name] = cluster(name, eds=eds, bad="bad" if bad else None)
            case ("endpoints", str(name), bool(bad), _):
                self.server.endpoints[name] = endpoints(name, bad="bad" if bad else None)
            case ("listener", str(name), str(of), bool(bad)):
                self.server.listeners[name] = listener(name, of, bad="bad" if bad else None)
            case ("remove", str(type_url), str(name)):
                server = self.server
                tables = {CLUSTER: server.clusters, LISTENER: server.listeners, ENDPOINT: server.endpoints}
                tables[type_url].pop(name, None)
            case ("push", str(type_url)):
                self.server.push(type_url)
            case ("deliver", int(index)):
                self.deliver(index)
            case ("time", float(seconds)):
                self.now += seconds
                self.send(self.ads.settle(self.now))
            case _:
                self.ads.disconnect()
                self.server.forget()
                self.send(self.ads.connect(self.now))

    def check(self) -> None:
        """What is in use has what it needs, or that is known not to exist, or came only after that was known."""
        without: set[tuple[str, ...]] = set()
        for type_url in (LISTENER, CLUSTER):
            for user, held in self.ads.active(type_url).items():
                for needed, name in held.needs:
                    if name not in self.ads.active(needed):
                        lack = (type_url, user, needed, name)
                        assert (needed, name) in self.ads._missing or lack in self.without
                        without.add(lack)
        self.without = without

    def come_to_rest(self) -> None:
        for type_url in (CLUSTER, LISTENER, ENDPOINT):
            self.server.push(type_url)
        for _ in range(3):
            while self.server.outgoing:
                self.deliver(0)
            self.now += PATIENCE
            self.send(self.ads.settle(self.now))
            self.server.push(ENDPOINT)


@settings(max_examples=300, deadline=None)
@example([("listener", "a", "a", False), ("drop",), ("cluster", "a", True, False), ("push", CLUSTER), ("deliver", 0), ("deliver", 0), ("time", 1.0), ("deliver", 0)])  # fmt: skip
@example([("cluster", "a", True, False), ("listener", "a", "a", False), ("push", CLUSTER), ("push", LISTENER), *[("deliver", 0)] * 6])  # fmt: skip
@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_the_client_ends_with_what_the_server_has(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for step in steps:
        world.step(step)
        world.check()
    world.come_to_rest()
    world.check()
    server, ads = world.server, world.ads
    for type_url, table in ((CLUSTER, server.clusters), (LISTENER, server.listeners)):
        good = {name for name, each in table.items() if each.body and not each.body["bad"]}
        assert good <= set(ads.active(type_url))
        assert set(ads.active(type_url)) <= set(table)  # a rejected one may leave the one before
        for name in good:
            assert ads.active(type_url)[name].body == table[name].body
    assert not ads.waiting


def test_routes_are_asked_for_like_endpoints(talk: Talk) -> None:
    _, asked = talk.say(LISTENER, Resource("l", {"needs": ((ROUTE, "r"),)}))
    assert asked == [Request(ROUTE, names=("r",))]
    talk.say(ROUTE, Resource("r", {}))
    assert talk.names(LISTENER) == ["l"]


def test_a_duplicate_is_acknowledged_again_and_changes_nothing(talk: Talk) -> None:
    talk.say(CLUSTER, cluster("a", eds=False), version="1")
    before = talk.ads.revision
    again = Response(CLUSTER, "n1", "1", (cluster("a", eds=False),))
    assert talk.ads.receive(again, talk.now) == Request(CLUSTER, "n1", version="1")
    assert talk.ads.settle(talk.now) == []
    assert talk.ads.revision == before


def test_what_was_asked_for_with_a_nonce_that_expired_meanwhile_is_asked_for_by_the_next_answer(
    talk: Talk,
) -> None:
    """The server passes over a request with an old nonce: then the answer to its next response has to say all."""
    talk.say(CLUSTER, cluster("a"))
    talk.say(ENDPOINT, endpoints("a"), version="e1")
    _, asked = talk.say(CLUSTER, cluster("a"), cluster("b"))
    assert asked == [Request(ENDPOINT, "n2", version="e1", names=("a", "b"))]
    crossed, _ = talk.say(ENDPOINT, endpoints("a"), version="e2")  # it was on its way
    assert crossed == Request(ENDPOINT, "n4", version="e2", names=("a", "b"))


@pytest.mark.parametrize("delta", [True, False])
def test_roots_are_asked_for_from_the_start_and_serve_on_when_they_are_taken_back(*, delta: bool) -> None:
    talk = Talk(delta=delta, roots=((SECRET, "default"),))
    talk.connect()
    talk.ads.settle(talk.now)
    talk.ads.disconnect()
    asked = talk.connect()[-1]
    assert asked == Request(SECRET, subscribe=("default",)) if delta else Request(SECRET, names=("default",))
    talk.say(CLUSTER)
    talk.say(LISTENER)
    assert talk.ads.waiting == ((SECRET, "default"),)
    answer, _ = talk.say(SECRET, Resource("default", {"bad": "a key that is not its own"}))
    assert answer is not None
    assert answer.error == "default: a key that is not its own"
    talk.say(SECRET, Resource("default", {"pair": 1}))
    assert talk.ads.complete
    talk.say(SECRET, removed=("default",)) if delta else talk.say(SECRET)
    assert talk.names(SECRET) == ["default"]


def test_a_cluster_waits_for_its_secret_and_goes_on_without_one_that_does_not_come(talk: Talk) -> None:
    talk.say(CLUSTER, Resource("a", {"needs": ((SECRET, "s"),)}))
    assert talk.names(CLUSTER) == []
    talk.pass_time(PATIENCE)
    assert talk.names(CLUSTER) == ["a"], "whoever needs it is refused then, and nothing else"
    talk.say(SECRET, Resource("s", {}))
    assert talk.names(SECRET) == ["s"]


def test_what_is_said_again_stays_the_same_object_and_is_not_judged_again() -> None:
    judged: list[str] = []

    def judge_once(type_url: str, name: str, body: Body) -> Judged:
        judged.append(name)
        return judge(type_url, name, body)

    ads = Ads(judge_once, delta=False)
    ads.connect(0.0)

    def say(version: str, b: int) -> None:
        given = (Resource("a", {"x": 1}, version), Resource("b", {"x": b}, version))
        ads.receive(Response(CLUSTER, version, version, given), 0.0)
        ads.settle(0.0)

    say("1", 1)
    first, revision = ads.active(CLUSTER)["a"].body, ads.revision
    say("2", 2)
    assert judged == ["a", "b", "b"]
    assert ads.active(CLUSTER)["a"].body is first
    assert ads.active(CLUSTER)["a"].version == "2"
    assert ads.revision == revision + 1, "for b"
    say("3", 2)
    assert ads.revision == revision + 1
