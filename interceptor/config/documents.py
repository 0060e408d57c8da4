"""Documents become one typed configuration; every problem of every document is found at once, with file and line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import ValidationError

from interceptor.config.base import Document, Metadata
from interceptor.config.configuration import Configuration, DocumentStatus, assembled
from interceptor.config.middleware import ModuleItem
from interceptor.config.problems import Problem
from interceptor.config.sentences import described, did_you_mean, dotted, sentence
from interceptor.config.sidecar import Sidecar
from interceptor.config.tree import Node, parse
from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.config.problems import Source
    from interceptor.config.tree import Location

_NETWORKING: Final = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
_SECURITY: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")

# Every kind of the contract: the versions it is written in, and the module of its model, read when one comes: a change of
# one document need not wait for the models of all kinds.
_KINDS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "Sidecar": (("interceptor/v1",), "sidecar"),
    "RateLimit": (("interceptor/v1",), "rate_limit"),
    "ServiceEntry": (_NETWORKING, "service_entry"),
    "DestinationRule": (_NETWORKING, "destination_rule"),
    "VirtualService": (_NETWORKING, "virtual_service"),
    "PeerAuthentication": (_SECURITY, "peer_authentication"),
    "AuthorizationPolicy": (_SECURITY, "authorization_policy"),
    "RequestAuthentication": (_SECURITY, "request_authentication"),
}
_API_VERSIONS: Final = tuple(
    dict.fromkeys(version for versions, _ in _KINDS.values() for version in versions)
)
DEFAULT_NAME: Final = "app"  # of a workload whose name nobody gave
# `status` is written by a controller about the document and asks for nothing.
_ENVELOPE: Final = frozenset({"apiVersion", "kind", "status"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a set of sources says, valid or not."""

    sidecar: Sidecar | None
    accepted: tuple[Document, ...]
    documents: tuple[DocumentStatus, ...]
    problems: tuple[Problem, ...]  # all of them: the documents', and those of no document

    def configuration(self) -> Configuration:
        """The configuration; raises ConfigError with every problem when there are any."""
        if self.problems or self.sidecar is None:
            raise ConfigError(*map(str, self.problems))
        return assembled(zip(self.documents, self.accepted, strict=True))


def default_configuration(name: str) -> Configuration:
    """The configuration of a workload nobody wrote a Sidecar for: every default, and a name made of the one given."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower())[:63].strip("-")
    return Configuration(Sidecar(metadata=Metadata(name=made or DEFAULT_NAME)))


def load(
    sources: Sequence[Source],
    *,
    sidecar_required: bool = True,
    module_problem: Callable[[ModuleItem], str | None] = lambda _: None,
    known: Callable[[Source], Known | None] = lambda _: None,
    replaced: Callable[[str, str, str, str], bool] = lambda *_: False,
) -> Loaded:
    """Read and validate every document of every source; never raises for what they say.

    What is wrong with the user's own modules only an import can tell: who calls this may be able to. Who judged a source
    before may say what came of it: then it is not read again, and its document is not among the accepted ones. A document
    that another one replaces, by its file, kind, namespace and name, is left out whatever it says.
    """
    outside: list[Problem] = []
    found: list[_Found] = []
    empty: dict[str, bool] = {}  # files
    for source in sources:
        before = known(source)
        if before is not None:
            empty[source.name] = False
            found.append(before.found(source))
            continue
        tree = parse(source)
        outside += tree.problems
        nothing = not tree.documents and not tree.problems
        empty[source.name] = nothing and empty.get(source.name, True)
        found += [_read(source.name, node, problems) for node, problems in tree.documents]
    message = "the file holds no document; write one, or leave it out"
    outside += [Problem(name, 1, "", message) for name, nothing in empty.items() if nothing]
    found = [each for each in found if not replaced(each.file, each.kind, each.namespace, each.name)]
    _refuse_duplicates(found)
    for each in found:
        _try_modules(each, module_problem)
    sidecars = [each for each in found if each.kind == "Sidecar" and each.honoured]
    if sidecar_required and not sidecars and not outside:  # what could not be read may be the Sidecar
        file = sources[0].name if sources else "configuration"
        message = "there is no Sidecar document; add one with apiVersion interceptor/v1 and metadata.name"
        outside.append(Problem(file, 0, "", message))
    _refuse_without_identity(found)
    _refuse_without_place(found)
    documents = [each.value for each in found]
    problems = outside + [problem for each in found for problem in each.problems]
    order = {source.name: index for index, source in enumerate(sources)}
    return Loaded(
        next((document for document in documents if isinstance(document, Sidecar)), None),
        tuple(document for document in documents if document is not None),
        tuple(each.status() for each in found),
        tuple(sorted(problems, key=lambda problem: (order.get(problem.file, 0), problem.line))),
    )


class Known(NamedTuple):
    """Who an accepted document is, the line it stands on in its source, and whether it needs the workload's identity."""

    kind: str
    namespace: str
    name: str
    line: int
    uses_identity: bool = False

    def found(self, source: Source) -> _Found:
        node = Node(source.line + self.line, None)
        return _Found(
            *(source.name, node, [], self.kind, self.namespace, self.name),
            honoured=True,
            uses_identity=self.uses_identity,
        )


@dataclass(slots=True)
class _Found:
    """A document while it is being judged."""

    file: str
    node: Node
    problems: list[Problem]
    kind: str = "?"
    namespace: str = "default"
    name: str = "?"
    honoured: bool = False  # a kind and version with a model
    value: Document | None = None
    uses_identity: bool = False  # of the workload, to upstreams

    def refuse(self, location: Location, message: str) -> None:
        line = self.node.line_of(location)
        self.problems.append(Problem(self.file, line, dotted(location), message))

    def status(self) -> DocumentStatus:
        notes = tuple(self.value.notes()) if self.value and not self.problems else ()
        problems = tuple(self.problems)
        return DocumentStatus(
            self.file, self.node.line, self.kind, self.namespace, self.name, problems, notes
        )


def _read(file: str, node: Node, problems: list[Problem]) -> _Found:
    found = _Found(file, node, problems)
    plain = node.plain()
    if not isinstance(plain, dict):
        message = f"a document must be a mapping with apiVersion, kind and metadata, not {described(plain)}"
        found.refuse((), message)
        return found
    _identify(found, plain)
    model = _model(found, plain)
    if model is not None:
        found.honoured = True
        body = {key: value for key, value in plain.items() if key not in _ENVELOPE}
        _validate(found, model, body)
    return found


def _identify(found: _Found, plain: Mapping[str, object]) -> None:
    """Who the document says it is, as far as it says so."""
    metadata = plain.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    named = {"kind": plain.get("kind"), "name": given.get("name"), "namespace": given.get("namespace")}
    for attribute, value in named.items():
        if isinstance(value, str) and value:
            setattr(found, attribute, value)


def _model(found: _Found, plain: Mapping[str, object]) -> type[Document] | None:
    """The model to judge the document by; none where its kind or version is not one we honour."""
    version, kind = (_word(found, plain, field) for field in ("apiVersion", "kind"))
    known_version = version in _API_VERSIONS
    if version and not known_version:
        found.refuse(("apiVersion",), f"unknown apiVersion '{version}'{did_you_mean(version, _API_VERSIONS)}")
    if kind == "List":
        found.refuse(
            ("kind",), "a List is not read; write its items as documents, with a line '---' between them"
        )
        return None
    if kind and kind not in _KINDS:
        found.refuse(("kind",), f"unknown kind '{kind}'{did_you_mean(kind, _KINDS)}")
    if kind not in _KINDS:
        return None
    versions, module = _KINDS[kind]
    if known_version and version not in versions:
        message = f"a {kind} is not of apiVersion '{version}' here; write {versions[0]}"
        found.refuse(("apiVersion",), message)
        return None
    model: type[Document] = getattr(import_module(f"interceptor.config.{module}"), kind)
    return model


def _word(found: _Found, plain: Mapping[str, object], field: str) -> str:
    value = plain.get(field)
    if field not in plain:
        found.refuse((field,), "is required; add it")
    elif not isinstance(value, str) or not value:
        found.refuse((field,), f"must be text, not {described(value)}")
    return value if isinstance(value, str) else ""


def _validate(found: _Found, model: type[Document], body: Mapping[str, object]) -> None:
    try:
        document = model.model_validate(body)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            found.refuse(*sentence(model, each))
        return
    for fault in document.faults():
        found.refuse(*fault)
    if not found.problems:
        found.value = document
        found.uses_identity = getattr(document, "uses_identity", False)


def _refuse_duplicates(found: Sequence[_Found]) -> None:
    """Each document once, and one Sidecar: the later one is refused and names the place of the first."""
    seen: dict[tuple[str, ...], _Found] = {}
    for each in _honoured(found):
        key = ("Sidecar",) if each.kind == "Sidecar" else (each.kind, each.namespace, each.name)
        first = seen.setdefault(key, each)
        if first is each:
            continue
        place = f"{first.file}:{first.node.line}"
        if (first.namespace, first.name) == (each.namespace, each.name):
            message = f"{each.kind} {each.namespace}/{each.name} is given twice, first at {place}; keep one"
        else:
            message = (
                f"Sidecar {each.namespace}/{each.name} is the second one, after "
                f"{first.namespace}/{first.name} at {place}; a proxy has one"
            )
        each.refuse((), message)
        each.value = None


def _refuse_without_identity(found: Sequence[_Found]) -> None:
    """Mutual TLS of the mesh needs the workload's own certificate, which the Sidecar names."""
    sidecars = [each.value for each in found if isinstance(each.value, Sidecar)]
    if not sidecars or sidecars[0].spec.tls is not None:
        return
    for each in found:
        if each.uses_identity:
            each.refuse(
                ("spec", "trafficPolicy"),
                "the mode ISTIO_MUTUAL presents the workload's own certificate; name it in the Sidecar's spec.tls",
            )
            each.value = None


def _refuse_without_place(found: Sequence[_Found]) -> None:
    """A limit is enforced at its place in the list of middleware; without one it would be none."""
    sidecars = [each.value for each in found if isinstance(each.value, Sidecar)]
    if not sidecars or any(item.use == "rateLimitDocuments" for item in sidecars[0].spec.middleware):
        return
    for each in found:
        if each.kind == "RateLimit" and each.value is not None:
            each.refuse(
                ("spec",),
                "is enforced nowhere; add an item 'use: rateLimitDocuments' to the Sidecar's spec.middleware",
            )
            each.value = None


def _try_modules(found: _Found, module_problem: Callable[[ModuleItem], str | None]) -> None:
    """Refuse a Sidecar that names a module which cannot be used."""
    items = found.value.spec.middleware if isinstance(found.value, Sidecar) else ()
    for index, item in enumerate(items):
        message = module_problem(item) if isinstance(item, ModuleItem) else None
        if message is not None:
            found.refuse(("spec", "middleware", index, "use"), message)
            found.value = None


def _honoured(found: Sequence[_Found]) -> Iterator[_Found]:
    return (each for each in found if each.honoured and each.name != "?")
