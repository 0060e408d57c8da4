"""Processes: who one runs as, starting one in a namespace, giving up privileges, signals as readable events."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import ConfigError, KernelError
from interceptor.kernel import child, netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_libc: Final = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h
PR_SET_KEEPCAPS: Final = 8
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
CAP_NET_ADMIN: Final = 12  # include/uapi/linux/capability.h; below 32, so in the first word of each set
_CAPABILITY_VERSION_3: Final = 0x20080522
SFD_CLOEXEC: Final = os.O_CLOEXEC  # include/uapi/linux/signalfd.h
SI_KERNEL: Final = (
    0x80  # include/uapi/asm-generic/siginfo.h: sent by the kernel, such as Ctrl-C on a terminal
)
_SIGINFO: Final = struct.Struct("=Iii116x")  # struct signalfd_siginfo: signo, errno, code; 128 bytes in all


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def look_up(user: str) -> Identity:
    """A user given by name or number; a number without an account has the same number as its group.

    Raises ConfigError for a name that does not exist.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError) as error:
        if user.isdigit() and int(user) < 2**32 - 1:
            return Identity(int(user), int(user))
        raise ConfigError(
            f"--user: there is no user '{user}'; 'getent passwd' lists the users there are"
        ) from error
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Identity(entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_name)


def become(identity: Identity, *, keep_net_admin: bool = False) -> None:
    """Give up root for another identity: groups, gid and uid, and with them every capability but the one kept."""
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    if keep_net_admin:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    if keep_net_admin:
        _keep_only(CAP_NET_ADMIN)


def _keep_only(capability: int) -> None:
    """Drop every capability but one from all sets; programs started from here inherit none."""
    _set_capabilities(1 << capability)


def _set_capabilities(bits: int) -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("=6I", bits, bits, 0, 0, 0, 0)) != 0:
        raise KernelError(
            f"cannot keep CAP_NET_ADMIN for TPROXY: {os.strerror(ctypes.get_errno())}; run as root"
        )


def could_read(identity: Identity, path: Path) -> bool:
    """Whether somebody else could read a file, by trying it in a child."""
    return child.call(None, _could_read, identity, path)


def _could_read(identity: Identity, path: Path) -> bool:
    become(identity)
    return os.access(path, os.R_OK)


def forbid_new_privileges() -> None:
    """From here on no program started by this process can gain privileges (setuid bits are ignored)."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def give_up_capabilities() -> None:
    """Drop what ``become`` kept, for a process that has no use for it."""
    _set_capabilities(0)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's thread that forked us ends, however it ends; at once where it has ended already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def processors() -> int:
    """How many processors this process may use: by its affinity, and by its control group's quota where it has one."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):  # not mounted, or not the second version
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, round(int(quota) / int(period))))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they can be found and waited for."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def spawn(
    argv: Sequence[str],
    *,
    namespace: Path | None,
    identity: Identity | None,
    environment: Mapping[str, str],
    own_session: bool,
    inherit: Iterable[int] = (),
) -> int:
    """Start a program and return its process id; it dies with us (SIGKILL) should we be killed.

    Raises KernelError when the program could not be started, with the kernel's reason.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for number in (signal.SIGINT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            if own_session:
                os.setsid()
            if namespace is not None:
                netns.enter(namespace)
            if identity is not None:
                become(identity)
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of identity, which clears it
            for descriptor in inherit:
                os.set_inheritable(descriptor, True)  # noqa: FBT003 (its only parameter)
            os.execvpe(argv[0], list(argv), environment)  # noqa: S606 (argv is the operator's own command)
        except BaseException as error:  # noqa: BLE001 (a forked child must never return into the caller)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            os.write(writer, reason.encode())
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        reason = stream.read().decode()
    if reason:
        os.waitpid(child, 0)
        raise KernelError(f"cannot start '{argv[0]}': {reason}")
    return child


def descendants() -> list[int]:
    """The process ids of our live children: with adopted orphans, the roots of everything we started."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


class SignalEvents:
    """Signals as events on a descriptor: blocked for this process, read one by one with where each came from."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        # The kernel's sigset_t is a bit per signal, signal 1 being bit 0; glibc's is 128 bytes.
        mask = sum(1 << (number - 1) for number in signals).to_bytes(128, "little")
        self._descriptor = _libc.signalfd(-1, mask, SFD_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise KernelError(f"cannot watch signals: {os.strerror(ctypes.get_errno())}")

    def fileno(self) -> int:
        """For poll: readable while a signal waits."""
        return int(self._descriptor)

    def read(self) -> tuple[signal.Signals, bool] | None:
        """The next signal and whether the kernel sent it (a terminal's Ctrl-C reaches the whole group); None: no more."""
        try:
            number, _, code = _SIGINFO.unpack(os.read(self._descriptor, _SIGINFO.size))
        except BlockingIOError:
            return None
        return signal.Signals(number), code == SI_KERNEL

    def close(self) -> None:
        """Unblock the signals again."""
        os.close(self._descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)


def end(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of ours; one that has ended already is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def exit_status(status: int) -> int:
    """The shell's form of a wait status: the exit status, or 128 and the number of the signal that ended it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def reap(on_end: Callable[[int, int], None]) -> None:
    """Collect every child that has ended and tell each one's id and shell status."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        on_end(pid, exit_status(status))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise KernelError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
