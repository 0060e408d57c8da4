"""``spec.discovery.xds``: which control planes are asked for documents, and as whom."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from interceptor.config.base import Fault, FilePath, Strict

if TYPE_CHECKING:
    from collections.abc import Iterator

_TARGET: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def _target(value: str) -> str:
    match = _TARGET.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ValueError(f"'{value}' is not a server; write it like xds.example.com:15012 or [fd00::1]:15012")
    return value


class XdsTls(Strict):
    """PEM files: whom of the servers to believe, and what to present; without any the workload's own of ``spec.tls``."""

    trustBundle: FilePath | None = None  # noqa: N815 (the document's spelling, here and below)
    certificate: FilePath | None = None
    privateKey: FilePath | None = None  # noqa: N815

    @property
    def of_workload(self) -> bool:
        """Whether it is the workload's own identity."""
        return self.trustBundle is None


class XdsServer(Strict):
    """A control plane; without ``tls`` it is spoken to in the clear."""

    address: Annotated[str, AfterValidator(_target)]
    tls: XdsTls | None = None


class Locality(Strict):
    """Where this proxy is."""

    region: str = ""
    zone: str = ""
    subZone: str = ""  # noqa: N815


class Xds(Strict):
    """The servers are tried in order; each speaks ADS, and the one that answered last is asked again first."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"resources", "authorities"})

    servers: tuple[XdsServer, ...] = Field(min_length=1, max_length=16, strict=False)
    protocol: Literal["delta", "stateOfTheWorld"] = "delta"
    nodeId: str | None = Field(default=None, min_length=1, max_length=1024)  # noqa: N815
    locality: Locality = Locality()
    cacheFile: str | None = Field(default=None, min_length=1)  # noqa: N815 (what a restart begins with)

    @property
    def as_workload(self) -> bool:
        """Whether a server is spoken to by the workload's own identity."""
        return any(each.tls is not None and each.tls.of_workload for each in self.servers)

    def faults(self, *, own: bool) -> Iterator[Fault]:
        """Files that say nothing alone; ``own``: whether the workload has an identity that needs no control plane."""
        for index, tls in enumerate(each.tls for each in self.servers):
            if tls is None:
                continue
            location = ("spec", "discovery", "xds", "servers", index, "tls")
            if (tls.certificate is None) != (tls.privateKey is None):
                missing = "privateKey" if tls.privateKey is None else "certificate"
                yield Fault((*location, missing), "is required: a certificate and its key are given together")
            if not tls.of_workload:
                continue
            if tls.certificate is not None or tls.privateKey is not None:
                message = "is required beside certificate; leave all of them out for the workload's own, of spec.tls"
                yield Fault((*location, "trustBundle"), message)
            elif not own:
                message = "is required where the Sidecar has no spec.tls of files or of workloadApi; name whom to believe"
                yield Fault((*location, "trustBundle"), message)
