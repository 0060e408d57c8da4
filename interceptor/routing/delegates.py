"""PURE. Routes of a VirtualService that another one has: what the two say together.

Source: Istio's Delegate. A document without hosts is never asked by itself; a route that delegates to it stands for all of
its http routes. A match of both must hold: each match of the delegate's is narrowed by each of the root's that it does not
contradict, and a route of which one match contradicts all of the root's is not taken by anybody. What the
delegate does not say of timeouts, retries and the like is as the root says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast

from interceptor.config.configuration import Plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from interceptor.config.virtual_service import (
        HTTPMatchRequest,
        HTTPRoute,
        StringMatch,
        VirtualService,
    )

_TEXTS: Final = ("uri", "scheme", "method", "authority")
_KEYED: Final = ("headers", "withoutHeaders", "queryParams")
_INHERITED: Final = ("rewrite", "timeout", "retries", "fault", "corsPolicy")
_MATCH: Final = (
    *("name", "ignoreUriCase", "port", "sourceLabels", "sourceNamespace", "gateways"),
    *(*_TEXTS, *_KEYED),
)
_ROUTE: Final = (
    *("name", "match", "route", "redirect", "directResponse", "headers", "copies"),
    *("mirror", "mirrors", *_INHERITED),
)


class Said(NamedTuple):
    """An http route, and where it stands."""

    document: str  # namespace/name
    place: str
    spec: HTTPRoute


def named(documents: Iterable[VirtualService]) -> dict[str, VirtualService]:
    """Those that others may delegate to."""
    return {document.full_name: document for document in documents if not document.spec.hosts}


def asked(document: VirtualService, known: Mapping[str, VirtualService]) -> tuple[VirtualService, ...]:
    """The documents that one delegates to, as far as they are there."""
    names = (_name(document, spec) for spec in document.spec.http)
    return tuple(known[name] for name in names if name is not None and name in known)


def routes(document: VirtualService, known: Mapping[str, VirtualService]) -> Iterator[Said]:
    """All http routes of a document, with those of its delegates in their place."""
    for index, spec in enumerate(document.spec.http):
        place, name = f"http[{index}]", _name(document, spec)
        if name is None:
            yield Said(document.full_name, place, spec)
        elif name in known:
            for number, inner in enumerate(known[name].spec.http):
                merged = _merged(spec, inner)
                if merged is not None:
                    yield Said(name, f"{place}-http[{number}]", merged)


def without_effect(document: VirtualService, known: Mapping[str, VirtualService]) -> Iterator[str]:
    """What of a document's delegation comes to nothing, in sentences."""
    for index, spec in enumerate(document.spec.http):
        name = _name(document, spec)
        if name is None:
            continue
        if name not in known:
            yield f"there is no VirtualService {name} without hosts: spec.http[{index}] delegates to nobody, and takes no request"
            continue
        for number, inner in enumerate(known[name].spec.http):
            if _merged(spec, inner) is None:
                yield (
                    f"spec.http[{number}] of VirtualService {name} asks for what spec.http[{index}] here rules out: "
                    "no request takes it"
                )


def _name(document: VirtualService, spec: HTTPRoute) -> str | None:
    if spec.delegate is None:
        return None
    return f"{spec.delegate.namespace or document.metadata.namespace}/{spec.delegate.name}"


def _merged(root: HTTPRoute, inner: HTTPRoute) -> HTTPRoute | None:
    matches = _matches(root.match, inner.match)
    if matches is None:
        return None
    fields = {name: getattr(inner, name) for name in _ROUTE}
    for name in _INHERITED:
        if fields[name] is None:
            fields[name] = getattr(root, name)
    fields["name"] = "-".join(filter(None, (root.name, inner.name)))
    fields["match"] = matches
    if not _says(inner):
        fields["headers"] = root.headers
    if inner.route:
        one, others = (_copies(inner, root, own) for own in (True, False))
        fields["copies"] = (*one, *others)
    return cast("HTTPRoute", Plain(**fields, delegate=None))


def _copies(inner: HTTPRoute, root: HTTPRoute, own: bool) -> Sequence[object]:  # noqa: FBT001 (mirror, or mirrors)
    """Those of ``mirror``, or of ``mirrors``: the delegate's, else the root's."""
    for each in (inner, root):
        count = 0 if each.mirror is None else 1
        found = each.copies[:count] if own else each.copies[count:]
        if found:
            return found
    return ()


def _says(route: HTTPRoute) -> bool:
    sides = (route.headers.request, route.headers.response)
    return any(side.set or side.add or side.remove for side in sides)


def _matches(
    root: Sequence[HTTPMatchRequest], inner: Sequence[HTTPMatchRequest]
) -> tuple[HTTPMatchRequest, ...] | None:
    if not root or not inner:
        return tuple(root or inner)
    found: list[HTTPMatchRequest] = []
    for each in inner:
        fitting = [_narrowed(outer, each) for outer in root if not _contradict(outer, each)]
        if not fitting:
            return None
        found += fitting
    return tuple(found)


def _narrowed(root: HTTPMatchRequest, inner: HTTPMatchRequest) -> HTTPMatchRequest:
    fields = {name: getattr(inner, name) for name in _MATCH}
    for name in (*_TEXTS, "port", "sourceNamespace"):
        if fields[name] is None:
            fields[name] = getattr(root, name)
    for name in (*_KEYED, "sourceLabels"):
        fields[name] = {**getattr(root, name), **fields[name]}
    fields["name"] = "-".join(filter(None, (root.name, inner.name)))
    fields["gateways"] = inner.gateways or root.gateways
    return cast("HTTPMatchRequest", Plain(**fields))


def _contradict(root: HTTPMatchRequest, inner: HTTPMatchRequest) -> bool:
    """Whether the delegate's match asks for what the root's rules out, or might (Istio's rule, of texts below)."""
    if any(_differ(getattr(root, name), getattr(inner, name)) for name in _TEXTS):
        return True
    for name in _KEYED:
        given = getattr(root, name)
        if any(_differ(given.get(key), value) for key, value in getattr(inner, name).items()):
            return True
    if root.uri is not None and inner.uri is not None and root.ignoreUriCase != inner.ignoreUriCase:
        return True
    if root.gateways and not set(inner.gateways) <= set(root.gateways):
        return True
    singles = [(root.port, inner.port), (root.sourceNamespace, inner.sourceNamespace)]
    singles += [(root.sourceLabels.get(key, value), value) for key, value in inner.sourceLabels.items()]
    return any(None not in pair and pair[0] != pair[1] for pair in singles)


def _differ(root: StringMatch | None, inner: StringMatch | None) -> bool:
    """Whether a text that the delegate's takes may be one that the root's does not: of expressions nobody can say."""
    if root is None or inner is None:
        return False
    if root.regex is not None or inner.regex is not None:
        return True
    if root.exact is not None:
        return inner.exact != root.exact
    if root.prefix is not None:
        text = inner.prefix if inner.exact is None else inner.exact
        return text is None or not text.startswith(root.prefix)
    return False  # only there: whatever the delegate asks for is
