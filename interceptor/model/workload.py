"""PURE. What a workload of the mesh says of itself, as far as metrics tell it."""

from __future__ import annotations

from typing import Final, NamedTuple

UNKNOWN: Final = "unknown"  # Istio's word for an absent value


class Workload(NamedTuple):
    """The names are those of Istio's labels."""

    workload: str = UNKNOWN
    workload_namespace: str = UNKNOWN
    app: str = UNKNOWN
    version: str = UNKNOWN
    canonical_service: str = UNKNOWN
    canonical_revision: str = UNKNOWN
    cluster: str = UNKNOWN


SILENT: Final = Workload()  # it was asked, and said nothing
