"""python-iptables is found without running a compiler, and what it needs otherwise is left as it was."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interceptor.kernel import iptc_import

IMPORT = """
import ctypes.util, json, os, sys
started = []
sys.addaudithook(lambda event, given: started.append(str(given[0])) if event in WATCHED else None)
from interceptor.kernel.iptc_import import import_iptc
found, before = ctypes.util.find_library, dict(os.environ)
module = import_iptc()
assert import_iptc() is module
rule = module.Rule()
rule.protocol = "tcp"
rule.create_match("multiport").dports = "80,443"
print(json.dumps([sorted(set(started)), found is ctypes.util.find_library, before == dict(os.environ),
                  sorted({"distutils", "sysconfig", "iptc.easy"} & set(sys.modules))]))
""".replace("WATCHED", "{'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn'}")


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nowhere"], ids=["as it is", "without any program"])
def test_nothing_is_run_but_modprobe_and_nothing_is_left_behind(path: str) -> None:
    if iptc_import.find("ip4tc") is None:
        pytest.skip("needs the iptables libraries: apt install iptables")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, env={"PATH": path}
    )
    started, same_finder, same_environment, left = json.loads(done.stdout)
    assert [program for program in started if not program.endswith("modprobe")] == []
    assert (same_finder, same_environment, left) == (True, True, [])


def test_the_loader_is_asked_before_anything_is_run() -> None:
    assert iptc_import.find("c") == "libc.so.6"
    assert iptc_import.find("libxtwrapper.so") is None


def test_its_own_library_lies_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iptc_import.find("xtwrapper")
    assert found is not None
    assert Path(found).name.startswith("libxtwrapper.")
    monkeypatch.setattr(iptc_import, "_packages", lambda: "/nowhere")
    assert iptc_import.find("xtwrapper") is None  # python-iptables looks for it itself


def test_what_the_loader_does_not_know_is_looked_for_as_before() -> None:
    assert iptc_import.find("surely-nowhere") is None
    assert iptc_import.find("m") == ctypes.util.find_library("m")


def test_the_extensions_are_beside_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptc_import, "find", lambda _name: None)
    assert iptc_import.extensions() == ""
