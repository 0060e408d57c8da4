"""Bearer tokens (JWT, RFC 7519): what makes one good, by RFC 8725. The signature and the claims are PyJWT's to check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import jwt

from interceptor.errors import PeerError
from interceptor.middleware.credentials import refused
from interceptor.model.http import put, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.middleware.api import Exchange
    from interceptor.middleware.jwks import VerificationKey
    from interceptor.model.http import Headers, LocalReply, ResponseHead

LONGEST: Final = 16 * 1024  # characters; the header of a request is not much longer

# Envoy's words for the log, and ours for the client.
_REASONS: Final[dict[type[jwt.PyJWTError], tuple[str, str]]] = {
    jwt.ExpiredSignatureError: ("Jwt_is_expired", "the token has expired"),
    jwt.ImmatureSignatureError: ("Jwt_not_yet_valid", "the token is not valid yet"),
    jwt.InvalidIssuerError: ("Jwt_issuer_is_not_configured", "the token is of another issuer"),
    jwt.InvalidAudienceError: ("Audiences_in_Jwt_are_not_allowed", "the token is for another audience"),
    jwt.InvalidSignatureError: ("Jwt_verification_fails", "the token's signature is wrong"),
    jwt.MissingRequiredClaimError: ("Jwt_lacks_a_claim", "the token lacks a claim"),
}
_OTHER: Final = ("Jwt_is_not_in_the_right_form", "this is not a token that is taken here")


class RejectedError(PeerError):
    """A token is not good; the words for the log and for the client, which repeat nothing of it."""

    def __init__(self, word: str, sentence: str, status: int = 401) -> None:
        super().__init__(sentence)
        self.word = word
        self.sentence = sentence
        self.status = status


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a token must be."""

    issuer: str
    audiences: Sequence[str]  # one of these; none: any
    skew: float  # seconds
    keys: Callable[[], Sequence[VerificationKey]]

    def verify(self, token: str) -> Mapping[str, object]:
        """The claims of a good token; RejectedError for any other."""
        if len(token) > LONGEST:
            raise RejectedError("Jwt_is_too_long", f"the token is longer than {LONGEST} characters")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise RejectedError(*_OTHER) from None
        if "crit" in header:  # there is no extension that we understand: RFC 7515, section 4.1.11
            raise RejectedError("Jwt_header_crit", "the token needs an extension that is not known here")
        failure: jwt.PyJWTError = jwt.InvalidSignatureError()
        candidates = [key for key in self.keys() if _fits(key, header)]
        if not candidates:
            raise RejectedError("Jwks_doesnt_have_key_to_match_kid_or_alg", "no key here fits the token")
        for key in candidates:
            try:
                return self._decode(token, key)
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                failure = error
                break
        status = 403 if isinstance(failure, jwt.InvalidAudienceError) else 401  # as Envoy
        raise RejectedError(*_REASONS.get(type(failure), _OTHER), status)

    def _decode(self, token: str, key: VerificationKey) -> Mapping[str, object]:
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=self.issuer,
            audience=self.audiences or None,
            leeway=self.skew,
            options={
                "require": ["exp", "iss"],
                "verify_aud": bool(self.audiences),
                "enforce_minimum_key_length": True,
            },
        )


def _fits(key: VerificationKey, header: Mapping[str, object]) -> bool:
    """Whether a token may be tried with a key: the algorithm is the key's, and so is the key id where both have one."""
    kid = header.get("kid")
    return header.get("alg") == key.algorithm and (kid is None or key.kid is None or kid == key.kid)


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
        except RejectedError as rejected:
            return self._refused(rejected.word, rejected.sentence, rejected.status)
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

    def _tell(self, claims: Mapping[str, object], headers: Headers) -> None:
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
