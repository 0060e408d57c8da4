from __future__ import annotations

from interceptor.routing.by_host import ByHost


def test_the_most_exact_host_wins_and_the_first_of_equals() -> None:
    hosts: ByHost[str] = ByHost()
    assert not hosts
    assert hosts.find(b"a.b") is None
    assert all(hosts.add(host, host) for host in ("a.b.c", "*.b.c", "*.c"))
    assert not hosts.add("*.c", "another")
    assert hosts
    found = [hosts.find(host) for host in (b"a.b.c", b"x.b.c", b"x.y.b.c", b"b.c", b"c", b"x.d")]
    assert found == ["a.b.c", "*.b.c", "*.b.c", "*.c", None, None]
    assert hosts.add("*", "*")
    assert hosts.find(b"c") == hosts.find(b"x.d") == "*"
