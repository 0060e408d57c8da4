"""PURE. User and password by HTTP Basic (RFC 7617); passwords are known as hashes only, and compared in constant time.

The hashes are the fast ones: a slow one (bcrypt) would hold up everybody else's bytes at each request. So passwords
should be long and random; the file is as secret as they are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from interceptor.middleware.credentials import named_lines, refused
from interceptor.model.http import get_all, put, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.middleware.api import Exchange
    from interceptor.model.http import LocalReply, ResponseHead

# By the prefix of RFC 2307: the digest, and whether salt follows it. {SHA} is what htpasswd -s writes and Envoy reads.
_SCHEMES: Final = {
    "{SHA}": ("sha1", False),
    "{SSHA}": ("sha1", True),
    "{SHA256}": ("sha256", False),
    "{SSHA256}": ("sha256", True),
}


@dataclass(frozen=True, slots=True)
class Password:
    """A hashed password."""

    digest: str
    salt: bytes = field(repr=False)
    hashed: bytes = field(repr=False)

    def matches(self, password: bytes) -> bool:
        """Whether it is this one, in a time that does not depend on how alike they are."""
        return hmac.compare_digest(hashlib.new(self.digest, password + self.salt).digest(), self.hashed)


# Of a user that does not exist: asking for one takes as long as a wrong password.
NOBODY: Final = Password("sha256", b"", bytes(32))


def parse_users(data: bytes) -> dict[str, Password]:
    """The users of a file, one ``user:{SCHEME}hash`` a line; ValueError with a sentence that repeats no contents."""
    users: dict[str, Password] = {}
    for number, name, value in named_lines(data, "of the form user:{SHA}hash; write it with htpasswd -s"):
        scheme, brace, encoded = value.partition("}")
        known = _SCHEMES.get(scheme + brace)
        if known is None:
            raise ValueError(f"line {number}: the hash is of no known kind; use one of {', '.join(_SCHEMES)}")
        digest, salted = known
        size = hashlib.new(digest).digest_size
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) < size or (len(raw) > size) is not salted:
            raise ValueError(f"line {number}: the hash does not have the length of its kind")
        users[name] = Password(digest, raw[size:], raw[:size])
    return users


@dataclass(frozen=True, slots=True)
class BasicFilter:
    """Lets pass who gives the right password."""

    name: str
    users: Callable[[], Mapping[str, Password]]
    challenge: bytes
    user_header: bytes | None  # where the app is told the user; what a client writes there is dropped
    forward: bool  # the credentials as well

    def request(self, exchange: Exchange) -> LocalReply | None:
        headers = exchange.request.headers
        if self.user_header is not None:
            remove(headers, self.user_header.lower())
        given = get_all(headers, b"authorization")
        if not given:
            return self._refused("user and password are missing", "missing")
        user = self._known(given[0]) if len(given) == 1 else None
        if user is None:
            return self._refused("user or password is wrong", "wrong")
        exchange.principal = user
        if not self.forward:
            remove(headers, b"authorization")
        if self.user_header is not None:
            put(headers, self.user_header, user.encode())
        return None

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """What passed is left as it is."""

    def _known(self, value: bytes) -> str | None:
        scheme, _, encoded = value.partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            user, separator, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
            name = user.decode()
        except ValueError:  # of base64 and of UTF-8 alike
            return None
        known = self.users().get(name)
        right = (known or NOBODY).matches(password)
        return name if right and separator and known is not None else None

    def _refused(self, reason: str, word: str) -> LocalReply:
        return refused(reason, f"basic_auth_access_denied{{{self.name},{word}}}", self.challenge)
