"""Looks at everything ``doctor`` judges. Reads only: no table, no rule is made where the app lives.

Works without root as far as it can; what it could not look at is said.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import InterceptorError
from interceptor.kernel import child, probe_link, readback, rules, xtables_lock
from interceptor.kernel.listeners import listeners
from interceptor.redirect.doctor import SYSCTLS, Facts, ForeignRule, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.config.redirect import Backend, RedirectSettings
    from interceptor.redirect.doctor import Listener

_CAPABILITIES: Final = {  # include/uapi/linux/capability.h
    "CAP_SETUID": 7,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
}
_REDIRECTING: Final = frozenset({"redirect", "dnat", "tproxy"})
_REDIRECTING_TARGETS: Final = frozenset({"REDIRECT", "DNAT", "TPROXY"})
_OURS: Final = "interceptor:"  # what our rules' comments begin with


def look(settings: RedirectSettings, namespace: Path | None, backend: Backend | None) -> Facts:
    """Everything there is to see, in a namespace or here."""
    unseen: list[str] = []
    capabilities = _capabilities()
    sysctls, foreign, found, interfaces = child.call(namespace, _inside)
    installed = _installed(namespace, foreign, unseen)
    if os.geteuid() != 0:
        unseen.append("the rules of other programs: reading them takes root")
    elif shutil.which("nft") is None:
        unseen.append("the rules of nft: the program nft is not installed (apt install nftables)")
    return Facts(
        capabilities=capabilities,
        trial=_trial(settings, backend, unseen),
        lock=_lock(),
        unmapped=_unmapped((*settings.proxy_uids, *settings.proxy_gids)),
        installed=installed,
        foreign=foreign,
        listeners=found,
        strangers=tuple(_strangers(settings, namespace, unseen)),
        sysctls=sysctls,
        nameservers=_nameservers(),
        interfaces=interfaces,
        descriptors=_descriptors(),
        unseen=unseen,
    )


def _installed(
    namespace: Path | None, foreign: Sequence[ForeignRule], unseen: list[str]
) -> tuple[str, ...] | None:
    """What is wrong with what is installed, but for other programs' redirects that are findings of their own."""
    try:
        status = rules.status(namespace)
    except InterceptorError as error:
        unseen.append(f"the installed rules: {error}")
        return None
    return tuple(status.without(frozenset(rule.where.split()[0] for rule in foreign)).warnings())


def _inside() -> tuple[dict[str, str], tuple[ForeignRule, ...], tuple[Listener, ...], tuple[str, ...]]:
    """In a child that is in the namespace."""
    sysctls = {
        name: path.read_text(encoding="ascii").strip()
        for name in SYSCTLS
        if (path := Path("/proc/sys", name.replace(".", "/"))).exists()
    }
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    return sysctls, _foreign(), listeners(), tuple(line.partition(":")[0].strip() for line in lines)


def _capabilities() -> frozenset[str]:
    mask = int(_status("self")["CapEff"], 16)
    return frozenset(name for name, bit in _CAPABILITIES.items() if mask >> bit & 1)


def _status(pid: str) -> dict[str, str]:
    lines = Path("/proc", pid, "status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _trial(settings: RedirectSettings, backend: Backend | None, unseen: list[str]) -> str | None:
    """Install the very rules in a throw-away namespace: proves tables, matches, IPv6 and libraries at once."""
    if os.geteuid() != 0:
        unseen.append("whether the kernel takes the rules: trying it takes root")
        return None
    try:
        with probe_link.far_end() as pid:
            try:
                rules.apply(settings, Path(f"/proc/{pid}/ns/net"), backend=backend)
            except InterceptorError as error:
                return str(error)
    except InterceptorError as error:
        unseen.append(f"whether the kernel takes the rules: {error}")
        return None
    return ""


def _lock() -> str:
    path = Path(os.environ.get("XTABLES_LOCKFILE") or xtables_lock.DEFAULT_PATH)
    usable = os.access(path if path.exists() else path.parent, os.W_OK)
    return "" if usable or os.geteuid() != 0 else f"{path} is not writable"


def _unmapped(ids: Sequence[int]) -> tuple[int, ...]:
    lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    ranges = [(int(first), int(count)) for first, _, count in (line.split() for line in lines)]
    return tuple(
        number for number in ids if not any(first <= number < first + count for first, count in ranges)
    )


def _descriptors() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def _nameservers() -> tuple[str, ...]:
    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    fields = [line.split() for line in lines]
    return tuple(words[1] for words in fields if len(words) > 1 and words[0] == "nameserver")


def _strangers(settings: RedirectSettings, namespace: Path | None, unseen: list[str]) -> Iterator[Process]:
    """Programs in the namespace that run as a proxy uid, without the proxy: that is who has its listeners."""
    place = (namespace or Path("/proc/self/ns/net")).stat()
    ports = {settings.ingress_port, settings.egress_port}
    sockets = {f"socket:[{inode}]" for inode in child.call(namespace, _inodes, ports)}
    hidden = 0
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            status = _status(directory.name)
            uid = int(status["Uid"].split()[1])
            if uid not in settings.proxy_uids or not os.path.samestat((directory / "ns/net").stat(), place):
                continue
            if not sockets & {str(link.readlink()) for link in (directory / "fd").iterdir()}:
                yield Process(int(directory.name), status["Name"], uid)
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        except PermissionError:
            hidden += 1
    if hidden:
        unseen.append(
            f"where processes of a proxy uid run, and what they are ({hidden} found): that takes root"
        )


def _inodes(ports: set[int]) -> set[int]:
    from interceptor.kernel.listeners import listening_inodes  # noqa: PLC0415

    return listening_inodes(ports)


def _foreign() -> tuple[ForeignRule, ...]:
    """Other programs' redirects in either backend, which both are asked about every connection; one for each chain."""
    first: dict[str, ForeignRule] = {}
    number: dict[str, int] = {}
    for rule in (*_in_legacy(), *_in_nft()):
        first.setdefault(rule.where, rule)
        number[rule.where] = number.get(rule.where, 0) + 1
    return tuple(
        rule if number[where] == 1 else rule._replace(text=f"{rule.text}, and {number[where] - 1} more")
        for where, rule in first.items()
    )


def _in_legacy() -> Iterator[ForeignRule]:
    for family, tool in readback.TOOLS.items():
        for table, text in readback.legacy(family).items():
            for line in text.splitlines():
                words = line.split()
                target = words[words.index("-j") + 1] if "-j" in words else ""
                if line.startswith("-A ") and target in _REDIRECTING_TARGETS and _OURS not in line:
                    delete = f"{tool} -t {table} -D {line.removeprefix('-A ')}"
                    yield ForeignRule(f"legacy IPv{family} {table} {words[1]}", line, delete)


def _in_nft() -> Iterator[ForeignRule]:
    listed = readback.nft("-j", "-a")
    for rule in (
        each["rule"] for each in json.loads(listed or '{"nftables": []}')["nftables"] if "rule" in each
    ):
        if _OURS in str(rule.get("comment", "")):
            continue
        does = {name for statement in rule["expr"] for name in statement}
        targets = {str(each["xt"].get("name")) for each in rule["expr"] if isinstance(each.get("xt"), dict)}
        found = does & _REDIRECTING | targets & _REDIRECTING_TARGETS
        if found:
            where = f"{rule['family']} {rule['table']} {rule['chain']}"
            delete = f"nft delete rule {where} handle {rule['handle']}"
            yield ForeignRule(f"nft {where}", f"rule {rule['handle']} ({', '.join(sorted(found))})", delete)
