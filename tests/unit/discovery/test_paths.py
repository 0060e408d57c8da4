from __future__ import annotations

import os
from pathlib import Path

import pytest

from interceptor.discovery.paths import MAX_FILES, expand, look


def test_a_directory_is_its_files_of_documents_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    assert [Path(each).name for each in expand(str(tmp_path))] == ["a.yml", "b.yaml", "c.json"]


def test_anything_else_is_itself() -> None:
    assert expand("-") == ["-"]
    assert expand("/does/not/exist") == ["/does/not/exist"]


def test_a_directory_without_documents_or_with_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no file"):
        expand(str(tmp_path))
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.yaml").touch()
    with pytest.raises(ValueError, match="more than 1000 files"):
        expand(str(tmp_path))


def test_a_write_a_new_file_a_vanished_one_and_a_swapped_link_are_seen(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text("a")
    (tmp_path / "..data").symlink_to("v1")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "a.yaml").symlink_to("../..data/a.yaml")
    paths = [str(mounted), "-"]
    seen = [look(paths)]
    assert look(paths) == seen[0]
    (tmp_path / "new").symlink_to("v2")
    os.replace(tmp_path / "new", tmp_path / "..data")  # noqa: PTH105 (the system call that Kubernetes uses)
    seen.append(look(paths))
    (mounted / "b.yaml").touch()
    seen.append(look(paths))
    (tmp_path / "v2" / "a.yaml").write_text("longer")
    seen.append(look(paths))
    (mounted / "b.yaml").unlink()
    (mounted / "a.yaml").unlink()
    seen.append(look(paths))
    assert len(set(map(repr, seen))) == len(seen)
