"""python-iptables or its libraries missing: a sentence with the remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import iptables


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    with pytest.raises(KernelError, match="'iptc' is missing; install it with 'pip install python-iptables'"):
        iptables.load()


def test_the_iptables_libraries_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What python-iptables does without libip4tc: it uses the None that it found."""
    tmp_path.joinpath("iptc.py").write_text("None.iptc_init\n")
    monkeypatch.delitem(sys.modules, "iptc", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KernelError, match=r"cannot find the iptables libraries.*apt install iptables"):
        iptables.load()
