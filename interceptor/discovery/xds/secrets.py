"""PURE. Secrets of SDS and of TLS contexts, as files that exist in memory only: ``sds://NAME/tls.crt`` and its like.

What is wrong with a secret is said without any of its bytes.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.discovery.xds.reading import mapping, unknown
from interceptor.model.identity import SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.discovery.xds.messages import Body

    # What is wrong with PEM: a chain with its key, or authorities without one.
    Check = Callable[[str, Mapping[str, bytes]], str | None]

CHAIN: Final = "tls.crt"
KEY: Final = "tls.key"
BUNDLE: Final = "ca.crt"
_SOURCES: Final = ("filename", "inline_bytes", "inline_string")


class Given(NamedTuple):
    """A part of a secret: the file that it is in, and its bytes where they came with the message."""

    path: str
    data: bytes | None


def path_of(name: str, part: str) -> str:
    """Where a part of a secret is."""
    return f"{SECRETS}{name}/{part}"


def inline_name(body: Body) -> str:
    """A name for what has none: it changes with the certificates, and says nothing of a key."""
    return f"inline-{sha256(repr(sorted(body.items())).encode()).hexdigest()[:16]}"


def part(body: Body, field: str, where: str, said: list[str], *, at: str) -> Given:
    """A DataSource."""
    source = mapping(body, field)
    path = f"{where}{field}"
    said += unknown(source, frozenset(_SOURCES), f"{path}.")
    given = [name for name in _SOURCES if source.get(name)]
    if len(given) != 1:
        said.append(f"{path}: needs one of {', '.join(_SOURCES)}")
        return Given(at, b"")
    [kind] = given
    value = str(source[kind])
    if kind == "filename":
        return Given(value, None)
    if kind == "inline_string":
        return Given(at, value.encode())
    try:
        return Given(at, base64.b64decode(value, validate=True))
    except binascii.Error:
        said.append(f"{path}.inline_bytes: are no bytes")
        return Given(at, b"")


def pair(body: Body, name: str, where: str, said: list[str]) -> tuple[Given, Given]:
    """A TlsCertificate: its chain and its key."""
    said += unknown(body, frozenset({"certificate_chain", "private_key"}), where)
    chain = part(body, "certificate_chain", where, said, at=path_of(name, CHAIN))
    return chain, part(body, "private_key", where, said, at=path_of(name, KEY))


def bundle(body: Body, name: str, where: str, said: list[str]) -> Given:
    """The authorities of a CertificateValidationContext."""
    return part(body, "trusted_ca", where, said, at=path_of(name, BUNDLE))


def read(name: str, body: Body) -> tuple[list[Given], list[str]]:
    """What a Secret holds, and what of it is not honoured."""
    said = list(unknown(body, frozenset({"name", "tls_certificate", "validation_context"}), ""))
    kinds = [kind for kind in ("tls_certificate", "validation_context") if kind in body]
    if len(kinds) != 1:
        said.append("needs one of tls_certificate and validation_context")
        return [], said
    inside = mapping(body, kinds[0])
    if kinds == ["tls_certificate"]:
        found = list(pair(inside, name, "tls_certificate.", said))
    else:
        said += unknown(inside, frozenset({"trusted_ca"}), "validation_context.")
        found = [bundle(inside, name, "validation_context.", said)]
    for index, each in enumerate(found):
        if each.data is None:
            where = ("tls_certificate.certificate_chain", "tls_certificate.private_key")[index]
            where = "validation_context.trusted_ca" if kinds == ["validation_context"] else where
            said.append(f"{where}.filename: is not honoured in a secret; send the bytes")
    return found, said


def judge(name: str, body: Body, check: Check) -> list[str]:
    """What of a Secret is not honoured, or cannot be used."""
    found, said = read(name, body)
    if not said and (wrong := check(name, files(found))) is not None:
        said.append(wrong)
    return said


def files(given: list[Given]) -> dict[str, bytes]:
    """Parts by where they are."""
    return {each.path: each.data for each in given if each.data is not None}
