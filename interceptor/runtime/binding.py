"""Every socket that listens, bound before root is given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.errors import KernelError
from interceptor.kernel import sockets
from interceptor.model.connection import Direction

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from interceptor.config.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Bound:
    """The sockets that listen, bound before root is given up."""

    ingress: list[socket.socket]  # by worker, as the next
    egress: list[socket.socket]
    admin: socket.socket
    telemetry: socket.socket
    dns: list[socket.socket]  # none where no name query is answered
    push: list[socket.socket]  # none where nothing is pushed from other machines
    addresses: Mapping[str, str]

    def listeners(self, worker: int) -> tuple[tuple[Direction, socket.socket], ...]:
        """What a worker accepts on."""
        return (Direction.INGRESS, self.ingress[worker]), (Direction.EGRESS, self.egress[worker])


def bind(sidecar: Sidecar, workers: int) -> Bound:
    """Every listener, or a KernelError that names each one that could not be had."""
    spec = sidecar.spec
    transparent = spec.ingress.mode == "TPROXY"
    wanted: dict[str, Callable[[], list[socket.socket]]] = {
        "ingress": lambda: sockets.open_listeners(spec.ingress.port, workers, transparent=transparent),
        "egress": lambda: sockets.open_listeners(spec.egress.port, workers, local=True),
        "admin": lambda: [sockets.open_endpoint(spec.admin.listen)],
        "telemetry": lambda: [sockets.open_endpoint(spec.telemetry.listen)],
    }
    if (dns := spec.dns) is not None:
        wanted["dns"] = lambda: sockets.open_dns_listeners(dns.port)
    if (remote := spec.discovery.push.remote) is not None:
        wanted["push"] = lambda: [sockets.open_endpoint(remote.listen)]
    opened: dict[str, list[socket.socket]] = {}
    problems: list[str] = []
    for name, bind in wanted.items():
        try:
            opened[name] = bind()
        except KernelError as error:
            problems.append(str(error))
    if problems:
        for made in opened.values():
            for one in made:
                one.close()
        raise KernelError("\n".join(problems))
    addresses = {name: str(sockets.local_address(made[0])) for name, made in opened.items()}
    return Bound(
        *(opened["ingress"], opened["egress"], opened["admin"][0], opened["telemetry"][0]),
        opened.get("dns", []),
        opened.get("push", []),
        addresses,
    )
