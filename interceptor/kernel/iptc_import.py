"""Imports python-iptables in a tenth of the time that it takes by itself.

To find its libraries it asks ctypes, which runs ldconfig, the compiler and the linker for each, and then ldconfig again
for the directory of the extensions. The dynamic loader knows all of them by name. What is not found so is looked for
in python-iptables' own way, so that nothing that worked before stops working.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# The newest first; python-iptables 1.2 knows libxtables up to 12. libip4tc and libip6tc are .so.0 before iptables 1.8.4.
_SONAMES: Final = {
    "c": ("libc.so.6",),
    "xtables": ("libxtables.so.12", "libxtables.so.11", "libxtables.so.10"),
    "ip4tc": ("libip4tc.so.2", "libip4tc.so.0"),
    "ip6tc": ("libip6tc.so.2", "libip6tc.so.0"),
}
_OWN: Final = "xtwrapper"  # lies beside python-iptables, where it looks next
_EXTENSIONS: Final = "XTABLES_LIBDIR"
_slowly: Final = ctypes.util.find_library


def import_iptc() -> ModuleType:
    """The module. Raises what ctypes makes of a missing or foreign library."""
    if sys.modules.get("iptc") is None:
        with _shortcuts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its regular expressions, when it is compiled
            importlib.import_module("iptc")
    return sys.modules["iptc"]


@contextlib.contextmanager
def _shortcuts() -> Iterator[None]:
    """While python-iptables is imported: nothing of this is left when it is."""
    modules: dict[str, Any] = sys.modules
    hidden = "distutils" not in modules
    told = _EXTENSIONS not in os.environ and (directory := extensions())
    ctypes.util.find_library = find
    if hidden:
        # It would be setuptools', a fifth of a second, for a directory that it finds without as well.
        modules["distutils"] = None
    if told:
        os.environ[_EXTENSIONS] = directory
    try:
        yield
    finally:
        ctypes.util.find_library = _slowly
        if hidden:
            modules.pop("distutils", None)
        if told:
            os.environ.pop(_EXTENSIONS, None)


def find(name: str) -> str | None:
    """What ctypes.util.find_library finds, by asking the loader first."""
    for soname in _SONAMES.get(name, ()):
        with contextlib.suppress(OSError):
            ctypes.CDLL(soname)
            return soname
    return None if _OWN in name else _slowly(name)


def extensions() -> str:
    """The directory of iptables' extensions, which is beside its library; empty when it is elsewhere."""
    if find("xtables") is None:
        return ""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    loaded = re.search(r"(/\S+)/libxtables\.so\.\S*$", maps, re.MULTILINE)
    directory = Path(loaded[1], "xtables") if loaded else None
    return str(directory) if directory and directory.is_dir() else ""
