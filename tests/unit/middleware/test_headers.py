from __future__ import annotations

from interceptor.middleware.headers import Changes, HeaderFilter
from interceptor.model.http import ResponseHead
from tests.support.exchanges import an_exchange


def test_it_removes_then_sets_then_adds() -> None:
    exchange = an_exchange([(b"X-A", b"1"), (b"x-b", b"2"), (b"X-C", b"3")])
    changes = Changes(remove=(b"x-a",), set=((b"X-B", b"new"),), add=((b"x-c", b"4"), (b"x-a", b"5")))
    HeaderFilter(changes, Changes()).request(exchange)
    assert exchange.request.headers == [
        (b"X-C", b"3"), (b"X-B", b"new"), (b"x-c", b"4"), (b"x-a", b"5")
    ]  # fmt: skip


def test_the_way_back_has_changes_of_its_own() -> None:
    head = ResponseHead(200, b"OK", [(b"Server", b"app")])
    one = HeaderFilter(Changes(), Changes(remove=(b"server",), add=((b"via", b"us"),)))
    exchange = an_exchange([(b"server", b"mine")])
    one.request(exchange)
    one.response(exchange, head)
    assert exchange.request.headers == [(b"server", b"mine")]
    assert head.headers == [(b"via", b"us")]
