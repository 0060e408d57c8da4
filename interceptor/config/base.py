"""What every document has in common: strictness, metadata, and the types of single fields."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")

_TIMESTAMP: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII
)  # sorts as text, as the API server writes it


def seconds(value: object) -> object:
    """Istio's duration form (Go's) in seconds."""
    if not isinstance(value, str):
        raise ValueError("must be text with a unit; write it like 10s, 1m30s or 500ms")  # noqa: TRY004 (pydantic collects ValueError)
    match = _DURATION.fullmatch(value)
    if not match or not any(match.groups()):
        raise ValueError(f"'{value}' is not a duration; write it like 10s, 1m30s or 500ms")
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"'{value}' is not a name; use lower-case letters, digits, '-' and '.', a letter or digit at both ends"
        )
    return value


def _timestamp(value: str) -> str:
    if not _TIMESTAMP.fullmatch(value):
        raise ValueError(f"'{value}' is not a time; write it like 2026-01-31T12:00:00Z")
    return value


def _file(value: str) -> str:
    # What is no path is not repeated: it may be what a file holds, and that a secret.
    if not value.isprintable() or "-----BEGIN" in value:
        raise ValueError("is not the path of a file; give the path, not what the file holds")
    return value


FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_file)]
Timestamp = Annotated[str, AfterValidator(_timestamp)]
Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0, le=86_400 * 30)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[
    str, Field(min_length=1, max_length=253), AfterValidator(_name)
]  # Kubernetes' rule for names


class Fault(NamedTuple):
    """A problem between fields that are each well-formed: where it is to be mended, and a sentence."""

    location: tuple[str | int, ...]
    message: str


class Strict(BaseModel):
    """A field we do not honour is an error by name, never ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Fields, and values of fields, that the contract or Istio's schema knows and this version does not honour.
    unsupported: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[Mapping[str, str]] = {}  # the same, each with what to do
    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {}

    def __deepcopy__(self, _memo: dict[int, Any] | None = None) -> Self:
        """Itself, for it never changes: pydantic copies defaults for each of thousands of documents."""
        return self


class Metadata(Strict):
    """Who a document is about. For a Sidecar it is the workload this proxy stands beside."""

    name: Name
    namespace: Name = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    # Written by the API server: of documents of equal rank the oldest wins (Istio's rule); `null` is what
    # `kubectl create --dry-run` prints.
    creationTimestamp: Timestamp | None = None  # noqa: N815 (the document's spelling, here and below)
    # The API server's own bookkeeping. It says nothing about what the document asks for, so it is accepted from
    # `kubectl get -o yaml` and dropped.
    uid: Any = Field(default=None, exclude=True)
    resourceVersion: Any = Field(default=None, exclude=True)  # noqa: N815
    generation: Any = Field(default=None, exclude=True)
    managedFields: Any = Field(default=None, exclude=True)  # noqa: N815
    selfLink: Any = Field(default=None, exclude=True)  # noqa: N815
    ownerReferences: Any = Field(default=None, exclude=True)  # noqa: N815
    finalizers: Any = Field(default=None, exclude=True)


class Document(Strict):
    """What was asked for by one YAML mapping with apiVersion and kind."""

    metadata: Metadata

    @property
    def full_name(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def written(self) -> object:
        """What was written, made canonical, without defaults: for a dump as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def digest(self) -> str:
        """Equal where, and only where, two documents ask for the same."""
        return sha256(json.dumps(self.written, sort_keys=True).encode()).hexdigest()

    def faults(self) -> Iterator[Fault]:
        """What is wrong between fields; each kind has its own rules."""
        raise NotImplementedError

    def notes(self) -> Iterator[str]:
        """What an operator should know about a document that is accepted."""
        yield from ()
