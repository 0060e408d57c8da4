"""Certificates and keys that a control plane gives: in memory only, by the names ``sds://NAME/tls.crt`` and its like.

To whoever loads certificates they are files that are somewhere else: judged by the same rules, replaced as those are, and
as absent as a file can be. What is absent is nobody's: whoever needs it is refused until it comes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.errors import ConfigError
from interceptor.model.identity import SECRETS, CertificateFiles
from interceptor.tls import certificates
from interceptor.tls.certificates import Material
from interceptor.tls.judgement import Refusal
from interceptor.tls.rotation import Files
from interceptor.watching import signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.watching import Signature

_ABSENT: Final = "absent"
_NOBODY: Final = Material(bundle_pem=b"")  # it believes nobody


class Secrets:
    """What there is now, and how often each of it was replaced."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}
        self._version = 0
        self.pass_on: Callable[[Mapping[str, bytes]], None] | None = (
            None  # to those who serve beside this process
        )

    @property
    def files(self) -> Mapping[str, bytes]:
        """What there is."""
        return self._files

    def replace(self, files: Mapping[str, bytes]) -> None:
        """All there is from now on."""
        self._version += 1
        for path, data in files.items():
            if self._files.get(path) != data:
                self._versions[path] = self._version
        self._files = dict(files)

    def signature(self, path: str) -> tuple[int, int, int, int] | None:
        """As of a file."""
        if not path.startswith(SECRETS):
            return signature(path)
        return (0, 0, 0, self._versions[path]) if path in self._files else None

    def read(self, path: str, *, private: bool = False) -> bytes:
        """The bytes of a secret, or of a file. Raises ConfigError."""
        if not path.startswith(SECRETS):
            return certificates.read_file(path, private=private)
        if path not in self._files:
            raise ConfigError(f"{path}: the control plane has not given it")
        return self._files[path]

    def missing(self, files: CertificateFiles) -> str | None:
        """One that is not there."""
        named = (path for path in files.paths() if path.startswith(SECRETS))
        return next((path for path in named if path not in self._files), None)


@dataclass(frozen=True, slots=True)
class GivenFiles(Files):
    """Certificates of which some are secrets."""

    secrets: Secrets

    def signature(self) -> Signature:
        """What they look like from outside."""
        return tuple(map(self.secrets.signature, self.files.paths()))

    def load(self, now: float, trust_domain: str | None) -> Material:
        """Read and judge them; nothing where one is missing, which ``refusal`` says."""
        if self.secrets.missing(self.files) is not None:
            return _NOBODY
        return certificates.load(self.files, now=now, trust_domain=trust_domain, read=self.secrets.read)

    def refusal(self) -> Refusal | None:
        """Why nobody can be spoken to by these."""
        missing = self.secrets.missing(self.files)
        return None if missing is None else Refusal(_ABSENT, f"the control plane has not given {missing}")


def check(files: Mapping[str, bytes], trust_domain: str | None) -> str | None:
    """What is wrong with the parts of a secret, judged as the files they stand for."""
    parts = {path.rpartition("/")[2]: path for path in files}
    named = CertificateFiles(parts.get("tls.crt"), parts.get("tls.key"), parts.get("ca.crt"))

    given = Secrets()
    given.replace(files)
    try:
        certificates.load(named, now=time.time(), trust_domain=trust_domain, read=given.read)  # noqa: TID251 (certificates live by the wall clock)
    except ConfigError as error:
        return str(error)
    return None
