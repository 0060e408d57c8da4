"""Network namespaces: find one, enter it for good, or do one thing inside it.

A namespace is entered by a process that is about to do all its work there, or by a throw-away thread; never by a
thread that will be used again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from interceptor.errors import ConfigError, KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
NAMED: Final = Path("/run/netns")  # where iproute2 keeps its named namespaces
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

libc: Final = ctypes.CDLL(None, use_errno=True)


def resolve(spec: str) -> Path:
    """The file behind a namespace given as a name (``ip netns``), a path or a process id.

    Raises ConfigError when there is no such namespace.
    """
    if "/" in spec:
        path = Path(spec)
        remedy = "give the path of a bound namespace, such as /proc/PID/ns/net"
    elif spec.isdigit():
        path = Path("/proc", spec, "ns", "net")
        remedy = "no process has this id; give the id of a running process in the namespace"
    else:
        path = NAMED / spec
        remedy = "'ip netns list' shows the names there are; 'ip netns add' makes one"
    if spec in {"", ".", ".."} or not path.exists():
        raise ConfigError(f"network namespace '{spec}' does not exist ({path}): {remedy}")
    return path


def make(name: str) -> None:
    """Make a named namespace with loopback up. Raises ConfigError for a bad or taken name.

    For a child process of its own (``child.call``): pyroute2 may leave threads.
    """
    from pyroute2 import IPRoute, netns as named  # noqa: PLC0415 (heavy, and seldom needed)

    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--create-netns: '{name}' is not a name for a namespace: letters, digits and _.- only"
        )
    if (NAMED / name).exists():
        raise ConfigError(
            f"--create-netns: the network namespace '{name}' exists already; leave the flag out to use it"
        )
    try:
        named.create(name)
    except OSError as error:
        raise KernelError(
            f"cannot make the network namespace '{name}': {error.strerror}; run as root"
        ) from error
    enter(NAMED / name)
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname="lo")[0], state="up")


def remove(name: str) -> None:
    """Remove a named namespace; it lives on only as long as a process is in it."""
    from pyroute2 import netns as named  # noqa: PLC0415 (heavy, and seldom needed)

    named.remove(name)


def enter(path: Path) -> None:
    """Move the calling thread into a namespace. Raises KernelError with the remedy."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(
            f"cannot open the network namespace {path}: {error.strerror}; run as root"
        ) from error
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise KernelError(
                f"cannot enter the network namespace {path}: {os.strerror(number)}; "
                "run as root (CAP_SYS_ADMIN), and give the path of a network namespace"
            )
    finally:
        os.close(descriptor)


def call_inside(path: Path, function: Callable[[], T]) -> T:
    """Call a function in a namespace, in a throw-away thread; its result or exception is the caller's.

    For short work that yields a descriptor or a value: a socket keeps the namespace it was made in.
    """
    import threading  # noqa: PLC0415, TID251 (a throw-away thread does not move the caller; apply does without)

    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            enter(path)
            result.append(function())
        except BaseException as error:  # noqa: BLE001 (handed to the caller, who raises it)
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        with contextlib.ExitStack() as stack:
            stack.callback(failure.clear)  # no reference cycle through the traceback
            raise failure[0]
    return result[0]
