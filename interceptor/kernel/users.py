"""User and group names of this machine."""

from __future__ import annotations

import grp
import pwd
from typing import Final

from interceptor.config.redirect import Names


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        return None


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


NAMES: Final = Names(_uid, _gid)
