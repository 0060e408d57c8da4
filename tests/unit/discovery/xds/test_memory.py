from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings, strategies as st

from interceptor.discovery.xds.messages import Body
from interceptor.discovery.xds.translate import Translation, Translator
from tests.unit.discovery.xds.test_assembly import NAMED, address, host, listener, static, to

EDS: Body = {"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}}


def assignment(*hosts: str, port: int = 80) -> Body:
    return {"endpoints": [{"lb_endpoints": [{"endpoint": address(each, port)} for each in hosts]}]}


class World:
    """What a control plane has, and a translator that remembers what was made of it."""

    def __init__(self) -> None:
        self.translator = Translator("shop", 10.0)
        self.clusters: dict[str, Body] = {"a": EDS, "b": static("10.0.0.2")}
        self.endpoints: dict[str, Body] = {"a": assignment("10.0.0.1")}
        self.routes: dict[str, Body] = {
            "r": {"virtual_hosts": [host("v", to("a"), domains=("a.example.com",)), host("rest", to("b"))]}
        }
        self.listeners: dict[str, Body] = {"l": listener("10.9.0.1", 80, NAMED)}

    def translated(self, translator: Translator | None = None) -> Translation:
        given = (self.clusters, self.endpoints, self.listeners, self.routes)
        return (translator or self.translator).documents(*given)


def test_what_is_the_same_is_the_same_text_and_what_changed_is_made_anew() -> None:
    world = World()
    first = world.translated()
    assert all(
        text is first.documents[key]
        for key, text in world.translated().documents.items()
        if key.startswith("DestinationRule")
    )
    world.endpoints["a"] = assignment("10.0.0.9")
    second = world.translated()
    [changed] = [key for key in second.documents if second.documents[key] != first.documents[key]]
    assert json.loads(second.documents[changed])["spec"]["endpoints"] == [{"address": "10.0.0.9"}]
    world.endpoints["a"] = assignment("10.0.0.9", port=81)
    third = world.translated()
    kinds = {
        key.partition("/")[0] for key in third.documents if third.documents[key] != second.documents.get(key)
    }
    assert kinds == {"ServiceEntry", "VirtualService"}, "routes go to another port now"


def test_a_cluster_that_is_routed_to_no_more_has_no_rule_any_more() -> None:
    world = World()
    world.translated()
    world.routes["r"] = {"virtual_hosts": [host("rest", to("b"))]}
    made = world.translated()
    assert made == world.translated(Translator("shop", 10.0))
    assert sum(key.startswith("DestinationRule/") for key in made.documents) == 1


ASSIGNMENTS = st.lists(st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3")), max_size=2, unique=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcrl-"), ASSIGNMENTS, st.sampled_from((80, 81)), st.sampled_from("abc")),
        max_size=8,
    )
)
def test_whatever_changes_the_documents_are_those_of_somebody_without_a_memory(
    steps: list[tuple[str, list[str], int, str]],
) -> None:
    world = World()
    for what, hosts, port, cluster in steps:
        if what in "ab":
            world.clusters[what] = EDS
            world.endpoints[what] = assignment(*hosts, port=port)
        elif what == "c":
            world.clusters[what] = static(*hosts, port=port)
        elif what == "r":
            domain = ("a.example.com",) if port == 80 else ("b.example.com", "a.example.com")
            given_routes: dict[str, Any] = {"virtual_hosts": [host("v", to(cluster), domains=domain)]}
            world.routes["r"] = given_routes
        elif what == "l":
            world.listeners[cluster] = listener(f"10.9.0.{port}", port, NAMED)
        else:
            world.clusters.pop(cluster, None)
        assert world.translated() == world.translated(Translator("shop", 10.0))
