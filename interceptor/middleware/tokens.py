"""Bearer tokens (JWT, RFC 7519): who brings one that holds may pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.middleware.credentials import refused
from interceptor.model.http import put, remove
from interceptor.policy import jwts
from interceptor.policy.jwts import LONGEST, Fault, TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.config.jwks import VerificationKey
    from interceptor.middleware.api import Exchange
    from interceptor.model.http import Headers, LocalReply, ResponseHead
    from interceptor.policy.jwts import Claims

# Envoy's words for the log, and ours for the client.
_REASONS: Final = {
    Fault.TOO_LONG: ("Jwt_is_too_long", f"the token is longer than {LONGEST} characters"),
    Fault.FORM: ("Jwt_is_not_in_the_right_form", "this is not a token that is taken here"),
    Fault.EXTENSION: ("Jwt_header_crit", "the token needs an extension that is not known here"),
    Fault.ISSUER: ("Jwt_issuer_is_not_configured", "the token is of another issuer"),
    Fault.NO_KEY: ("Jwks_doesnt_have_key_to_match_kid_or_alg", "no key here fits the token"),
    Fault.SIGNATURE: ("Jwt_verification_fails", "the token's signature is wrong"),
    Fault.CLAIM: ("Jwt_lacks_a_claim", "the token lacks a claim"),
    Fault.AUDIENCE: ("Audiences_in_Jwt_are_not_allowed", "the token is for another audience"),
    Fault.EXPIRED: ("Jwt_is_expired", "the token has expired"),
    Fault.EARLY: ("Jwt_not_yet_valid", "the token is not valid yet"),
}


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a token must be."""

    issuer: str
    audiences: Sequence[str]  # one of these; none: any
    skew: float  # seconds
    keys: Callable[[], Sequence[VerificationKey]]
    now: Callable[[], float]  # Unix time

    def verify(self, token: str) -> Claims:
        """The claims of a good token; TokenError for any other."""
        header, _ = jwts.read(token)
        claims = jwts.verified(token, header, self.keys())
        if not {"exp", "iss"} <= claims.keys():
            raise TokenError(Fault.CLAIM)
        if claims["iss"] != self.issuer:
            raise TokenError(Fault.ISSUER)
        jwts.valid_until(claims, self.now(), self.skew)
        jwts.check_audience(claims, self.audiences)
        return claims


@dataclass(frozen=True, slots=True)
class JwtFilter:
    """Lets pass who brings a good token."""

    name: str
    verifier: Verifier
    places: Sequence[tuple[bytes, bytes]]  # header in lower case, prefix
    claims: Sequence[
        tuple[bytes, str]
    ]  # header in which the app is told the claim; what a client writes is dropped
    forward: bool  # the token as well

    def request(self, exchange: Exchange) -> LocalReply | None:
        headers = exchange.request.headers
        for told, _ in self.claims:
            remove(headers, told.lower())
        found = self._tokens(headers)
        if len(found) != 1:
            word = "Jwt_is_missing" if not found else "Jwt_is_not_alone"
            return self._refused(
                word, "the token is missing" if not found else "there is more than one token"
            )
        header, value, token = found[0]
        try:
            claims = self.verifier.verify(token.decode("ascii", "replace"))
        except TokenError as error:
            status = 403 if error.fault is Fault.AUDIENCE else 401  # as Envoy
            return self._refused(*_REASONS[error.fault], status)
        subject = claims.get("sub")
        if isinstance(subject, str):
            exchange.principal = f"{self.verifier.issuer}/{subject}"  # Istio's request principal
        if not self.forward:
            headers.remove((header, value))
        self._tell(claims, headers)
        return None

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """What passed is left as it is."""

    def _tokens(self, headers: Headers) -> list[tuple[bytes, bytes, bytes]]:
        """Every token and the header it is in, so that the app cannot be made to see another one than was checked."""
        return [
            (name, value, value[len(prefix) :].strip())
            for header, prefix in self.places
            for name, value in headers
            if name.lower() == header and value[: len(prefix)].lower() == prefix.lower()
        ]

    def _tell(self, claims: Claims, headers: Headers) -> None:
        for header, name in self.claims:
            value = claims.get(name)
            if isinstance(value, str) and value.isprintable() and value == value.strip():
                put(headers, header, value.encode())
            elif isinstance(value, bool):
                put(headers, header, b"true" if value else b"false")
            elif isinstance(value, int):
                put(headers, header, b"%d" % value)

    def _refused(self, word: str, sentence: str, status: int = 401) -> LocalReply:
        challenge = b"Bearer" if word == "Jwt_is_missing" else b'Bearer error="invalid_token"'
        return refused(sentence, f"jwt_authn_access_denied{{{self.name},{word}}}", challenge, status)
