"""Which policies are about a workload, by Istio's rules of namespaces and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.config.base import Metadata
    from interceptor.config.sidecar import Sidecar


class Workload(NamedTuple):
    """Whom policies are selected for, and the identity it has towards others."""

    namespace: str
    labels: Mapping[str, str]
    root_namespace: str

    @classmethod
    def of(cls, sidecar: Sidecar) -> Workload:
        """The workload this proxy stands beside."""
        return cls(sidecar.metadata.namespace, sidecar.metadata.labels, sidecar.spec.rootNamespace)


class Selecting(Protocol):
    """A document with a selector."""

    @property
    def metadata(self) -> Metadata: ...

    @property
    def selected_labels(self) -> Mapping[str, str]: ...


def selects(document: Selecting, workload: Workload) -> bool:
    """Whether a document is about a workload: by its namespace, or the root's, and by the labels it asks for."""
    if document.metadata.namespace not in {workload.namespace, workload.root_namespace}:
        return False
    return document.selected_labels.items() <= workload.labels.items()


def age(document: Selecting) -> str:
    """Sorts the oldest document first; one without a time counts as younger, and as they were given."""
    return document.metadata.creationTimestamp or "~"
