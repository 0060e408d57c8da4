"""Changes of the configuration, judged by the real process beside: bad input, races, a judge that dies."""

from __future__ import annotations

import errno
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import inotify_simple
import pytest
import trio
import trio.testing

import interceptor
from interceptor import watching as looks
from interceptor.config.configuration import Configuration
from interceptor.discovery import live
from interceptor.discovery.asking import Change, Judge, UnjudgedError
from interceptor.discovery.conversation import Held
from interceptor.discovery.judge import LONGEST, start
from interceptor.discovery.live import Live, RefusedError, StaleError
from interceptor.discovery.verdict import by_place, composed
from interceptor.state.snapshot import take
from tests.support.documents import SIDECAR, service_entry_text
from tests.support.until import until

YAML = "application/yaml"


def entry(name: str, address: str = "192.0.2.1") -> str:
    spec = f"{{hosts: [{name}.example], addresses: [{address}], ports: [{{number: 80, name: http}}]}}"
    return service_entry_text(spec, f"{{name: {name}}}")


class Bed:
    """A live configuration of one file, and what it put into force."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.adopted: list[Configuration] = []
        self.outcomes: list[bool] = []
        begun = start((str(file),))
        started = composed(by_place(begun.documents), begun.verdict.order)
        self.live = Live(begun, started, self.adopt, outcome=self.outcomes.append)

    async def adopt(self, configuration: Configuration) -> str:
        self.adopted.append(configuration)
        return take(configuration).version

    def names(self) -> list[str]:
        return [each.metadata.name for each in self.adopted[-1].service_entries]


@asynccontextmanager
async def watching(file: Path) -> AsyncIterator[Bed]:
    bed = Bed(file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.live.watch)
        yield bed
        nursery.cancel_scope.cancel()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "f.yaml"
    made.write_text(SIDECAR)
    return made


def laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines)


async def test_hostile_documents_are_refused_and_the_next_good_one_is_taken(file: Path) -> None:
    hostile = [
        laughs(),
        "a: &a [*a]",
        "[" * 5000,
        "kind: [1, 2]",
        "x" * (2 << 20),
        "\0",
        "%TAG ! x",
        "--- !!python/object:os.system",
    ]
    async with watching(file) as bed:
        for text in hostile:
            with pytest.raises(RefusedError) as refused:
                await bed.live.push(YAML, text.encode(), None)
            assert refused.value.problems[0].startswith("push"), text[:20]
        assert bed.adopted == []
        assert bed.outcomes == [False] * len(hostile)
        assert bed.live.rejected is not None
        await bed.live.push(YAML, entry("a").encode(), None)
        assert bed.names() == ["a"]
        assert bed.live.rejected is None


async def test_thousands_of_problems_and_of_characters_are_answered_and_told_in_few_words(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "---\nkind: X\n" * 200 + "---\n" + entry("a").replace("a.example", "a" * 100_000)
    async with watching(file) as bed:
        with pytest.raises(RefusedError) as refused:
            await bed.live.push(YAML, text.encode(), None)
        assert len(refused.value.problems) == 401
        assert max(map(len, refused.value.problems)) == LONGEST
        assert len(caplog.records) == live.MOST_LOGGED + 1
        assert caplog.records[-1].getMessage() == "and 301 problems more; /config_dump has them"


async def test_of_two_pushes_made_of_one_version_one_is_stale(file: Path) -> None:
    async with watching(file) as bed:
        etag = bed.live.etag
        ended: list[str] = []

        async def push(name: str) -> None:
            try:
                await bed.live.push(YAML, entry(name).encode(), etag)
                ended.append("taken")
            except StaleError:
                ended.append("stale")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, "a")
            nursery.start_soon(push, "b")
        assert ended == ["taken", "stale"]
        assert len(bed.adopted) == 1


async def test_a_file_that_is_broken_vanishes_and_comes_back_keeps_the_last_good_one_and_lets_pushes_in(
    file: Path,
) -> None:
    async with watching(file) as bed:
        await trio.Path(file).write_text(SIDECAR[:-3])  # as in the middle of a write
        await until(lambda: bed.outcomes == [False])
        await trio.Path(file).unlink()
        await until(lambda: bed.outcomes == [False] * 2)
        await bed.live.push(YAML, entry("pushed").encode(), None)
        assert bed.names() == ["pushed"]
        assert bed.live.rejected is not None, "the files are still wrong"
        await trio.Path(file).write_text(SIDECAR + "---\n" + entry("own"))
        await until(lambda: bed.outcomes == [False, False, True, True])
        assert sorted(bed.names()) == ["own", "pushed"]
        assert bed.live.dump()["pushed"] == ["ServiceEntry/default/pushed"]


def full(**_: object) -> None:
    """No more of what the kernel tells of changes by."""
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("by", ["the kernel's word", "a look"])
async def test_a_swap_of_kubernetes_data_link_is_seen_and_a_signal_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "a look":
        monkeypatch.setattr(inotify_simple, "INotify", full)
    else:
        monkeypatch.setattr(looks, "LOOK", 3600.0)
    for version in ("one", "two"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "f.yaml").write_text(f"{SIDECAR}---\n{entry(version)}")
    link, file = tmp_path / "..data", tmp_path / "f.yaml"
    link.symlink_to("..one")
    file.symlink_to("..data/f.yaml")
    async with watching(tmp_path) as bed:
        await trio.testing.wait_all_tasks_blocked()
        fresh = tmp_path / "..fresh"
        fresh.symlink_to("..two")
        fresh.rename(link)
        await until(lambda: bed.outcomes == [True])
        assert bed.names() == ["two"]
        monkeypatch.setattr(looks, "LOOK", 3600.0)
        bed.live.hurry()
        await until(lambda: bed.outcomes == [True] * 2)  # once more by what was being waited for
        bed.live.hurry()
        await until(lambda: bed.outcomes == [True] * 3)
        assert len(bed.adopted) == 3, "read again, changed or not"


async def test_what_needs_a_restart_is_refused_by_name(file: Path) -> None:
    async with watching(file) as bed:
        with pytest.raises(RefusedError, match=r"spec.workers: cannot change from 1 to 2"):
            await bed.live.push(YAML, f"{SIDECAR}spec: {{workers: 2}}\n".encode(), None)


async def test_a_judge_that_dies_is_told_and_replaced(file: Path) -> None:
    judge = Judge((sys.executable, "-c", "import sys; sys.stdin.buffer.read(1); sys.exit(3)"))
    with pytest.raises(UnjudgedError, match="ended with status 3"):
        await judge.ask(Change((str(file),)), Held(), 0, dict)
    judge = Judge()
    await judge.ask(Change((str(file),)), Held(), 0, dict)
    assert judge._process is not None
    judge._process.kill()
    await judge._process.wait()
    _, verdict, documents = await judge.ask(Change((str(file),)), Held(), 0, dict)
    assert (verdict.problems, len(documents)) == ((), 1)
    await judge.end()


async def test_changes_are_judged_wherever_the_program_was_started(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable installation is not in ``sys.path``, and its checkout not the directory that one is in."""
    root = str(Path(interceptor.__file__).parent.parent)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in {"", root}])
    monkeypatch.chdir(tmp_path)
    async with watching(file) as bed:
        await bed.live.push(YAML, entry("b").encode(), None)
        assert bed.names() == ["b"]
