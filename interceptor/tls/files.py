"""Writes certificates so that whoever reads them finds the old set or the new one, and never a mixture.

As Kubernetes mounts a secret: the files live in a directory of their own, ``..data`` is a link to it, and the names that
programs know lead through that link. One rename swaps all of them at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

CERTIFICATE: Final = "tls.crt"  # the names in a Kubernetes secret
KEY: Final = "tls.key"
BUNDLE: Final = "ca.crt"
_DATA: Final = "..data"


def write(directory: Path, files: Mapping[str, bytes], *, owner: int | None = None) -> None:
    """Replace a set of files as one; keys (``*.key``) are for their owner alone. ConfigError says why it cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, files, owner)
    except OSError as error:
        raise ConfigError(
            f"{directory}: cannot be written ({error.strerror}); name a directory of yours"
        ) from error


def _write(directory: Path, files: Mapping[str, bytes], owner: int | None) -> None:
    old = directory / _DATA
    before = Path(os.readlink(old)) if old.is_symlink() else None  # noqa: PTH115 (the name, not where it leads)
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))  # only for us: 0700
    try:
        for name, data in files.items():
            _create(fresh / name, data, owner)
        if owner is not None:
            os.chown(fresh, owner, -1)
        fresh.chmod(0o755)  # the key has its own mode
        link = directory / f"..link{fresh.name}"
        link.symlink_to(fresh.name)
        link.replace(old)
    except BaseException:
        shutil.rmtree(fresh)
        raise
    for name in files:
        _lead(directory / name, Path(_DATA) / name)
    if before is not None and before.name.startswith(".."):
        shutil.rmtree(directory / before.name, ignore_errors=True)


def _create(path: Path, data: bytes, owner: int | None) -> None:
    mode = 0o600 if path.suffix == ".key" else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 (of a descriptor)
        file.write(data)
        if owner is not None:
            os.fchown(descriptor, owner, -1)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)


def _lead(name: Path, target: Path) -> None:
    """Make a name lead to its file; a plain file in its place is replaced."""
    if name.is_symlink() and Path(os.readlink(name)) == target:  # noqa: PTH115 (see above)
        return
    link = name.with_name(f"..link{name.name}")
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(target)
    link.replace(name)
