from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from interceptor.middleware.files import LARGEST, LOOK, WatchedFile


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def parse(data: bytes) -> str:
    if data == b"bad":
        raise ValueError("this is bad")
    return data.decode()


def test_it_is_read_again_when_it_has_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path, clock = tmp_path / "keys", Clock()
    path.write_bytes(b"one")
    watched = WatchedFile(str(path), parse, clock)
    path.write_bytes(b"three")
    assert watched.current == "one"  # not looked at in the same second
    clock.now += LOOK
    assert watched.current == "three"
    assert "has changed and was read again" in caplog.text


def test_a_swapped_symlink_is_a_change(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    link, clock = tmp_path / "current", Clock()
    link.symlink_to("a")
    watched = WatchedFile(str(link), parse, clock)
    (tmp_path / "next").symlink_to("b")
    (tmp_path / "next").rename(link)
    clock.now += LOOK
    assert watched.current == "b"


def test_what_was_good_stays_and_is_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_bytes(b"good")
    watched = WatchedFile(str(path), parse, clock)
    path.write_bytes(b"bad")
    for _ in range(2):
        clock.now += LOOK
        assert watched.current == "good"
    path.unlink()
    clock.now += LOOK
    assert watched.current == "good"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "this is bad" in caplog.text
    path.write_bytes(b"better")
    clock.now += LOOK
    assert watched.current == "better"


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    reads: list[bytes] = []
    path.write_bytes(b"one")
    watched = WatchedFile(str(path), reads.append, clock)
    clock.now += LOOK
    _ = watched.current
    assert reads == [b"one"]


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(LARGEST + 1))
    for name, found in (
        ("none", "cannot be read \\(No such file"),
        ("fifo", "not a regular file"),
        (".", "cannot be read|not a regular file"),
        ("large", "larger than 1 MiB"),
        ("a\0b", "is not the path of a file"),
    ):
        with pytest.raises(ValueError, match=found):
            WatchedFile(str(tmp_path) + "/" + name, parse, Clock())


def test_a_read_that_fails_is_said_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        WatchedFile("/proc/self/mem", parse, Clock())
