"""Virtual machines for tests: boot one with plain QEMU, log in, reboot, read its console.

Runs only inside scripts/test-vm, which gives the whole test run network, mount and process namespaces of its own: the
fixed ports and paths here are private to it, and whatever happens no machine outlives the run.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOT_SECONDS = {"kvm": 60.0, "qemu": 300.0}  # many times what it takes: reached only by a failure
COMMAND_SECONDS = 600.0  # likewise, for a command on an emulated machine

ACCELERATOR = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # Without a bound the translated code takes up to a gigabyte.
    "qemu": ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64"),
}
SHAPE = ("-machine", "q35", "-m", "1024", "-smp", "2", "-display", "none", "-nodefaults", "-no-user-config")
SNAPSHOT = "ready"
# Neither the machine's own environment nor what can be made again; Vagrantfile leaves out the same.
NOT_SYNCED = (
    ".git",
    ".venv",
    ".vagrant",
    "wheels",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    ".coverage*",
)

SSH_ENTRY = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User vagrant
  IdentityFile {key}
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ConnectTimeout 5
  ServerAliveInterval 10
  ServerAliveCountMax 30
  ControlMaster auto
  ControlPath /run/{name}.ssh
  ControlPersist yes
"""
LINK_NETWORK = """\
[Match]
Name=eth1
[Link]
MACAddress={mac}
[Network]
LinkLocalAddressing=no
IPv6AcceptRA=no
[Address]
Address={v4}/24
[Address]
Address={v6}/64
DuplicateAddressDetection=none
"""


class MachineError(Exception):
    """A machine did not do what it should; the text is for the person who runs the tests."""


@dataclass(frozen=True)
class Link:
    """A machine's place on the network between gateway and client, on its second card, and its own way in."""

    v4: str
    v6: str
    mac: str
    ssh_port: int
    netdev: str  # QEMU's end of the cable

    def address(self, family: int) -> str:
        return self.v4 if family == 4 else self.v6


_CABLE = "stream,id=n1,addr.type=unix,addr.path=/run/link"
LINKS = {
    "gateway": Link("10.77.0.10", "fd77::10", "52:54:00:77:00:10", 2210, f"{_CABLE},server=on"),
    "client": Link("10.77.0.20", "fd77::20", "52:54:00:77:00:20", 2220, f"{_CABLE},server=off"),
}


@dataclass(frozen=True)
class Machine:
    """A running machine that one can log in to; who runs it does not matter."""

    name: str
    ssh_config: Path
    console_log: Path | None = None

    @property
    def link(self) -> Link:
        return LINKS[self.name]

    def run(
        self, script: str, *, check: bool = True, timeout: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script as root to its end; the first command that fails ends it."""
        result = subprocess.run(
            self.shell(), input=script, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and result.returncode != 0:
            said = (result.stdout + result.stderr).rstrip()
            raise MachineError(f"failed on {self.name} with status {result.returncode}: {script}\n{said}")
        return result

    def shell(self) -> list[str]:
        """The command that runs its standard input on the machine: read whole first, so nothing needs quoting."""
        return ["ssh", "-F", str(self.ssh_config), self.name, 'sudo sh -euc "$(cat)"']

    def send(self, directory: Path, target: str) -> None:
        """Copy a directory's contents there, without what can be made again."""
        excludes = [f"--exclude={pattern}" for pattern in NOT_SYNCED]
        archive = subprocess.run(
            ["tar", "-C", str(directory), *excludes, "-c", "."], capture_output=True, check=True
        ).stdout
        remote = ["ssh", "-F", str(self.ssh_config), self.name, f"sudo tar -C {target} -x"]
        subprocess.run(remote, input=archive, check=True, timeout=COMMAND_SECONDS)

    def reboot(self) -> None:
        """Boot again, and return when one can log in again."""
        before = self.run("cat /proc/sys/kernel/random/boot_id").stdout
        self.run("systemctl --no-block reboot")
        self.disconnect()
        wait_for(
            lambda: self._boot_id() not in {None, before},
            BOOT_SECONDS["qemu"],
            f"{self.name} did not boot again",
        )
        self.run("systemctl is-system-running --wait || true")

    def answers(self) -> bool:
        """Whether one can log in."""
        return self._boot_id() is not None

    def _boot_id(self) -> str | None:
        try:
            result = self.run("cat /proc/sys/kernel/random/boot_id", check=False, timeout=20)
        except subprocess.TimeoutExpired:
            self.disconnect()
            return None
        return result.stdout if result.returncode == 0 else None

    def disconnect(self) -> None:
        """Forget the shared connection: the other end may be gone without a word."""
        command = ["ssh", "-F", str(self.ssh_config), "-O", "exit", self.name]
        subprocess.run(command, capture_output=True, check=False)

    def console(self) -> str:
        """The end of what it said on its serial line."""
        if self.console_log is None or not self.console_log.exists():
            return ""
        return self.console_log.read_text(errors="replace")[-4000:]


def wait_for(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    """Poll until a condition holds; the deadline only bounds a failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MachineError(f"{failure} within {seconds:.0f} s")
        time.sleep(0.3)


@dataclass(frozen=True)
class Bench:
    """Where machines are made from, and how they are run."""

    box: Path  # what vagrant/build-box printed
    work: Path  # disks and logs of this run
    driver: str
    ssh_config: Path | None  # of machines that Vagrant has brought up, with the checkout and all
    say: Callable[[str], None]


@contextmanager
def booted(bench: Bench, name: str) -> Iterator[Machine]:
    """A machine that is up and set apart from the others, from the snapshot of an earlier boot where there is one."""
    if bench.ssh_config is not None:
        machine = Machine(name, bench.ssh_config)
        _set_apart(machine)
        yield machine
        return
    machine = Machine(name, _ssh_config(bench, name), bench.work / f"{name}.console")
    snapshot = snapshot_of(bench)
    began = time.monotonic()
    qemu = _resume(bench, machine, snapshot) if snapshot.exists() else None
    how = "resumed"
    if qemu is None:
        qemu, how = _boot(bench, machine, snapshot), "booted"
    try:
        bench.say(f"{name} {how} in {time.monotonic() - began:.0f} s")
        _set_apart(machine)
        machine.send(ROOT, "/vagrant")
        yield machine
    finally:
        _end(qemu)


def _boot(bench: Bench, machine: Machine, snapshot: Path) -> subprocess.Popen[bytes]:
    """Boot from the box's disk and keep a snapshot of the result."""
    disk = bench.work / f"{machine.name}.qcow2"
    disk.unlink(missing_ok=True)
    backing = bench.box / "disk.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", disk], check=True)
    bench.say(f"{machine.name} is booting" + (", emulated" if bench.driver == "qemu" else ""))
    qemu = _start(bench, machine, disk)
    try:
        _wait_until_up(bench, machine, qemu, BOOT_SECONDS[bench.driver])
        machine.run("systemctl is-system-running --wait; sync")
        machine.disconnect()  # no half of a connection belongs in the snapshot
        monitor(machine.name, f"savevm {SNAPSHOT}")
        # A paused machine's image is complete on disk.
        monitor(machine.name, "stop")
        shutil.copyfile(disk, snapshot.with_suffix(".new"))
        snapshot.with_suffix(".new").rename(snapshot)
        monitor(machine.name, "cont")
    except BaseException:
        _end(qemu)
        raise
    return qemu


def _resume(bench: Bench, machine: Machine, snapshot: Path) -> subprocess.Popen[bytes] | None:
    """Go on from a snapshot; one that does not work is removed, and None is returned."""
    disk = bench.work / f"{machine.name}.qcow2"
    shutil.copyfile(snapshot, disk)
    qemu = _start(bench, machine, disk, "-loadvm", SNAPSHOT)
    try:
        _wait_until_up(bench, machine, qemu, 60)
    except MachineError as error:
        _end(qemu)
        snapshot.unlink(missing_ok=True)
        bench.say(f"the snapshot cannot be used and is removed ({str(error).splitlines()[0]})")
        return None
    except BaseException:
        _end(qemu)
        raise
    return qemu


def _start(bench: Bench, machine: Machine, disk: Path, *extra: str) -> subprocess.Popen[bytes]:
    link, name = machine.link, machine.name
    argv = (
        "qemu-system-x86_64", *ACCELERATOR[bench.driver], *SHAPE,
        "-serial", f"file:{machine.console_log}",
        "-monitor", f"unix:/run/{name}.monitor,server=on,wait=off",
        "-drive", f"file={disk},if=virtio,cache=unsafe",
        # The way in, and no way out: the machine reaches nothing but the other one.
        "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{link.ssh_port}-:22",
        "-device", "virtio-net-pci,netdev=n0,romfile=",
        "-netdev", link.netdev, "-device", f"virtio-net-pci,netdev=n1,romfile=,mac={link.mac}",
        "-device", "virtio-rng-pci", *extra,
    )  # fmt: skip
    with (bench.work / f"{name}.qemu").open("wb") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait_until_up(bench: Bench, machine: Machine, qemu: subprocess.Popen[bytes], seconds: float) -> None:
    hint = (
        ""
        if bench.driver == "qemu"
        else "; this machine's KVM may not run stock kernels: --driver qemu emulates"
    )

    def up() -> bool:
        if qemu.poll() is not None:
            said = (bench.work / f"{machine.name}.qemu").read_text(errors="replace").strip()
            raise MachineError(f"QEMU ended: {said[-1000:]}{hint}")
        return machine.answers()

    try:
        wait_for(up, seconds, f"{machine.name} was not up")
    except MachineError as error:
        raise MachineError(f"{error}{hint}\n{machine.console()}") from None


def _set_apart(machine: Machine) -> None:
    """What a snapshot cannot know: the time, the name, the place on the link. It survives a reboot."""
    network = LINK_NETWORK.format(mac=machine.link.mac, v4=machine.link.v4, v6=machine.link.v6)
    machine.run(f"""
        date -s @{time.time():.3f} > /dev/null
        hostname {machine.name}
        hostname > /etc/hostname
        sed -i '1s/.*/127.0.0.1 localhost {machine.name}/' /etc/hosts
        cat > /etc/systemd/network/40-link.network <<'EOF'
{network}EOF
        networkctl reload
        until ip address show dev eth1 | grep -q {machine.link.v6}; do sleep 0.1; done
    """)


def _ssh_config(bench: Bench, name: str) -> Path:
    file = bench.work / f"{name}.ssh_config"
    file.write_text(SSH_ENTRY.format(name=name, port=LINKS[name].ssh_port, key=bench.box / "key"))
    return file


def snapshot_of(bench: Bench) -> Path:
    """Where the snapshot is that fits: only to the same QEMU with the same devices, on the same disk."""
    version = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    parts = (version, *ACCELERATOR[bench.driver], *SHAPE, str(bench.box))
    shape = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return bench.box / f"snapshot-{shape}.qcow2"


def monitor(name: str, command: str) -> None:
    """Give QEMU a command; raises MachineError with what it answers when that is an error."""
    prompt = b"(qemu) "
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(f"/run/{name}.monitor")
        answers = []
        for line in ("", command):
            connection.sendall(line.encode() + b"\n" if line else b"")
            answer = b""
            while not answer.endswith(prompt):
                answer += connection.recv(4096)
            answers.append(answer)
    if b"Error" in answers[-1]:
        raise MachineError(f"QEMU refused '{command}': {answers[-1].decode(errors='replace')}")


def _end(qemu: subprocess.Popen[bytes]) -> None:
    qemu.kill()  # its disk is thrown away
    qemu.wait()
