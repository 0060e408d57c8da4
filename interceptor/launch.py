"""``interceptor run``: sidecar and unmodified app together, rules on before and off after.

The order keeps the app from ever being without its gateway: rules, proxy ready, rules proved by real connections, then
the app; at the end the app and all it started, then the proxy, then the rules. One thread, one loop over signals.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from interceptor.config import documents, redirect, redirect_flags
from interceptor.discovery import file
from interceptor.errors import ConfigError, KernelError
from interceptor.kernel import child, control, installation, netns, probe, process, rules, users
from interceptor.model.record import replace
from interceptor.redirect import probes
from interceptor.tls import trust_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from interceptor.config.sidecar import Sidecar
    from interceptor.tls.trust_store import TrustStore

T = TypeVar("T")

FORWARDED: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip
READY_SECONDS: Final = 30.0  # the proxy resolves names before it is ready
TRIES: Final = 2  # of a probe that is lost: its time limit is short, and a busy machine may be late once
GRACE_SECONDS: Final = 10.0  # from SIGTERM to SIGKILL, Docker's


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What ``run`` was asked for, checked."""

    command: Sequence[str]
    proxy_arguments: Sequence[str]  # of `interceptor proxy`, without --netns and --control-fd
    settings: redirect.RedirectSettings
    namespace: Path | None
    user: process.Identity | None  # None: as we are
    tls: bool  # whether the proxy has a trust bundle, which the app is to believe as well
    wait: float = 5.0


@dataclass(slots=True)
class _Children:
    """The processes we started and how they ended."""

    proxy: int = 0
    app: int = 0
    ended: dict[int, int] = field(default_factory=dict)  # pid -> shell status

    def reap(self) -> None:
        process.reap(self.ended.__setitem__)


@dataclass(frozen=True, slots=True)
class _Proxy:
    """What the proxy tells us, and where it belongs."""

    socket: socket.socket
    store: TrustStore | None
    say: Callable[[str], None]

    def listen(self) -> bytes:
        """Take what it says; the word that it began with, none where it has ended."""
        told = control.receive(self.socket)
        if told.word == control.TRUST and self.store is not None:
            try:
                self.store.believe(told.bundle)
            except KernelError as error:
                self.say(f"{error}; the app keeps those of before")
        return told.word


def run(launch: Launch, *, say: Callable[[str], None]) -> int:
    """Run the app behind its gateway; the app's exit status, or an InterceptorError when it never started.

    ``say`` gets one sentence per step for the operator. Whatever happens, what was put in place is removed.
    """
    process.adopt_orphans()
    events = process.SignalEvents((*FORWARDED, signal.SIGCHLD))
    children = _Children()
    try:
        kept = trust_store.kept(os.environ) if launch.tls else contextlib.nullcontext()
        with kept as store, _rules(launch, say) as applied, _proxy(launch, events, children) as ours:
            proxy = _Proxy(ours, store, say)
            _await_ready(proxy, events)
            _prove(launch, applied, say)
            return _app(launch, events, children, proxy)
    finally:
        events.close()


@contextlib.contextmanager
def _rules(launch: Launch, say: Callable[[str], None]) -> Iterator[rules.Applied]:
    try:
        applied, remark = installation.install(launch.settings, launch.namespace, wait=launch.wait)
        say(f"rules {applied.outcome}")
        if remark:
            say(remark)
        yield applied
    finally:
        installation.uninstall(launch.namespace, wait=launch.wait)
        say("rules removed")


@contextlib.contextmanager
def _proxy(launch: Launch, events: process.SignalEvents, children: _Children) -> Iterator[socket.socket]:
    """The proxy as a child that gives up root itself; our end of the control socket."""
    ours, theirs = control.pair()
    place = () if launch.namespace is None else ("--netns", str(launch.namespace))
    argv = (sys.executable, "-m", "interceptor", "proxy", *launch.proxy_arguments, *place,
            "--control-fd", str(theirs.fileno()))  # fmt: skip
    with ours:
        with theirs:
            children.proxy = process.spawn(
                argv,
                namespace=None,
                identity=None,
                environment=os.environ,
                own_session=True,
                inherit=(theirs.fileno(),),
            )
        try:
            yield ours
        finally:
            # Its own end of the control socket tells the proxy that the app is gone: it drains without the delay.
            ours.shutdown(socket.SHUT_WR)
            _end(
                lambda: [] if children.proxy in children.ended else [children.proxy],
                events,
                children,
                first=None,
            )


def _await_ready(proxy: _Proxy, events: process.SignalEvents) -> None:
    waiting = select.poll()
    waiting.register(proxy.socket, select.POLLIN)
    waiting.register(events, select.POLLIN)
    while ready := waiting.poll(READY_SECONDS * 1000):
        if any(descriptor == proxy.socket.fileno() for descriptor, _ in ready):
            word = proxy.listen()
            if word == control.READY:
                return
            if not word:
                raise KernelError(
                    "the proxy ended before it was ready: its own message above says why; the app was not started"
                )
        while event := events.read():
            if event[0] not in {signal.SIGCHLD, signal.SIGWINCH}:
                raise KernelError(f"stopped by {event[0].name} before the app was started")
    raise KernelError(f"the proxy was not ready after {READY_SECONDS:g} s; the app was not started")


def _prove(launch: Launch, applied: rules.Applied, say: Callable[[str], None]) -> None:
    """Real connections in every direction and family that the plan says are captured."""
    outcomes = probe.run(launch.namespace, probes.choose(applied.ruleset, launch.settings))
    for _ in range(TRIES - 1):
        if lost := [outcome.probe for outcome in outcomes if outcome.result == "lost"]:
            again = iter(probe.run(launch.namespace, lost))
            outcomes = [next(again, each) if each.result == "lost" else each for each in outcomes]
    wrong = [outcome for outcome in outcomes if outcome.result != "captured"]
    if wrong:
        told = "; ".join(
            f"{o.probe.direction.value} over IPv{o.probe.family} is {o.result}{o.note and f' ({o.note})'}"
            for o in wrong
        )
        raise KernelError(
            f"the rules are installed but do not capture: {told}; 'sidecar-setup status' shows foreign rules that win "
            "over ours; the app was not started"
        )
    say("verified: " + ", ".join(f"{o.probe.direction.value} IPv{o.probe.family}" for o in outcomes))


def _app(launch: Launch, events: process.SignalEvents, children: _Children, proxy: _Proxy) -> int:
    environment = {**os.environ, **({} if proxy.store is None else proxy.store.variables)}
    if launch.user is not None and launch.user.name:
        environment |= {"HOME": launch.user.home, "USER": launch.user.name, "LOGNAME": launch.user.name}
    children.app = process.spawn(
        launch.command,
        namespace=launch.namespace,
        identity=launch.user,
        environment=environment,
        own_session=False,
    )

    def app() -> list[int]:
        """The app and all it left behind: no process of it may outlive the rules."""
        return [pid for pid in process.descendants() if pid != children.proxy]

    waiting = select.poll()
    waiting.register(events, select.POLLIN)
    waiting.register(proxy.socket, select.POLLIN)
    while children.app not in children.ended:
        for descriptor, _ in waiting.poll():
            if descriptor == proxy.socket.fileno() and not proxy.listen():
                waiting.unregister(descriptor)  # its end: the kernel tells of it as of every child's
        while event := events.read():
            number, from_terminal = event
            if number in FORWARDED and not from_terminal:
                process.end(children.app, number)
        children.reap()
        if children.proxy in children.ended and children.app not in children.ended:
            _end(app, events, children)
            raise KernelError(
                f"the proxy ended with status {children.ended[children.proxy]} while the app was running; "
                "the app was stopped, nothing left past the proxy"
            )
    _end(app, events, children)
    return children.ended[children.app]


def _end(
    left: Callable[[], Sequence[int]],
    events: process.SignalEvents,
    children: _Children,
    *,
    first: signal.Signals | None = signal.SIGTERM,
) -> None:
    """A first signal to each process that is left, SIGKILL to those still there after the grace, until none is."""
    waiting = select.poll()
    waiting.register(events, select.POLLIN)
    deadline = time.monotonic() + GRACE_SECONDS
    asked: set[int] = set()
    children.reap()
    while pids := left():
        late = time.monotonic() >= deadline
        for pid in pids:
            number = signal.SIGKILL if late else None if pid in asked else first
            if number is not None:
                process.end(pid, number)
        asked.update(pids)
        waiting.poll(
            100
        )  # SIGCHLD ends the wait; the bound is for the deadline and for orphans that come to us
        while events.read():
            pass
        children.reap()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The words of an ``interceptor run``, not yet checked."""

    command: Sequence[str]
    config: Sequence[str]
    user: str | None
    netns: str | None
    create_netns: bool
    proxy_arguments: Sequence[str]  # handed on to ``interceptor proxy``


def main(asked: Asked, *, say: Callable[[str], None]) -> int:
    """Check everything that was asked for, all problems at once, then run; the app's exit status.

    Raises ConfigError before anything changes, KernelError when the app could not be started or kept behind its gateway.
    """
    problems: list[str] = []

    def checked(look: Callable[[], T], default: T) -> T:
        try:
            return look()
        except ConfigError as error:
            problems.extend(error.problems)
            return default

    configuration = documents.default_configuration(documents.DEFAULT_NAME)
    if asked.config:
        configuration = checked(lambda: file.load(asked.config), configuration)
    sources = (redirect.from_environment(os.environ),)
    flags = checked(
        lambda: redirect_flags.parse(sources, users.NAMES), redirect.Invocation(redirect.RedirectSettings())
    )
    settings = _with_ports_of(flags.settings, configuration.sidecar)
    user = asked.user
    identity = None if user is None else checked(lambda: process.look_up(user), None)
    if (os.geteuid() if identity is None else identity.uid) in settings.proxy_uids:
        problems.append(
            f"--user: uid {settings.proxy_uids[0]} is the proxy's own, which the rules never capture: "
            "run the app as another user"
        )
    namespace = asked.netns if asked.netns is not None else flags.netns
    if asked.create_netns and namespace is None:
        problems.append("--create-netns: says nothing without --netns NAME")
    elif namespace is not None and not asked.create_netns:
        checked(lambda: netns.resolve(namespace), Path())
    if problems:
        raise ConfigError(*problems)
    made = _made(namespace) if asked.create_netns and namespace is not None else contextlib.nullcontext()
    with made:
        launch = Launch(
            command=asked.command,
            proxy_arguments=(*asked.proxy_arguments, "--proxy-uid", str(settings.proxy_uids[0])),
            settings=settings,
            namespace=None if namespace is None else netns.resolve(namespace),
            user=identity,
            tls=configuration.sidecar.spec.tls is not None,
            wait=flags.wait,
        )
        return run(launch, say=say)


@contextlib.contextmanager
def _made(namespace: str) -> Iterator[None]:
    child.call(None, netns.make, namespace)
    try:
        yield
    finally:
        child.call(None, netns.remove, namespace)


def _with_ports_of(settings: redirect.RedirectSettings, sidecar: Sidecar) -> redirect.RedirectSettings:
    """The rules lead to where this proxy listens, and in the way it listens."""
    mode = redirect.Mode(sidecar.spec.ingress.mode.lower())
    ingress, egress = sidecar.spec.ingress.port, sidecar.spec.egress.port
    others = tuple(sorted(sidecar.own_ports - {ingress, egress}))
    return replace(settings, mode=mode, ingress_port=ingress, egress_port=egress, other_own_ports=others)
