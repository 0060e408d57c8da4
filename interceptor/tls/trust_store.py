"""The trust store that ``interceptor run`` gives to its app: the authorities it had, and the mesh's of the moment beside them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import ConfigError, KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Where Debian, Fedora and Alpine keep the public authorities.
SYSTEM: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
# What OpenSSL, requests, curl, git, Amazon's and Google's tools, pip, httplib2, gRPC, Nix's OpenSSL and cargo read instead
# of the system's.
INSTEAD: Final = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"),
    *(
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "PIP_CERT",
        "HTTPLIB2_CA_CERTS",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    ),
    *("NIX_SSL_CERT_FILE", "CARGO_HTTP_CAINFO"),
)
BESIDE: Final = "NODE_EXTRA_CA_CERTS"  # Node.js adds it to its own


class TrustStore:
    """Files that name whom a program believes: whom it did before, and the mesh's authorities of the moment."""

    def __init__(
        self, directory: Path, environment: Mapping[str, str], system: Sequence[str] = SYSTEM
    ) -> None:
        """A variable that is set already names what the app trusts, to which ours is added. Raises ConfigError."""
        public = _first(system)
        bases = {name: environment.get(name) or public for name in INSTEAD}
        bases[BESIDE] = environment.get(BESIDE) or None
        files = {
            base: directory / f"{number}.pem" for number, base in enumerate(dict.fromkeys(bases.values()))
        }
        self._files = {path: b"" if base is None else _read(base) + b"\n" for base, path in files.items()}
        self.variables: Final = {name: str(files[base]) for name, base in bases.items()}
        self.believe(b"")

    def believe(self, bundle: bytes) -> None:
        """Name these authorities of the mesh from now on, in the place of those before; a reader finds one or the other.

        Raises KernelError.
        """
        try:
            for path, base in self._files.items():
                fresh = path.with_suffix(".new")
                fresh.write_bytes(base + bundle)
                fresh.chmod(0o644)
                fresh.replace(path)
        except OSError as error:
            raise KernelError(
                f"{error.filename}: the app's trust store cannot be written ({error.strerror})"
            ) from error


@contextlib.contextmanager
def kept(environment: Mapping[str, str], system: Sequence[str] = SYSTEM) -> Iterator[TrustStore]:
    """A store as long as the block lasts, which every user may read and only we may change. Raises ConfigError."""
    with tempfile.TemporaryDirectory(prefix="interceptor-trust-") as directory:
        Path(directory).chmod(0o755)  # the app is another user
        yield TrustStore(Path(directory), environment, system)


def _first(paths: Sequence[str]) -> str | None:
    return next((path for path in paths if Path(path).is_file()), None)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the authorities that the app believes cannot be read ({error.strerror}); "
            "name another file, or take the variable away"
        ) from error
