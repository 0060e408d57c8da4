"""The trust store that ``interceptor run`` gives to its app: the authorities it had, and the mesh's beside them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Where Debian, Fedora and Alpine keep the public authorities.
SYSTEM: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
# What OpenSSL, requests, curl, git, Amazon's tools, pip, httplib2, gRPC and Nix's OpenSSL read instead of the system's.
INSTEAD: Final = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"),
    *("PIP_CERT", "HTTPLIB2_CA_CERTS", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NIX_SSL_CERT_FILE"),
)
BESIDE: Final = "NODE_EXTRA_CA_CERTS"  # Node.js adds it to its own


@contextlib.contextmanager
def given(
    bundle: str | None, environment: Mapping[str, str], system: Sequence[str] = SYSTEM
) -> Iterator[dict[str, str]]:
    """Variables for the app, valid as long as the block lasts; none without a trust bundle.

    A variable that is set already names what the app trusts, to which ours is added.
    """
    if bundle is None:
        yield {}
        return
    ours = _read(bundle)
    with tempfile.TemporaryDirectory(prefix="interceptor-trust-") as directory:
        Path(directory).chmod(0o755)  # the app is another user
        variables = {}
        for name in (*INSTEAD, BESIDE):
            base = environment.get(name) or (None if name == BESIDE else _first(system))
            made = Path(directory) / f"{name.lower()}.pem"
            made.write_bytes((b"" if base is None else _read(base) + b"\n") + ours)
            made.chmod(0o644)
            variables[name] = str(made)
        yield variables


def _first(paths: Sequence[str]) -> str | None:
    return next((path for path in paths if Path(path).is_file()), None)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the trust bundle cannot be read ({error.strerror})") from error
