"""Prove with real connections what the rules do to them: captured, direct or refused.

Each probe carries a random token to whoever accepts it: the far end of a throw-away link, a stand-in for the app, or,
where no proxy listens, a stand-in for the proxy that also says where the connection had meant to go. A running proxy
sees, logs and passes on these connections.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import socket
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from interceptor.errors import KernelError
from interceptor.kernel import child, netns, probe_link, sockets
from interceptor.model.address import PeerAddress, from_sockaddr
from interceptor.model.connection import Direction
from interceptor.redirect.probes import Answer, Judged, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.redirect.probes import Probe, Result

SO_MARK: Final = 36  # include/uapi/asm-generic/socket.h
IP_TRANSPARENT: Final = 19  # include/uapi/linux/in.h: for what TPROXY diverts to us
ANSWER_SECONDS: Final = 2.0  # over a veth pair an answer takes microseconds; a dropped packet never answers
MAX_MESSAGE: Final = 4096
_NO_FAR_END: Final = "it needs a throw-away network namespace, which takes CAP_SYS_ADMIN"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a probe, and a remark."""

    probe: Probe
    result: Result
    note: str = ""


class _Place(NamedTuple):
    """Where to accept connections, and in which role; host '' is every address of this host."""

    role: Literal["proxy", "end"]
    host: str
    port: int


def run(
    namespace: Path | None, probes: Sequence[Probe], *, listeners: Sequence[int] = (), partial: bool = False
) -> list[Outcome]:
    """Try every probe in a namespace (None: this one), but none of IPv6 where that is switched off.

    Needs root. Leaves no trace, also when it fails. On ``listeners``, the proxy's ports, we listen ourselves where nobody does. With ``partial`` what this process may
    not try is ``untried``; otherwise it is a KernelError.
    """
    return child.call(namespace, _run, probes, listeners, partial)


def _run(probes: Sequence[Probe], listeners: Sequence[int], partial: bool) -> list[Outcome]:  # noqa: FBT001 (child.call)
    with ExitStack() as stack:
        far = _far(stack, partial)
        probes = probes if _has_ipv6() else [probe for probe in probes if probe.family == 4]
        possible = [probe for probe in probes if not _impossible(probe, far)]
        stack.enter_context(probe_link.joined(far, possible))
        there = None if far is None else Path(f"/proc/{far}/ns/net")
        near_ends = {
            _Place("end", probe.host, probe.port)
            for probe in possible
            if probe.inside or probe.direction is Direction.INGRESS
        }
        far_ends = {_Place("end", probe.host, probe.port) for probe in possible} - near_ends
        standins = {_Place("proxy", "", port) for port in listeners}
        taken = stack.enter_context(_answering(None, sorted(near_ends | standins)))
        if there is not None:
            stack.enter_context(_answering(there, sorted(far_ends)))
        proxied = not listeners or bool(taken & standins)
        return [_outcome(probe, _impossible(probe, far), there, taken, proxied) for probe in probes]


def _far(stack: ExitStack, partial: bool) -> int | None:  # noqa: FBT001
    try:
        return stack.enter_context(probe_link.far_end())
    except KernelError:
        if not partial:
            raise
        return None


def _has_ipv6() -> bool:
    switch = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    return switch.exists() and switch.read_text(encoding="ascii").strip() == "0"


def _impossible(probe: Probe, far: int | None) -> str:
    """Why a probe cannot be tried; empty when it can."""
    if (
        far is None
        and not probe.inside
        and (probe.direction is Direction.INGRESS or probe.expected == "direct")
    ):
        return _NO_FAR_END
    return ""


def _outcome(
    probe: Probe,
    impossible: str,
    there: Path | None,
    taken: frozenset[_Place],
    proxied: bool,  # noqa: FBT001
) -> Outcome:
    if impossible:
        return Outcome(probe, "untried", impossible)
    if _Place("end", probe.host, probe.port) in taken and probe.expected != "captured":
        return Outcome(
            probe, "untried", f"port {probe.port} is in use here, or opening it takes CAP_NET_BIND_SERVICE"
        )
    outwards = probe.direction is Direction.EGRESS
    try:
        judged = child.call(None if outwards else there, _attempt, probe, secrets.token_hex(16), proxied)
    except KernelError as error:
        return Outcome(probe, "untried", str(error))
    return Outcome(probe, *judged)


def _attempt(probe: Probe, token: str, proxied: bool) -> Judged:  # noqa: FBT001 (child.call)
    """In a child: connect as the probe's user and hear who answers."""
    with closing(_client(probe)) as client:
        try:
            client.connect((probe.host, probe.port))
        except ConnectionRefusedError:
            return Judged("refused")
        except OSError as error:
            return Judged("lost", error.strerror or "no answer")
        said = b""
        with suppress(OSError):  # reset, or silence
            client.sendall(token.encode() + b"\n")
            while data := client.recv(MAX_MESSAGE):
                said += data
        with suppress(ValueError, TypeError):
            answered, *answer = json.loads(said)
            if answered == token:
                return judge(probe, Answer(*answer), client.getsockname()[1])
    if proxied:
        return Judged("captured", "accepted by the proxy and not passed on")
    return Judged("misdirected", "a program that is neither the proxy nor the other end accepted it")


def _client(probe: Probe) -> socket.socket:
    """A socket made by the probe's user, at whom the owner match looks, and marked by us, who may."""
    family = socket.AF_INET if probe.family == 4 else socket.AF_INET6
    if probe.direction is Direction.INGRESS:
        client = socket.socket(family, socket.SOCK_STREAM)
        client.bind((probe.source, 0))
    else:
        try:
            os.setgroups([])
            os.setegid(probe.gid)
            os.seteuid(probe.uid)
        except PermissionError as error:
            raise KernelError(f"becoming uid {probe.uid} takes CAP_SETUID and CAP_SETGID") from error
        client = socket.socket(family, socket.SOCK_STREAM)
        os.seteuid(0)
        if probe.mark:
            client.setsockopt(socket.SOL_SOCKET, SO_MARK, probe.mark)
    client.settimeout(ANSWER_SECONDS)
    return client


@contextmanager
def _answering(namespace: Path | None, places: Sequence[_Place]) -> Iterator[frozenset[_Place]]:
    """A process that answers at these places until the end; yields those that another program has."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if namespace is not None:
                netns.enter(namespace)
            opened = [(place, _open(place)) for place in places]
            theirs.sendall(json.dumps([place for place, found in opened if found is None]).encode() + b"\n")
            _serve(theirs, [(place.role, found) for place, found in opened if found is not None])
        finally:
            os._exit(0)
    theirs.close()
    try:
        with ours.makefile("rb") as stream:
            said = stream.readline()
        if not said:
            raise KernelError("the probe's helper process died; run the command again")
        yield frozenset(_Place(*place) for place in json.loads(said))
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _open(place: _Place) -> socket.socket | None:
    """A listening socket, or None where another program has the port."""
    if not place.host:
        try:
            standin = sockets.open_listener(place.port)
        except KernelError:
            return None
        with suppress(PermissionError):  # of the app's namespace: then TPROXY cannot be tried
            standin.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        return standin
    try:
        return socket.create_server(
            (place.host, place.port), family=socket.AF_INET6 if ":" in place.host else socket.AF_INET
        )
    except OSError:
        return None


def _serve(control: socket.socket, listening: Sequence[tuple[str, socket.socket]]) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        for role, listener in listening:
            listener.settimeout(ANSWER_SECONDS)
            selector.register(listener, selectors.EVENT_READ, (role, listener))
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    return
                role, listener = key.data
                with suppress(OSError):
                    _answer(role, listener)


def _answer(role: str, listener: socket.socket) -> None:
    """Take one connection, read its token, and say it back with what we see of it."""
    accepted, peer = listener.accept()
    with accepted:
        accepted.settimeout(ANSWER_SECONDS)
        token = b""
        while not token.endswith(b"\n") and len(token) < MAX_MESSAGE and (data := accepted.recv(MAX_MESSAGE)):
            token += data
        redirected = sockets.original_destination(accepted, PeerAddress(from_sockaddr(peer)))
        original = redirected or sockets.local_address(accepted)  # TPROXY leaves the address as it was
        seen = [token.decode(errors="replace").strip(), role, peer[1], str(original)]
        accepted.sendall(json.dumps(seen).encode())
