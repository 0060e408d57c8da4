"""Istio's PeerAuthentication: whether peers must, may or cannot speak mutual TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from interceptor.config.base import Document, Fault, Strict
from interceptor.config.patterns import Selector, port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class MutualTls(Strict):
    """A mode; ``UNSET`` and none at all are the mode of the scope around."""

    mode: Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] = "UNSET"


class PeerAuthenticationSpec(Strict):
    """The mode of some workloads, and of their ports."""

    selector: Selector | None = None
    mtls: MutualTls = MutualTls()
    portLevelMtls: dict[Annotated[str, AfterValidator(port)], MutualTls] = Field(default_factory=dict)  # noqa: N815 (the document's spelling)


class PeerAuthentication(Document):
    """``apiVersion: security.istio.io/v1``, ``kind: PeerAuthentication``."""

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()

    @property
    def selected_labels(self) -> Mapping[str, str]:
        """The labels of the workloads it is about; none: all of its namespace, or of the mesh."""
        return self.spec.selector.matchLabels if self.spec.selector else {}

    @property
    def port_modes(self) -> Mapping[int, str]:
        """The mode that is written for each port."""
        return {int(number): entry.mode for number, entry in self.spec.portLevelMtls.items()}

    def faults(self) -> Iterator[Fault]:
        """Modes of ports need a workload whose ports they are."""
        if self.spec.portLevelMtls and not self.selected_labels:
            message = (
                "needs spec.selector.matchLabels: only a workload has ports; add a selector, or set spec.mtls"
            )
            yield Fault(("spec", "portLevelMtls"), message)
