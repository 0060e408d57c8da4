"""The tokens of requests (JWT, RFC 7519): where they stand, whose they are, whether they hold.

A request without a token passes and has no principal; one with a token that does not hold is refused, as in Istio.
Only public keys verify, each only for algorithms of its own kind, so that no token can choose a weaker check. PyJWT and
cryptography are imported where a document asks for them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_plus

from interceptor.config.request_authentication import ALGORITHMS
from interceptor.policy import jwts
from interceptor.policy.jwts import Fault, TokenError
from interceptor.policy.selection import selects

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from interceptor.config.jwks import VerificationKey
    from interceptor.config.request_authentication import JwtRule, RequestAuthentication
    from interceptor.model.http import RequestHead
    from interceptor.policy.jwts import Claims
    from interceptor.policy.selection import Workload

SKEW: Final = 60.0  # seconds that clocks may differ (Envoy's figure)
REMEMBERED: Final = 1024  # tokens that were found good: a client sends the same one again and again
_FAILS: Final = "Jwt verification fails"
_AUDIENCE: Final = "Audiences in Jwt are not allowed"
SENTENCES: Final = {  # Envoy's, for the client
    Fault.TOO_LONG: "Jwt is too long",
    Fault.FORM: "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    Fault.EXTENSION: _FAILS,
    Fault.ISSUER: "Jwt issuer is not configured",
    Fault.NO_KEY: _FAILS,
    Fault.SIGNATURE: _FAILS,
    Fault.CLAIM: _AUDIENCE,
    Fault.AUDIENCE: _AUDIENCE,
    Fault.EXPIRED: "Jwt is expired",
    Fault.EARLY: "Jwt not yet valid",
}


class _Issuer(NamedTuple):
    rule: JwtRule
    keys: tuple[VerificationKey, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where tokens stand, and the issuers whose may stand there."""

    header: bytes | None  # in lower case; None: the query
    word: str  # what stands before the token in a header, or the parameter's name
    issuers: list[_Issuer]

    def tokens(self, head: RequestHead) -> list[tuple[str, bytes]]:
        """Every token here, and the header or the part of the query that holds it."""
        if self.header is None:
            parts = head.target.partition(b"?")[2].split(b"&")
            split = [(part.decode("latin-1").partition("="), part) for part in parts]
            return [
                (unquote_plus(value), part)
                for (name, _, value), part in split
                if unquote_plus(name) == self.word
            ]
        values = [value for name, value in head.headers if name.lower() == self.header]
        texts = [(value.decode("latin-1"), value) for value in values]
        begin = self.word.lower()
        return [
            (text[len(begin) :].strip(), value) for text, value in texts if text.lower().startswith(begin)
        ]

    def take_out(self, head: RequestHead, held: bytes) -> None:
        """Remove a token from what is forwarded."""
        if self.header is not None:
            head.headers[:] = [
                each for each in head.headers if (each[0].lower(), each[1]) != (self.header, held)
            ]
            return
        path, _, query = head.target.partition(b"?")
        rest = b"&".join(part for part in query.split(b"&") if part != held)
        head.target = path + b"?" + rest if rest else path


class Tokens:
    """The issuers that a workload trusts."""

    def __init__(self, rules: Iterable[JwtRule], name: str) -> None:
        """``name`` is what refuses a token: the documents."""
        self.name = name
        places: dict[tuple[bytes | None, str], _Place] = {}
        for rule in rules:
            issuer = _issuer(rule)
            for header, word in _places(rule):
                places.setdefault((header, word), _Place(header, word, [])).issuers.append(issuer)
        self._places = tuple(places.values())
        self._good: dict[tuple[int, bytes], tuple[_Issuer, Claims, float]] = {}

    def claims(self, head: RequestHead, now: float) -> Claims | None:
        """What a request's token says, None where it has none; raises TokenError where one does not hold.

        Of several tokens each must hold, and the first one counts. A token that is not to be forwarded is taken out.
        """
        found: Claims | None = None
        for place in self._places:
            for token, held in place.tokens(head):
                issuer, claims = self._verified(place, token, now)
                found = claims if found is None else found
                if not issuer.rule.forwardOriginalToken:
                    place.take_out(head, held)
        return found

    @property
    def issuers(self) -> Sequence[str]:
        """Who is trusted."""
        return list(dict.fromkeys(each.rule.issuer for place in self._places for each in place.issuers))

    def check(self, claims: Claims) -> None:
        """Raises TokenError where no token that says this could hold, whatever its signature and times."""
        given = [
            each for place in self._places for each in place.issuers if each.rule.issuer == claims.get("iss")
        ]
        if not given:
            raise TokenError(Fault.ISSUER)
        jwts.check_audience(claims, given[0].rule.audiences)

    def _verified(self, place: _Place, token: str, now: float) -> tuple[_Issuer, Claims]:
        key = id(place), hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._good.get(key)
        if known is not None and now < known[2]:
            return known[:2]
        issuer, claims = _verify(token, place.issuers)
        until = jwts.valid_until(claims, now, SKEW)
        if len(self._good) >= REMEMBERED:
            del self._good[next(iter(self._good))]  # the oldest
        self._good[key] = issuer, claims, until
        return issuer, claims


def for_workload(documents: Sequence[RequestAuthentication], workload: Workload) -> Tokens | None:
    """What all documents about a workload trust, together; None where there are none."""
    about = [each for each in documents if selects(each, workload) and each.spec.jwtRules]
    rules = [rule for document in about for rule in document.spec.jwtRules]
    names = ", ".join(f"{each.metadata.namespace}/{each.metadata.name}" for each in about)
    return Tokens(rules, f"RequestAuthentication {names}") if rules else None


def _places(rule: JwtRule) -> list[tuple[bytes | None, str]]:
    """The places a document names, or Istio's own: ``Authorization: Bearer`` and ``?access_token=``."""
    given: list[tuple[bytes | None, str]] = [
        *((each.name.lower().encode(), each.prefix) for each in rule.fromHeaders),
        *((None, name) for name in rule.fromParams),
    ]
    return given or [(b"authorization", "Bearer "), (None, "access_token")]


def _issuer(rule: JwtRule) -> _Issuer:
    """An issuer; a file of keys that nobody has read verifies nothing."""
    from interceptor.config.jwks import parse_jwks  # noqa: PLC0415 (where a document asks for it)

    return _Issuer(rule, parse_jwks(rule.jwks.encode(), ALGORITHMS) if rule.jwks else ())


def _verify(token: str, issuers: Sequence[_Issuer]) -> tuple[_Issuer, Claims]:
    """Whose token it is and what it says, once its signature holds; its times are still to be looked at."""
    header, unverified = jwts.read(token)
    issuer = next((each for each in issuers if each.rule.issuer == unverified.get("iss")), None)
    if issuer is None:
        raise TokenError(Fault.ISSUER)
    claims = jwts.verified(token, header, issuer.keys)
    jwts.check_audience(claims, issuer.rule.audiences)
    return issuer, claims
