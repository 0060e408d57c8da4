"""``spec.discovery.xds``: which control planes are asked for documents, and as whom."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from interceptor.config.base import Strict

_TARGET: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def _target(value: str) -> str:
    match = _TARGET.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ValueError(f"'{value}' is not a server; write it like xds.example.com:15012 or [fd00::1]:15012")
    return value


class XdsTls(Strict):
    """PEM files: whom of the servers to believe, and what to present."""

    trustBundle: str = Field(min_length=1)  # noqa: N815 (the document's spelling, here and below)
    certificate: str | None = Field(default=None, min_length=1)
    privateKey: str | None = Field(default=None, min_length=1)  # noqa: N815


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
