"""Whether peers of a port must, may or cannot speak mutual TLS, and how that came about.

Istio's rules: mesh < namespace < workload < port; the oldest document of a scope counts and the others are ignored;
what is UNSET is the scope's around, and PERMISSIVE where nobody says anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from interceptor.policy.selection import age, selects

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.config.peer_authentication import PeerAuthentication
    from interceptor.policy.selection import Workload


class Mode(Enum):
    """What a port takes."""

    DISABLE = "DISABLE"  # TLS is never terminated: the app's own passes through
    PERMISSIVE = "PERMISSIVE"  # mutual TLS and plaintext
    STRICT = "STRICT"  # mutual TLS alone


NOBODY: Final = "-"  # decided where no document did


@dataclass(frozen=True, slots=True)
class Effective:
    """A port's mode, the document that set it, and one sentence for each scope that was looked at."""

    mode: Mode
    policy: str
    trace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerModes:
    """The modes of a workload's ports, merged once."""

    default: Effective
    ports: Mapping[int, Effective]

    def effective(self, port: int) -> Effective:
        """How the mode of a port came about."""
        return self.ports.get(port, self.default)

    def mode(self, port: int) -> Mode:
        """The mode of a port, of the app's own numbering."""
        return self.effective(port).mode


def merged(documents: Sequence[PeerAuthentication], workload: Workload) -> PeerModes:
    """What all documents together mean for a workload."""
    mode, policy, trace = Mode.PERMISSIVE, NOBODY, ["default: PERMISSIVE"]
    winner = None
    for scope, members in _scopes(documents, workload):
        winner = members[0] if members else None
        trace += _sentences(scope, members)
        written = winner.spec.mtls.mode if winner else "UNSET"
        if winner and written != "UNSET":
            mode, policy = Mode(written), _name(winner)
    default = Effective(mode, policy, tuple(trace))
    # After the loop the winner is the workload's, whose ports are the only ones that count.
    ports = {port: _of_port(port, written, winner, default) for port, written in _port_modes(winner)}
    return PeerModes(default, ports)


def effective_mode(documents: Sequence[PeerAuthentication], workload: Workload, port: int) -> Effective:
    """A single port's mode and how it came about."""
    return merged(documents, workload).effective(port)


def _port_modes(winner: PeerAuthentication | None) -> Iterable[tuple[int, str]]:
    return winner.port_modes.items() if winner else ()


def _of_port(port: int, written: str, winner: PeerAuthentication | None, default: Effective) -> Effective:
    if written == "UNSET" or winner is None:
        return Effective(
            default.mode, default.policy, (*default.trace, f"port {port}: UNSET, as the workload")
        )
    trace = (*default.trace, f"port {port}: {_name(winner)} sets {written}")
    return Effective(Mode(written), _name(winner), trace)


def _scopes(
    documents: Sequence[PeerAuthentication], workload: Workload
) -> list[tuple[str, list[PeerAuthentication]]]:
    """The documents about a workload, by scope from the widest, in each the oldest first."""
    scopes: dict[str, list[PeerAuthentication]] = {"mesh": [], "namespace": [], "workload": []}
    for document in sorted(documents, key=age):
        if not selects(document, workload):
            continue
        in_root = document.metadata.namespace == workload.root_namespace
        if not document.selected_labels:
            scopes["mesh" if in_root else "namespace"].append(document)
        elif not in_root:  # Istio ignores a selector in the root namespace
            scopes["workload"].append(document)
    return list(scopes.items())


def _sentences(scope: str, members: Sequence[PeerAuthentication]) -> Iterable[str]:
    if not members:
        yield f"{scope}: none"
        return
    winner, *others = members
    yield f"{scope}: {_name(winner)} sets {winner.spec.mtls.mode}"
    for other in others:
        yield f"{scope}: {_name(other)} is ignored: {winner.full_name} is older, or was given first"


def ignored(documents: Sequence[PeerAuthentication], workload: Workload) -> dict[str, str]:
    """The documents about a workload that decide nothing, by their full names, and why."""
    found = {}
    for scope, members in _scopes(documents, workload):
        for other in members[1:]:
            found[other.full_name] = (
                f"it is ignored: {members[0].full_name} has the same scope ({scope}) and is older, or was given first"
            )
    for document in documents:
        if document.metadata.namespace == workload.root_namespace and document.selected_labels:
            found[document.full_name] = "it is ignored: in the root namespace a selector has no meaning"
    return found


def _name(document: PeerAuthentication) -> str:
    return f"PeerAuthentication {document.full_name}"
