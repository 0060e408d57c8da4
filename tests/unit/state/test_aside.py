from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from interceptor.state.aside import FEW, uncollected
from interceptor.state.snapshot import take
from tests.support.documents import configuration
from tests.support.routed import document, shop


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_the_collector_rests_and_leaves_alone_what_was_made() -> None:
    before = gc.get_freeze_count()
    with uncollected(FEW):
        assert gc.isenabled(), "so few are looked at in no time"
    with uncollected(FEW + 1):
        assert not gc.isenabled()
        with uncollected(FEW + 1):
            assert not gc.isenabled()
        assert not gc.isenabled(), "who began first decides"
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_what_is_used_no_more_is_freed_without_the_collector() -> None:
    """So a proxy that takes one version after the other, and collects none of them, does not grow."""
    rule = document("DestinationRule", "host: shop.example\ntrafficPolicy: {outlierDetection: {}}")
    routes = document("VirtualService", "hosts: [shop.example]\nhttp: [{directResponse: {status: 200}}]")
    snapshot = take(configuration(shop(80, ("10.1.0.1", "v1")), rule, routes))
    assert snapshot.routing is not None
    assert snapshot.routing.clusters.find("shop.example", 80, None, 80) is not None
    made = [weakref.ref(each) for each in (snapshot.routing, snapshot.routing.clusters, snapshot.registry)]
    with uncollected(FEW + 1):
        del snapshot
        assert [each() for each in made] == [None] * 3
