from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from interceptor.errors import ConfigError
from interceptor.tls.certificates import Material
from interceptor.tls.contexts import SESSIONS, Contexts, Upstream
from tests.support.identities import Root, contexts

UPSTREAM = Upstream("10.0.0.1:80", "db", ("spiffe://a/ns/b/sa/c",), ("istio",))


@dataclass
class Session:
    """What is asked of a session."""

    has_ticket: bool = True
    id: bytes = b""
    time: float = 1000.0
    timeout: float = 200.0


@pytest.fixture
def made(tmp_path: Path) -> Contexts:
    root = Root()
    return contexts(tmp_path, root.issue(), root)


def keep(made: Contexts, upstream: Upstream, session: Session | None, *, by_id: bool = False) -> None:
    made.keep(upstream, session, by_id=by_id)  # type: ignore[arg-type]  # a session of one's own making is not possible


@pytest.mark.parametrize("server", [True, False])
def test_only_modern_tls_with_a_verified_peer_is_spoken(made: Contexts, server: bool) -> None:
    context = made.server(("h2",)) if server else made.client(("h2",))
    assert (context.minimum_version, context.maximum_version) == (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
    )
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    names = [str(each["name"]) for each in context.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names), names
    assert all("GCM" in name or "POLY1305" in name for name in names), names


def test_a_context_is_made_once_for_each_way_of_speaking(made: Contexts) -> None:
    assert made.server(("h2",)) is made.server(("h2",))
    assert made.server(("h2",)) is not made.server(())
    assert made.client(()) is not made.server(())
    assert made.client(()) is not made.client((), check_host=True)
    assert [made.client((), check_host=each).check_hostname for each in (True, False)] == [True, False]


def test_without_a_pair_others_are_verified_and_nobody_is_served() -> None:
    only = Contexts(Material(bundle_pem=Root().pair.certificate))
    assert len(only.client(()).get_ca_certs()) == 1
    assert Contexts(Material(bundle_pem=b"")).client(()).get_ca_certs() == []


def test_what_openssl_refuses_is_an_error_that_shows_no_key() -> None:
    with pytest.raises(ConfigError, match="OpenSSL refuses the certificates") as raised:
        Contexts(Material(pair_pem=b"secret", bundle_pem=b""))
    assert "secret" not in str(raised.value)


def test_a_session_is_its_upstreams_alone_and_served_on_for_half_of_its_time(made: Contexts) -> None:
    keep(made, UPSTREAM, Session())
    assert made.session(UPSTREAM) is not None
    for other in (
        UPSTREAM._replace(address="10.0.0.2:80"),
        UPSTREAM._replace(server_name=None),
        UPSTREAM._replace(expected=()),
        UPSTREAM._replace(alpn=()),
    ):
        assert made.session(other) is None
        assert not made.serves_on(other, 1000.0)
    assert [made.serves_on(UPSTREAM, now) for now in (1000.0, 1099.0, 1100.0)] == [True, True, False]


def test_only_what_can_be_resumed_is_kept_and_only_the_newest(made: Contexts) -> None:
    keep(made, UPSTREAM, None)
    keep(made, UPSTREAM, Session(has_ticket=False, id=b"name"))
    assert made.session(UPSTREAM) is None
    keep(made, UPSTREAM, Session(has_ticket=False, id=b"name"), by_id=True)
    assert made.session(UPSTREAM) is not None
    for number in range(SESSIONS):
        keep(made, UPSTREAM._replace(address=f"10.0.0.2:{number}"), Session())
    assert made.session(UPSTREAM) is None


def test_where_trust_domains_have_authorities_of_their_own_nothing_is_resumed(made: Contexts) -> None:
    federated = Contexts(replace(made.material, anchors={"a": frozenset(), "b": frozenset()}))
    keep(federated, UPSTREAM, Session())
    assert federated.session(UPSTREAM) is None
    assert federated.server(()).num_tickets == 0
    assert made.server(()).num_tickets == 1
