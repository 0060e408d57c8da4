"""Imports python-iptables in a twentieth of the time that it takes by itself.

To find its libraries it asks ctypes, which runs ldconfig, the compiler and the linker for each, and then ldconfig again
for the directory of the extensions. The dynamic loader knows all of them by name. What is not found so is looked for
in python-iptables' own way, so that nothing that worked before stops working. Modules that it would load to run programs
are not loaded where none is to be run.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from interceptor.kernel import tables
from interceptor.redirect.rules import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

# The newest first; python-iptables 1.2 knows libxtables up to 12. libip4tc and libip6tc are .so.0 before iptables 1.8.4.
_SONAMES: Final = {
    "c": ("libc.so.6",),
    "xtables": ("libxtables.so.12", "libxtables.so.11", "libxtables.so.10"),
    "ip4tc": ("libip4tc.so.2", "libip4tc.so.0"),
    "ip6tc": ("libip6tc.so.2", "libip6tc.so.0"),
}
_OWN: Final = "xtwrapper"  # lies beside python-iptables, where it looks next
_EXTENSIONS: Final = "XTABLES_LIBDIR"
_EASY: Final = "iptc.easy"  # encodes rules, and drops what it does not know; for us it is not there
_UTIL: Final = "ctypes.util"  # loads archives, temporary files and processes for what is seldom asked


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
    directory = "" if _EXTENSIONS in os.environ else extensions()
    stand_ins: dict[str, Any] = {_UTIL: _stand_in(_UTIL, find_library=find), _EASY: _stand_in(_EASY)}
    if "sysconfig" not in sys.modules:
        # It would be asked for these two only, and load all that was known when Python was built.
        stand_ins["sysconfig"] = _stand_in(
            "sysconfig", get_config_var=lambda _: EXTENSION_SUFFIXES[0], get_path=lambda _: _packages()
        )
    if "distutils" not in sys.modules:
        # It would be setuptools', a fifth of a second, for a directory that it finds without as well.
        stand_ins["distutils"] = None
    if directory and all(map(tables.kernel_has_loaded, FAMILIES)) and "subprocess" not in sys.modules:
        stand_ins["subprocess"] = _stand_in(
            "subprocess", Popen=_no_need, PIPE=-1
        )  # for ldconfig and modprobe
    modules: dict[str, Any] = sys.modules
    before = {name: modules.get(name) for name in stand_ins}
    modules |= stand_ins
    vars(ctypes)["util"] = stand_ins[_UTIL]
    if directory:
        os.environ[_EXTENSIONS] = directory
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del modules[name]
            else:
                modules[name] = module
        vars(ctypes).pop("util")
        vars(ctypes).update({} if before[_UTIL] is None else {"util": before[_UTIL]})
        if directory:
            os.environ.pop(_EXTENSIONS, None)


def _stand_in(name: str, **attributes: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


def _no_need(*_args: object, **_options: object) -> None:
    """Python-iptables takes any failure of modprobe as the end of the attempt."""
    raise FileNotFoundError("the modules are loaded")


def _slowly(name: str) -> str | None:
    """In ctypes' own way, whatever stands in its place now."""
    here = sys.modules.pop(_UTIL, None)
    try:
        own = importlib.import_module(_UTIL)
    finally:
        if here is not None:
            sys.modules[_UTIL] = vars(ctypes)["util"] = here
    found: str | None = own.find_library(name)
    return found


def find(name: str) -> str | None:
    """What ctypes.util.find_library finds, by asking the loader first."""
    for soname in _SONAMES.get(name, ()):
        with contextlib.suppress(OSError):
            ctypes.CDLL(soname)
            return soname
    if _OWN in name:
        own = Path(_packages(), f"lib{_OWN}{EXTENSION_SUFFIXES[0]}")
        return str(own) if name == _OWN and own.exists() else None
    return _slowly(name)


def _packages() -> str:
    """The directory that python-iptables lies in."""
    found = PathFinder.find_spec("iptc")
    return str(Path(found.origin).parent.parent) if found and found.origin else ""


def extensions() -> str:
    """The directory of iptables' extensions, which is beside its library; empty when it is elsewhere."""
    if find("xtables") is None:
        return ""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    loaded = re.search(r"(/\S+)/libxtables\.so\.\S*$", maps, re.MULTILINE)
    directory = Path(loaded[1], "xtables") if loaded else None
    return str(directory) if directory and directory.is_dir() else ""
