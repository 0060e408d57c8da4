"""The test bed itself: two namespaces that reach each other over both families."""

from __future__ import annotations

import pytest

from tests.support.netns import topology

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("family", [4, 6])
def test_the_peer_reaches_the_app(family: int) -> None:
    with topology() as bed:
        bed.peer.run("ping", f"-{family}", "-c1", "-W2", bed.app.address(family))
