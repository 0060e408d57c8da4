"""How a flow ends, and the one table that says what each end is called: a response flag and a sentence."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.errors import PeerError
from interceptor.model.address import UpstreamAddress
from interceptor.model.connection import ResponseFlag

if TYPE_CHECKING:
    from interceptor.model.address import SocketAddress


class Side(Enum):
    """Who ended a flow."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    NEITHER = "neither"


class Ending(Enum):
    """How a relayed flow ended."""

    FIN = "fin"  # both sides have finished; the side is the one that finished first
    RESET = "reset"  # the side's connection broke
    IDLE = "idle"  # nothing moved for the idle timeout
    LATE = "late"  # it lasted as long as it may
    DENIED = "denied"  # it lost permission, as its record says
    LINGER = "linger"  # nothing moved for the linger timeout after the side had finished
    ABORT = "abort"  # we ended it, for a reason


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a relayed flow."""

    side: Side
    how: Ending
    errno: int = 0  # of a reset
    reason: str = "-"  # of an abort: a sentence; of an idle or a late flow: the setting that it ran into


class DialError(PeerError):
    """No upstream could be reached; the last one's address and errno."""

    def __init__(self, address: UpstreamAddress, number: int) -> None:
        super().__init__(f"{address}: {errno.errorcode.get(number, number)}")
        self.address = address
        self.errno = number
        self.hint = "-"  # one more sentence for the operator


class TlsDialError(DialError):
    """The upstream took the connection, and could not be spoken to by TLS."""

    def __init__(self, address: UpstreamAddress, details: str) -> None:
        super().__init__(address, errno.EPROTO)
        self.details = details


class TurnedAwayError(DialError):
    """Nothing was dialled: the documents leave nobody to dial, or a policy refuses who they name."""

    def __init__(
        self,
        address: SocketAddress,
        outcome: Outcome,
        *,
        denied: str | None = None,
        policy: str = "-",
    ) -> None:
        super().__init__(UpstreamAddress(address), errno.ENOTCONN)
        self.outcome = outcome
        self.denied = denied  # the reason label, where a policy refuses
        self.policy = policy  # which one


class HandshakeError(PeerError):
    """The other end could not or would not prove who it is."""

    def __init__(
        self, reason: str, sentence: str, flag: ResponseFlag = ResponseFlag.DOWNSTREAM_PROTOCOL
    ) -> None:
        super().__init__(sentence)
        self.reason = reason  # one of a fixed set of words, for a label
        self.flag = flag


class GoneError(PeerError):
    """The peer's connection broke before anything was relayed."""

    def __init__(self, number: int) -> None:
        super().__init__(_name(number))
        self.errno = number


class Outcome(NamedTuple):
    """What is recorded of an end."""

    flag: ResponseFlag
    details: str


FAULT: Final = Outcome(
    ResponseFlag.LOCAL_RESET, "a fault of the proxy ended the flow; the program log has it"
)

_NO_DESCRIPTOR: Final = Outcome(
    ResponseFlag.LOCAL_RESET,
    "the proxy had no file descriptor or memory left to connect to {upstream}: raise RLIMIT_NOFILE, "
    "or lower spec.limits.connections",
)
_UNREACHABLE: Final = Outcome(
    ResponseFlag.UPSTREAM_FAILURE,
    "{upstream} is unreachable: there is no route to it, or its network does not answer",
)
_FORBIDDEN: Final = Outcome(
    ResponseFlag.UPSTREAM_FAILURE, "a firewall rule of this machine forbids connecting to {upstream}"
)
_DIAL: Final = {
    errno.ECONNREFUSED: Outcome(
        ResponseFlag.UPSTREAM_FAILURE,
        "{upstream} refused the connection: no program listens there, or a firewall rejects it",
    ),
    errno.ETIMEDOUT: Outcome(
        ResponseFlag.UPSTREAM_FAILURE,
        "{upstream} did not answer within spec.timeouts.connect: it is down, or a firewall drops the packets",
    ),
    errno.ECONNRESET: Outcome(
        ResponseFlag.UPSTREAM_FAILURE, "{upstream} reset the connection while it was being opened"
    ),
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: _UNREACHABLE,
    errno.EPERM: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
    errno.EADDRNOTAVAIL: Outcome(
        ResponseFlag.UPSTREAM_FAILURE,
        "no local port was free to connect to {upstream}: widen net.ipv4.ip_local_port_range",
    ),
    errno.EMFILE: _NO_DESCRIPTOR,
    errno.ENFILE: _NO_DESCRIPTOR,
    errno.ENOBUFS: _NO_DESCRIPTOR,
    errno.ENOMEM: _NO_DESCRIPTOR,
}
_OTHER_DIAL: Final = Outcome(ResponseFlag.UPSTREAM_FAILURE, "the connection to {upstream} failed: {errno}")

_RECORDS: Final = "its TLS records were damaged, or it ended without saying so (a truncation)"

_IN_ORDER: Final = Outcome(ResponseFlag.NONE, "-")
_RELAY: Final = {
    (Side.DOWNSTREAM, Ending.RESET): Outcome(
        ResponseFlag.DOWNSTREAM_RESET, "the connection to the peer broke: {errno}"
    ),
    (Side.UPSTREAM, Ending.RESET): Outcome(
        ResponseFlag.UPSTREAM_RESET, "the connection to the upstream broke: {errno}"
    ),
    (Side.NEITHER, Ending.IDLE): Outcome(ResponseFlag.IDLE_TIMEOUT, "no byte moved for {reason}"),
    (Side.NEITHER, Ending.LATE): Outcome(
        ResponseFlag.DURATION_TIMEOUT, "it lasted as long as {reason} allows"
    ),
    (Side.DOWNSTREAM, Ending.LINGER): Outcome(
        ResponseFlag.IDLE_TIMEOUT,
        "the peer had finished, then no byte moved for spec.timeouts.linger",
    ),
    (Side.UPSTREAM, Ending.LINGER): Outcome(
        ResponseFlag.IDLE_TIMEOUT,
        "the upstream had finished, then no byte moved for spec.timeouts.linger",
    ),
    (Side.NEITHER, Ending.ABORT): Outcome(ResponseFlag.LOCAL_RESET, "{reason}"),
}


_DENIALS: Final = {
    "loop": ResponseFlag.NO_ROUTE,
    "plaintext": ResponseFlag.NO_ROUTE,
    "rate_limit": ResponseFlag.RATE_LIMITED,
    "unresolved": ResponseFlag.NO_HEALTHY_UPSTREAM,
}


def of_denial(reason: str, details: str) -> Outcome:
    """A flow that was not let through. Where there is nobody to go to, no policy refused it."""
    return Outcome(_DENIALS.get(reason, ResponseFlag.DENY), details)


def of_dial(failure: DialError) -> Outcome:
    """A flow whose upstream could not be reached."""
    if isinstance(failure, TurnedAwayError):
        return failure.outcome
    if isinstance(failure, TlsDialError):
        return Outcome(ResponseFlag.UPSTREAM_FAILURE, failure.details)
    flag, details = _DIAL.get(failure.errno, _OTHER_DIAL)
    details = details.format(upstream=failure.address, errno=_name(failure.errno))
    return Outcome(flag, details if failure.hint == "-" else f"{details}; {failure.hint}")


def of_failure(failure: DialError | GoneError) -> Outcome:
    """A flow that never came to be relayed."""
    if isinstance(failure, GoneError):
        return of_relay(Ended(Side.DOWNSTREAM, Ending.RESET, failure.errno))
    return of_dial(failure)


def of_relay(ended: Ended) -> Outcome:
    """A flow that was relayed."""
    if ended.how is Ending.FIN:
        return _IN_ORDER
    flag, details = _RELAY[ended.side, ended.how]
    return Outcome(
        flag,
        details.format(
            errno=_RECORDS if ended.errno == errno.EPROTO else _name(ended.errno), reason=ended.reason
        ),
    )


def of_abort(reason: str) -> Outcome:
    """A flow that we ended while it ran."""
    return Outcome(ResponseFlag.LOCAL_RESET, reason)


def _name(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}")
