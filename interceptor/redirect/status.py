"""What is installed, as read back from the kernel, and whether it is whole."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from interceptor.config.redirect import Backend
from interceptor.model.record import Record, replace
from interceptor.redirect.foreign import conflicts
from interceptor.redirect.rules import FAMILIES, Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from interceptor.redirect.foreign import ForeignChain
    from interceptor.redirect.rules import Family, Tag


class Hits(NamedTuple):
    """One of our rules in the kernel and how often it decided; in nat a packet is a connection.

    ``tag`` is None for a rule that somebody put into our chain.
    """

    tag: Tag | None
    packets: int
    bytes: int


class InstalledChain(Record):
    """One of our chains in the kernel: its rules, the built-in chain that leads to it, and what stands before that."""

    backend: Backend
    families: tuple[Family, ...]  # whose packets it sees, and its rules count
    table: Table
    name: str
    rules: tuple[Hits, ...]
    hook: str | None
    before_ours: tuple[str, ...]

    @property
    def place(self) -> str:
        """Its families and table: 'IPv4 and IPv6 nat'."""
        return f"{' and '.join(f'IPv{family}' for family in self.families)} {self.table.value}"


class Status(Record):
    """All of our chains in a namespace, and those of others that redirect or rewrite connections."""

    chains: tuple[InstalledChain, ...]
    foreign: tuple[ForeignChain, ...] = ()
    routed: Mapping[Family, bool] = MappingProxyType(
        {}
    )  # where policy routing of ours stands, and whether all of it

    @property
    def hashes(self) -> tuple[str, ...]:
        """The configurations whose rules are installed: one, unless something was left half-done."""
        return tuple(sorted({hits.tag.hash for chain in self.chains for hits in chain.rules if hits.tag}))

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Where our rules are: one, unless a move was left half-done."""
        return tuple(backend for backend in Backend if any(chain.backend is backend for chain in self.chains))

    def of(self, family: Family) -> tuple[InstalledChain, ...]:
        """Our chains that see one family."""
        return tuple(chain for chain in self.chains if family in chain.families)

    def without(self, backends: Collection[str]) -> Status:
        """The same without others' redirects in these backends."""
        return replace(
            self,
            chains=tuple(
                replace(chain, before_ours=tuple(rule for rule in chain.before_ours if not _redirects(rule)))
                if chain.backend.value in backends
                else chain
                for chain in self.chains
            ),
            foreign=tuple(chain for chain in self.foreign if chain.backend.value not in backends),
        )

    def warnings(self) -> Iterator[str]:
        """What an operator must know: half-installed rules, foreign rules that come first, rules not ours in our chains."""
        if len(self.hashes) > 1:
            yield (
                f"rules of several configurations are installed ({', '.join(self.hashes)}), "
                "as after an apply that was killed: run 'sidecar-setup apply' or 'sidecar-setup remove'"
            )
        if len(self.backends) > 1:
            yield (
                "our rules are installed twice, in iptables' legacy tables and in nftables, "
                "as after an apply that was killed: run 'sidecar-setup apply' or 'sidecar-setup remove'"
            )
        yield from self._of_routing()
        for chain in self.chains:
            yield from _of_chain(chain)
        families = {family for chain in self.chains for family in chain.families}
        if families and families != set(FAMILIES):
            missing = next(family for family in FAMILIES if family not in families)
            yield f"nothing of ours is installed for IPv{missing}: its connections bypass the proxy"
        if len(self.backends) == 1:
            yield from conflicts(self.backends[0], self.foreign)

    def _of_routing(self) -> Iterator[str]:
        """It stands with our rules in the mangle table, or not at all."""
        marked = {family for chain in self.chains if chain.table is Table.MANGLE for family in chain.families}
        for family in sorted(self.routed.keys() - marked):
            yield (
                f"policy routing of ours stands for IPv{family} and no rule that needs it, "
                "as after an apply that was killed: run 'sidecar-setup apply' or 'sidecar-setup remove'"
            )
        for family in sorted(family for family in marked if not self.routed.get(family)):
            yield (
                f"the policy routing of IPv{family} is missing or not whole, without which what TPROXY takes arrives nowhere: "
                "run 'sidecar-setup apply'"
            )


def _redirects(rule: str) -> bool:
    return rule.rpartition("-j ")[2] in {"REDIRECT", "DNAT", "NETMAP", "TPROXY"}


def _of_chain(chain: InstalledChain) -> Iterator[str]:
    where = f"{chain.place} {chain.name}"
    if chain.hook is None:
        yield f"{where} is not hooked in, so its rules do nothing: run 'sidecar-setup apply'"
    for rule in chain.before_ours:
        yield f"in {chain.place} {chain.hook} a foreign rule comes before ours: {rule}"
    if any(hits.tag is None for hits in chain.rules):
        yield f"{where} holds a rule that is not ours: run 'sidecar-setup apply' to put it right"
