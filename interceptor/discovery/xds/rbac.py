"""PURE. Envoy's RBAC filters, as rules of an AuthorizationPolicy.

Permissions and principals are trees of and, or and not; a rule of ours is a source, an operation and conditions, each
with alternatives. So a tree becomes alternatives of conditions that hold together, and what that cannot say is said.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from interceptor.config.addresses import ip_address_or_network
from interceptor.discovery.xds.reading import mapping, mappings, number, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from interceptor.discovery.xds.messages import Body

_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters."
NETWORK: Final = f"{_FILTERS}network.rbac.v3.RBAC"
HTTP: Final = f"{_FILTERS}http.rbac.v3.RBAC"
MOST: Final = 64  # alternatives that one tree may come to, and rules that both of a policy may
_FILTER: Final = frozenset(
    {
        *("@type", "rules", "shadow_rules", "stat_prefix", "rules_stat_prefix"),
        "shadow_rules_stat_prefix",
    }
)
_ACTIONS: Final = {"ALLOW": "ALLOW", "DENY": "DENY", "LOG": "AUDIT"}
_PEER: Final = "io.istio.peer_principal"  # the filter state in which Istio's proxies keep the peer's name
_NAMESPACE: Final = re.compile(r"\.\*/ns/([a-z0-9-]+)/\.\*")  # how Istio writes a namespace
_SPIFFE: Final = "spiffe://"


class Atom(NamedTuple):
    """A field that has one of some values, or none of them."""

    where: str  # from, to or when
    field: str
    values: tuple[str, ...]
    negated: bool = False


Together: TypeAlias = tuple[Atom, ...]  # all of them; none: anything
Alternatives: TypeAlias = list[Together]


class Policy(NamedTuple):
    """An AuthorizationPolicy in the making."""

    action: str
    rules: list[dict[str, object]]
    dry_run: bool


class _Refused(Exception):  # noqa: N818 (not an error: a sentence that becomes one)
    """Why a tree cannot be said."""


def read(body: Body, path: str, said: list[str], *, http: bool) -> list[Policy]:
    """The policies of a filter."""
    said += unknown(body, _FILTER, path)
    return [
        _policy(mapping(body, name), f"{path}{name}.", said, http=http, dry=name != "rules")
        for name in ("rules", "shadow_rules")
        if name in body
    ]


def _policy(body: Body, path: str, said: list[str], *, http: bool, dry: bool) -> Policy:
    said += unknown(body, frozenset({"action", "policies"}), path)
    action = str(body.get("action", "ALLOW"))
    if action not in _ACTIONS:
        said.append(f"{path}action: {action} is not honoured")
    rules: list[dict[str, object]] = []
    for name, given in sorted(mapping(body, "policies").items()):
        here = f"{path}policies[{name}]"
        policy = mapping({"given": given}, "given")
        said += unknown(policy, frozenset({"permissions", "principals"}), f"{here}.")
        try:
            to = _any_of(mappings(policy, "permissions"), _Permissions(http=http).read)
            by = _any_of(mappings(policy, "principals"), _Principals(http=http).read)
            rules += _rules(by, to)
        except _Refused as error:
            said.append(f"{here}: {error}")
    return Policy(_ACTIONS.get(action, action), rules, dry)


def _rules(by: Alternatives, to: Alternatives) -> Iterable[dict[str, object]]:
    plain = all(atom.where != "when" for each in (*by, *to) for atom in each)
    if plain:
        yield _rule(by, to)
        return
    if len(by) * len(to) > MOST:
        raise _Refused(f"it comes to more than {MOST} rules, which is not honoured by this version")
    for source in by:
        for operation in to:
            yield _rule([source], [operation])


def _rule(by: Alternatives, to: Alternatives) -> dict[str, object]:
    """One rule; an alternative without a condition makes the others of its kind say nothing."""
    made: dict[str, object] = {}
    sources = [_fields(each, "from") for each in by]
    operations = [_fields(each, "to") for each in to]
    if all(sources):
        made["from"] = [{"source": each} for each in sources]
    if all(operations):
        made["to"] = [{"operation": each} for each in operations]
    when = [
        {"key": atom.field, "notValues" if atom.negated else "values": list(atom.values)}
        for each in (*by, *to)
        for atom in each
        if atom.where == "when"
    ]
    return {**made, "when": when} if when else made


def _fields(together: Together, where: str) -> dict[str, list[str]]:
    return {
        f"not{atom.field[0].upper()}{atom.field[1:]}" if atom.negated else atom.field: list(atom.values)
        for atom in together
        if atom.where == where
    }


def _any_of(trees: Iterable[Body], read_one: Callable[[Body], Alternatives]) -> Alternatives:
    return _united([each for tree in trees for each in read_one(tree)])


def _united(given: Alternatives) -> Alternatives:
    """Alternatives of one field are one condition with several values."""
    if not given:
        raise _Refused("there are no permissions, or no principals")
    if len({(*each[0][:2], each[0].negated) for each in given if len(each) == 1}) == 1 and all(
        len(each) == 1 and not each[0].negated for each in given
    ):
        first = given[0][0]
        return [(first._replace(values=tuple(value for each in given for value in each[0].values)),)]
    if len(given) > MOST:
        raise _Refused(f"it comes to more than {MOST} alternatives, which is not honoured by this version")
    return given


def _all_of(parts: Iterable[Alternatives]) -> Alternatives:
    made: Alternatives = [()]
    for part in parts:
        made = [_joined(one, other) for one in made for other in part]
        if len(made) > MOST:
            raise _Refused(
                f"it comes to more than {MOST} alternatives, which is not honoured by this version"
            )
    return made


def _joined(one: Together, other: Together) -> Together:
    """Both; a field that neither value of may be there is one condition."""
    made = {(atom.where, atom.field, atom.negated): atom for atom in one}
    for atom in other:
        key = (atom.where, atom.field, atom.negated)
        before = made.get(key)
        if before is not None and not atom.negated and before != atom:
            raise _Refused(
                f"{atom.field} has to be two things at once, which is not honoured by this version"
            )
        values = (*before.values, *atom.values) if before is not None and atom.negated else atom.values
        made[key] = atom._replace(values=tuple(dict.fromkeys(values)))
    return tuple(made.values())


def _negated(given: Alternatives) -> Alternatives:
    if any(not each for each in given):
        raise _Refused("not of any is nothing, which is not honoured by this version")
    return _all_of([(atom._replace(negated=not atom.negated),) for atom in each] for each in given)


class _Tree:
    """What both kinds of trees have."""

    every: str
    some: str
    none: str
    children: str

    def __init__(self, *, http: bool) -> None:
        self._http = http

    def read(self, body: Body) -> Alternatives:
        """A tree, as alternatives."""
        [kind, *others] = body.keys() or ("",)
        if others or not kind:
            raise _Refused("each permission and principal has one condition")
        if kind == "any":
            return [()]
        if kind == self.none:
            return _negated(self.read(mapping(body, kind)))
        if kind in {self.every, self.some}:
            inside = [self.read(each) for each in mappings(mapping(body, kind), self.children)]
            return (
                _all_of(inside) if kind == self.every else _united([one for each in inside for one in each])
            )
        return [(self.leaf(kind, body),)]

    def leaf(self, kind: str, body: Body) -> Atom:
        """A condition."""
        raise NotImplementedError

    def _of_request(self, kind: str) -> None:
        if not self._http:
            raise _Refused(f"{kind} is a request's, and this filter sees connections")

    def _header(self, body: Body) -> Atom:
        self._of_request("header")
        header = mapping(body, "header")
        if strange := sorted(header.keys() - {"name", "string_match", "present_match"}):
            raise _Refused(f"header.{strange[0]} is not honoured by this version")
        name = str(header.get("name", "")).lower()
        special = {":method": "methods", ":authority": "hosts"}.get(name)
        if special is None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name):
            raise _Refused(f"the header '{name}' is not honoured by this version")
        if "string_match" in header:
            value = pattern(mapping(header, "string_match"), ignoring_case=name == ":authority")
        elif header.get("present_match") is True:
            value = "*"
        else:
            raise _Refused("header needs string_match, or present_match: true")
        if special is not None:
            return Atom("to", special, (value,))
        return Atom("when", f"request.headers[{name}]", (value,))


class _Permissions(_Tree):
    every, some, none, children = "and_rules", "or_rules", "not_rule", "rules"

    def leaf(self, kind: str, body: Body) -> Atom:
        """What is asked for."""
        if kind == "header":
            return self._header(body)
        if kind == "url_path":
            self._of_request(kind)
            value = pattern(mapping(mapping(body, kind), "path"))
            if not value.startswith(("/", "*")) or "?" in value:
                raise _Refused(f"the path '{value}' would never match")
            return Atom("to", "paths", (value,))
        if kind == "destination_port":
            port = number(body, kind, 0)
            if not 1 <= port <= 65535:
                raise _Refused(f"{port} is not a port")
            return Atom("to", "ports", (str(port),))
        if kind == "destination_ip":
            return Atom("when", "destination.ip", (_range(mapping(body, kind)),))
        if kind == "requested_server_name":
            return Atom("when", "connection.sni", (pattern(mapping(body, kind)),))
        raise _Refused(f"the permission {kind} is not honoured by this version")


class _Principals(_Tree):
    every, some, none, children = "and_ids", "or_ids", "not_id", "ids"

    def leaf(self, kind: str, body: Body) -> Atom:
        """Who asks."""
        if kind == "header":
            return self._header(body)
        if kind == "authenticated":
            name = mapping(body, kind)
            return _identity(mapping(name, "principal_name")) if name else Atom("from", "principals", ("*",))
        if kind == "filter_state" and mapping(body, kind).get("key") == _PEER:
            return _identity(mapping(mapping(body, kind), "string_match"))
        if kind in {"direct_remote_ip", "remote_ip"}:
            field = "ipBlocks" if kind == "direct_remote_ip" else "remoteIpBlocks"
            return Atom("from", field, (_range(mapping(body, kind)),))
        raise _Refused(f"the principal {kind} is not honoured by this version")


def _identity(matcher: Body) -> Atom:
    """A peer's name: a SPIFFE id, of which policies leave the scheme out."""
    if found := _NAMESPACE.fullmatch(str(mapping(matcher, "safe_regex").get("regex", ""))):
        return Atom("from", "namespaces", (found[1],))
    value = pattern(matcher)
    if value.startswith(_SPIFFE):
        value = value.removeprefix(_SPIFFE)
    elif not value.startswith("*"):
        raise _Refused(f"the principal '{value}' is no SPIFFE id")
    return Atom("from", "principals", (value or "*",))


def pattern(matcher: Body, *, ignoring_case: bool = False) -> str:
    """A StringMatcher as the text of a policy."""
    if (matcher.get("ignore_case") is True) != ignoring_case:
        raise _Refused(f"ignore_case is honoured only as {str(ignoring_case).lower()} here")
    given = sorted(matcher.keys() - {"ignore_case"})
    if len(given) != 1 or given[0] not in {"exact", "prefix", "suffix", "safe_regex"}:
        raise _Refused("only exact, prefix and suffix of a text are honoured by this version")
    [kind] = given
    if kind == "safe_regex":
        expression = str(mapping(matcher, kind).get("regex", ""))
        if expression in {".+", ".*"}:  # how Istio writes that something is there
            return "*"
        raise _Refused(f"the expression '{expression}' is not honoured by this version")
    value = str(matcher[kind])
    if not value or "*" in value or set(value) & set("{}"):
        raise _Refused(f"the text '{value}' means something else in a policy")
    return {"exact": value, "prefix": f"{value}*", "suffix": f"*{value}"}[kind]


def _range(body: Body) -> str:
    text = f"{body.get('address_prefix', '')}/{number(body, 'prefix_len', 0)}"
    try:
        return ip_address_or_network(text)
    except ValueError as error:
        raise _Refused(str(error)) from None
