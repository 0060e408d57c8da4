"""Who is asked for names, by the files of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from interceptor.discovery import name_servers as module
from interceptor.discovery.name_servers import Hosts, NameServers, Upstream, read_hosts, read_resolv_conf
from interceptor.model.address import SocketAddress


def test_resolv_conf() -> None:
    text = """
# comment
domain first.example
search Shop.svc. svc .
options ndots:5
nameserver 10.0.0.1
nameserver nonsense
nameserver fe80::1%eth0
nameserver ::1
nameserver 10.0.0.4
"""
    assert read_resolv_conf(text) == Upstream(
        (SocketAddress("10.0.0.1", 53), SocketAddress("fe80::1", 53), SocketAddress("::1", 53)),
        ("shop.svc", "svc"),
        dots=5,
    )
    bounded = read_resolv_conf(
        "options ndots:99 timeout:99 attempts:0 rotate edns0 timeout:x\noptions attempts:99"
    )
    assert (bounded.dots, bounded.patience, bounded.attempts) == (15, 30, 5)
    assert read_resolv_conf("domain a.b.") == Upstream((), ("a.b",))


def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(module, "RESOLV_CONF", file)
    servers = NameServers()
    assert servers() == Upstream(())
    file.write_text("nameserver 10.0.0.1\n")
    assert servers().servers == (SocketAddress("10.0.0.1", 53),)
    new = tmp_path / "new"
    new.write_text("nameserver 10.0.0.2\nsearch svc\n")
    new.replace(file)
    assert servers() == Upstream((SocketAddress("10.0.0.2", 53),), ("svc",))
    file.unlink()
    assert servers().servers == (SocketAddress("10.0.0.2", 53),)
    new.write_text("nameserver 10.0.0.3\nsearch svc\n")
    new.replace(file)
    assert NameServers(["10.9.9.9"])() == Upstream((SocketAddress("10.9.9.9", 53),), ("svc",))


def test_the_hosts_file() -> None:
    text = """
127.0.0.1 localhost  # and a comment
::1       localhost ip6-localhost
fe80::1%eth0 link
10.0.0.7\tDB.example. db
nonsense  db
10.0.0.8  db

10.0.0.9
"""
    assert read_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "ip6-localhost": ("::1",),
        "link": ("fe80::1",),
        "db.example": ("10.0.0.7",),
        "db": ("10.0.0.7", "10.0.0.8"),
    }


def test_the_hosts_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hosts"
    monkeypatch.setattr(module, "HOSTS", file)
    hosts = Hosts()
    assert hosts("db") == ()
    file.write_text("10.0.0.1 db\n")
    assert (hosts("DB."), hosts("other")) == (("10.0.0.1",), ())
    new = tmp_path / "new"
    new.write_text("10.0.0.2 db\n")
    new.replace(file)
    assert hosts("db") == ("10.0.0.2",)
