"""Ids for requests that have none."""

from __future__ import annotations

import re
from uuid import UUID

from interceptor.proxy.http.request_ids import request_ids


def test_ids_are_uuids_and_differ() -> None:
    request_id = request_ids(b"seed")
    ids = [request_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(
        re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids
    )
    assert UUID(ids[0].decode()).version == 4


def test_what_samples_by_the_first_digits_takes_its_share() -> None:
    request_id = request_ids(b"seed")
    taken = sum(
        int(request_id()[:8], 16) % 10_000 < 100 for _ in range(20_000)
    )  # Envoy's way: one in a hundred
    assert 100 < taken < 300


def test_two_sources_do_not_give_the_same() -> None:
    one, other = request_ids(), request_ids()
    assert not {one() for _ in range(100)} & {other() for _ in range(100)}
