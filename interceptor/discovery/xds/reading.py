"""PURE. Reads Envoy's messages in their JSON form: what a field holds, and which fields nobody reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from interceptor.config.addresses import host_name, is_ip_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.messages import Body

ISTIO: Final = re.compile(
    r"outbound\|(\d{1,5})\|([^|]*)\|([^|]+)"
)  # Istio's cluster names: port, subset, host
UNLIMITED: Final = 2**32 - 1  # what Istio writes for "no bound"
_LONGEST_HOST: Final = 253
_SHARES: Final = {"HUNDRED": 1.0, "TEN_THOUSAND": 100.0, "MILLION": 10_000.0}


def unknown(body: Body, honoured: frozenset[str], path: str) -> Iterator[str]:
    """Every field that is not honoured."""
    for field in sorted(body.keys() - honoured):
        yield f"{path}{field}: is not honoured by this version"


def mapping(body: Body, field: str) -> Body:
    """A message in a field; an empty one where there is none."""
    value = body.get(field)
    return value if isinstance(value, Mapping) else {}


def mappings(body: Body, field: str) -> list[Body]:
    """The messages of a repeated field."""
    return [each if isinstance(each, Mapping) else {} for each in _items(body, field)]


def texts(body: Body, field: str) -> list[str]:
    """The texts of a repeated field."""
    return [str(each) for each in _items(body, field)]


def _items(body: Body, field: str) -> Sequence[object]:
    value = body.get(field)
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def number(body: Body, field: str, default: int) -> int:
    """A whole number, which JSON has as text where it may be large."""
    value = body.get(field, default)
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else default


def decimal(body: Body, field: str, default: float) -> float:
    """A number with a fraction."""
    value = body.get(field, default)
    return float(value) if isinstance(value, int | float) else default


def share(body: Body, field: str) -> float:
    """A FractionalPercent in per cent, 100 at most; 0 where there is none."""
    given = mapping(body, field)
    whole = _SHARES.get(str(given.get("denominator", "HUNDRED")), 1.0)
    return min(number(given, "numerator", 0) / whole, 100.0)


def seconds(body: Body, field: str) -> float | None:
    """A duration; None where there is none."""
    value = str(body.get(field, "")).removesuffix("s")
    try:
        return float(value)
    except ValueError:
        return None


def hashed(text: str) -> str:
    """Eight characters that tell a text from others."""
    return sha256(text.encode()).hexdigest()[:8]


def slug(text: str) -> str:
    """A text as a part of a document's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-")


def document_name(resource: str, told: str) -> str:
    """The name of the document that a resource becomes; ``told`` tells it from others of the same resource."""
    return f"{slug(resource)}-{sha256(f'{resource} {told}'.encode()).hexdigest()[:12]}"


def host_of(cluster: str) -> str:
    """The host that a cluster is known by: Istio's, its name where that is one, else one made of it."""
    istio = ISTIO.fullmatch(cluster)
    name = istio[3] if istio else cluster
    try:
        if not is_ip_address(name):
            return host_name(name)
    except ValueError:
        pass
    return f"{slug(name) or 'cluster'}-{hashed(name)}"


def alias_of(cluster: str) -> str:
    """A host that means this cluster and no other one, and that no app would ask for."""
    istio = ISTIO.fullmatch(cluster)
    label = f"_{istio[1]}" + (f"-{slug(istio[2])}" if istio[2] else "") if istio else "_cluster"
    made = f"{label}.{host_of(cluster).removeprefix('*.')}"
    return made if len(made) <= _LONGEST_HOST else f"_cluster.{hashed(cluster)}"
