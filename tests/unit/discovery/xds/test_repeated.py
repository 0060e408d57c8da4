from __future__ import annotations

from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, Resource
from interceptor.discovery.xds.repeated import Repeated


def test_the_last_of_each_name_is_found_by_its_bytes() -> None:
    known = Repeated()
    one, two = Resource("a", {"x": 1}), Resource("a", {"x": 2})
    assert known.find(CLUSTER, b"1") is None
    known.keep(CLUSTER, b"1", one)
    assert known.find(CLUSTER, b"1") is one
    assert known.find(ENDPOINT, b"1") is None, "of another type"
    known.keep(CLUSTER, b"2", two)
    assert known.find(CLUSTER, b"2") is two
    assert known.find(CLUSTER, b"1") is None
    known.keep(CLUSTER, b"1", one)
    assert known.find(CLUSTER, b"1") is one


def test_what_cannot_be_read_is_not_kept_and_there_is_an_end() -> None:
    known = Repeated(2)
    known.keep(CLUSTER, b"x", Resource("a", problem="is no message of its type"))
    assert known.find(CLUSTER, b"x") is None
    for name in "abc":
        known.keep(CLUSTER, name.encode(), Resource(name, {}))
    assert [known.find(CLUSTER, name.encode()) is not None for name in "abc"] == [False, False, True]
