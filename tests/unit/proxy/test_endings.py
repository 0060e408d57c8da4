"""Each end has one name: a flag and a sentence."""

from __future__ import annotations

import errno

import pytest

from interceptor.errors import PeerError
from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.model.connection import ResponseFlag
from interceptor.proxy import endings
from interceptor.proxy.endings import DialError, Ended, Ending, Side, TlsDialError

UPSTREAM = UpstreamAddress(SocketAddress("10.0.0.9", 80))


@pytest.mark.parametrize(
    ("number", "flag", "words"),
    [
        (errno.ECONNREFUSED, ResponseFlag.UPSTREAM_FAILURE, "10.0.0.9:80 refused"),
        (errno.ETIMEDOUT, ResponseFlag.UPSTREAM_FAILURE, "spec.timeouts.connect"),
        (errno.EHOSTUNREACH, ResponseFlag.UPSTREAM_FAILURE, "unreachable"),
        (errno.ENETUNREACH, ResponseFlag.UPSTREAM_FAILURE, "unreachable"),
        (errno.EPERM, ResponseFlag.UPSTREAM_FAILURE, "firewall rule of this machine"),
        (errno.EADDRNOTAVAIL, ResponseFlag.UPSTREAM_FAILURE, "ip_local_port_range"),
        (errno.EMFILE, ResponseFlag.LOCAL_RESET, "RLIMIT_NOFILE"),
        (errno.EPROTO, ResponseFlag.UPSTREAM_FAILURE, "10.0.0.9:80 failed: EPROTO"),
        (9999, ResponseFlag.UPSTREAM_FAILURE, "errno 9999"),
    ],
)
def test_a_failed_dial_names_the_upstream_and_the_cause(number: int, flag: ResponseFlag, words: str) -> None:
    outcome = endings.of_dial(DialError(UPSTREAM, number))
    assert outcome.flag is flag
    assert words in outcome.details


def test_a_dial_error_is_a_peer_error_with_a_text() -> None:
    error = DialError(UPSTREAM, errno.ECONNREFUSED)
    assert isinstance(error, PeerError)
    assert str(error) == "10.0.0.9:80: ECONNREFUSED"


@pytest.mark.parametrize(
    ("ended", "flag", "words"),
    [
        (Ended(Side.DOWNSTREAM, Ending.FIN), ResponseFlag.NONE, "-"),
        (Ended(Side.UPSTREAM, Ending.FIN), ResponseFlag.NONE, "-"),
        (
            Ended(Side.DOWNSTREAM, Ending.RESET, errno.ECONNRESET),
            ResponseFlag.DOWNSTREAM_RESET,
            "peer broke: ECONNRESET",
        ),
        (
            Ended(Side.UPSTREAM, Ending.RESET, errno.ETIMEDOUT),
            ResponseFlag.UPSTREAM_RESET,
            "upstream broke: ETIMEDOUT",
        ),
        (
            Ended(Side.NEITHER, Ending.IDLE, reason="spec.timeouts.idle"),
            ResponseFlag.IDLE_TIMEOUT,
            "no byte moved for spec.timeouts.idle",
        ),
        (Ended(Side.DOWNSTREAM, Ending.LINGER), ResponseFlag.IDLE_TIMEOUT, "the peer had finished"),
        (Ended(Side.UPSTREAM, Ending.LINGER), ResponseFlag.IDLE_TIMEOUT, "the upstream had finished"),
    ],
)
def test_a_relayed_flow_says_who_ended_it_and_how(ended: Ended, flag: ResponseFlag, words: str) -> None:
    outcome = endings.of_relay(ended)
    assert outcome.flag is flag
    assert words in outcome.details


@pytest.mark.parametrize(
    ("reason", "flag"), [("loop", ResponseFlag.NO_ROUTE), ("registry", ResponseFlag.DENY)]
)
def test_a_loop_has_no_route_and_any_other_denial_is_policy(reason: str, flag: ResponseFlag) -> None:
    assert endings.of_denial(reason, "because") == (flag, "because")


def test_an_abort_is_ours() -> None:
    assert endings.of_abort("drained") == (ResponseFlag.LOCAL_RESET, "drained")


def test_a_tls_stream_that_was_cut_off_is_called_so() -> None:
    outcome = endings.of_relay(Ended(Side.DOWNSTREAM, Ending.RESET, errno.EPROTO))
    assert "ended without saying so" in outcome.details


def test_a_handshake_with_an_upstream_fails_with_its_own_words() -> None:
    assert endings.of_failure(TlsDialError(UPSTREAM, "no TLS")) == (ResponseFlag.UPSTREAM_FAILURE, "no TLS")


def test_plaintext_to_a_strict_port_has_no_route() -> None:
    assert endings.of_denial("plaintext", "-").flag is ResponseFlag.NO_ROUTE
