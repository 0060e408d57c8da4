"""What tests of installed rules stand on: an app, a peer with far addresses, and the backend that all rules are of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from interceptor.config.redirect import Backend, Invocation, from_command_line
from interceptor.config.redirect_flags import parse
from interceptor.kernel import rules
from interceptor.kernel.users import NAMES
from tests.support.netns import Topology, topology

FAR = {4: "192.0.2.7", 6: "2001:db8::7"}  # the peer's, reached by the default route
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def asked(**flags: str) -> Invocation:
    """What a command line of these flags asks for."""
    return parse([from_command_line({name.replace("_", "-"): [text] for name, text in flags.items()})], NAMES)


@dataclass(frozen=True)
class Bed(Topology):
    """The two namespaces, and the backend that all rules in here are of."""

    backend: Backend

    def apply(self, **flags: str) -> rules.Applied:
        return rules.apply(asked(**flags).settings, self.app.path, backend=self.backend)


@contextmanager
def rule_bed(backend: Backend) -> Iterator[Bed]:
    with topology() as made:
        for address in FAR.values():
            made.peer.run("ip", "addr", "add", address, "dev", "lo")
        yield Bed(made.app, made.peer, backend)


def printed(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
