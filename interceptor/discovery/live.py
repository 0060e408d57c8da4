"""The configuration while the proxy runs: files are watched, pushes come in, and what is accepted is put into force.

One change is judged at a time, whole, by a process beside this one; a refused one changes nothing but what is told.
Files are the base. Pushed documents are a set of their own, which each push replaces or patches as a whole; one of the
same kind, namespace and name as a file's takes that one's place, and a pushed Sidecar that of the Sidecar. Documents
that a control plane supplies are a third set.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from interceptor.config.configuration import assembling, taken_apart
from interceptor.config.restart import restart_needed
from interceptor.discovery import pushed
from interceptor.discovery.asking import Change, Judge, UnjudgedError
from interceptor.discovery.conversation import Held, spliced
from interceptor.discovery.keys import HAS_KEYS, Keys, Places, places
from interceptor.discovery.paths import look
from interceptor.discovery.verdict import Judged, by_place, placing, remembered
from interceptor.errors import ConfigError
from interceptor.model.work import STEP, Work, steps
from interceptor.state.aside import in_turns, uncollected
from interceptor.watching import Watch, quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from interceptor.config.configuration import Configuration
    from interceptor.discovery.verdict import Placed, Seen, Start, Verdict

    Adopt = Callable[[Configuration], Awaitable[str]]  # puts it into force; the version then

MOST_LOGGED: Final = 100  # problems of one change

_log: Final = logging.getLogger(__name__)


class RefusedError(Exception):
    """A push was refused: every problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = tuple(problems)


class StaleError(Exception):
    """A push was made of other documents than those that are pushed now."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The last change, where it was refused."""

    source: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"the configuration from {self.source} was rejected, and the one before stays in force: {self.problems[0]}{more}"


@dataclass(frozen=True, slots=True)
class _Base:
    """What was accepted last."""

    number: int  # of the verdict; 0: of what the proxy was started with
    held: Held
    placed: tuple[Placed, ...]  # in the order of its places
    etag: str
    keys: Places  # of RequestAuthentications, where they stand elsewhere

    def seen(self) -> dict[bytes, Seen]:
        """What need not be judged again."""
        where = zip(self.held.order, self.placed, strict=True)
        return remembered(self.held.order, ((place.digest, place.line, each) for place, each in where))


class Live:
    """Judges changes and puts accepted ones into force."""

    def __init__(
        self,
        start: Start,
        started: Configuration,  # what it composes
        adopt: Adopt,
        *,
        outcome: Callable[[bool], None],  # whether a change was accepted
    ) -> None:
        held = Held(start.verdict.files or (), order=start.verdict.order)
        placed = taken_apart(started)
        self._base = _Base(0, held, placed, pushed.etag({}), places(placed))
        self._paths, self._stdin = start.paths, start.stdin
        self._sidecar = started.sidecar
        # What files of keys looked like when they were read nobody knows: where there are any, they are read again.
        self._looks: object = (start.looks, None if self._base.keys.files else ())
        self._adopt = adopt
        self._outcome = outcome
        self._changing = trio.Lock()
        self._due = Watch(lambda: (*self._paths, *self._base.keys.files))
        self._judge = Judge()
        self._rejected: dict[str, Rejected] = {}  # by source, until that has something better

    @property
    def rejected(self) -> Rejected | None:
        """What was refused last from a source that had nothing better since; that of the files first."""
        return self._rejected.get("the files") or next(iter(self._rejected.values()), None)

    @property
    def etag(self) -> str:
        """Of the pushed documents."""
        return self._base.etag

    @property
    def pushed(self) -> Mapping[str, str]:
        """The pushed documents, by key, as JSON."""
        return self._base.held.pushed

    def dump(self) -> dict[str, object]:
        """For ``/config_dump``."""
        rejected = None if self.rejected is None else {
            "source": self.rejected.source, "problems": list(self.rejected.problems)
        }  # fmt: skip
        return {"pushed": sorted(self.pushed), "etag": self.etag, "rejected": rejected}

    def hurry(self) -> None:
        """Have the files read again at once, changed or not."""
        self._looks = None
        self._due.ring()

    async def watch(self) -> None:
        """Take changes of the files, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._due.listen)
            nursery.start_soon(Keys(lambda: self._base.keys.urls, self._take_keys).run)
            try:
                await self._follow()
            finally:
                await self._judge.end()

    async def _follow(self) -> None:
        while True:
            await self._due.wait()
            if self._look() != self._looks and await quiet(self._look):
                await self.reload()
            if not self._changing.locked():
                await self._judge.rest()

    async def reload(self) -> None:
        """Read the files again, and put into force what they say."""
        async with self._changing:
            self._looks = self._look()
            try:
                version = await self._change("the files", Change(self._paths, self._stdin))
            except RefusedError:
                return
            _log.info("configuration %s from the files is in force", version)

    async def push(self, content_type: str, body: bytes, expected: str | None) -> tuple[str, str]:
        """Put pushed documents into force; the version and their ETag. Raises RefusedError and StaleError."""
        async with self._changing:
            if expected not in (None, "*", self.etag):
                raise StaleError
            version = await self._change("a push", Change(push=(content_type, body)))
            _log.info(
                "configuration %s from a push is in force: %d documents are pushed", version, len(self.pushed)
            )
            return version, self.etag

    async def supply(self, documents: Mapping[str, str]) -> tuple[str, ...]:
        """Put the control plane's documents into force, in place of those before; every problem where they are refused."""
        async with self._changing:
            try:
                version = await self._change("the control plane", Change(supplied=dict(documents)))
            except RefusedError as error:
                return error.problems
            _log.info(
                "configuration %s from the control plane is in force: %d documents", version, len(documents)
            )
            return ()

    async def _take_keys(self, url: str, text: str) -> tuple[str, ...]:
        """Put a key set that was fetched into force; every problem where it is refused. Whoever fetched it says so."""
        async with self._changing:
            try:
                made = await self._judged(Change(keys={**self._base.held.keys, url: text}))
                await self._put_into_force(made)
            except RefusedError as error:
                return error.problems
            except (ConfigError, OSError) as error:
                return (str(error),)
            self._base = made
            return ()

    def _look(self) -> object:
        return look(self._paths), look(self._base.keys.files)

    async def _change(self, source: str, change: Change) -> str:
        """Have something judged and adopted; the new version. Raises RefusedError, and says why once."""
        try:
            with uncollected(len(self._base.placed)):
                base = await self._judged(change)
                version = await self._put_into_force(base)
        except RefusedError as error:
            self._refuse(Rejected(source, error.problems))
            raise
        except (ConfigError, ImportError, OSError) as error:
            rejected = Rejected(source, (f"it cannot be put into force: {error}",))
            self._refuse(rejected)
            raise RefusedError(rejected.problems) from error
        self._base = base
        self._rejected.pop(source, None)
        self._outcome(True)  # noqa: FBT003
        return version

    async def _put_into_force(self, base: _Base) -> str:
        made = await in_turns(assembling(base.placed))
        if problems := restart_needed(self._sidecar, made):
            raise RefusedError(problems)
        return await self._adopt(made)

    def _refuse(self, rejected: Rejected) -> None:
        self._outcome(False)  # noqa: FBT003
        if rejected != self._rejected.get(rejected.source):
            _log.error("%s", rejected)
            for problem in rejected.problems[1:MOST_LOGGED]:
                _log.error("%s", problem)
            if len(rejected.problems) > MOST_LOGGED:
                _log.error(
                    "and %d problems more; /config_dump has them", len(rejected.problems) - MOST_LOGGED
                )
        self._rejected[rejected.source] = rejected

    async def _judged(self, change: Change) -> _Base:
        base, held = self._base, self._base.held
        try:
            number, verdict, judged = await self._judge.ask(change, held, base.number, base.seen)
        except UnjudgedError as error:
            raise RefusedError((str(error),)) from error
        if verdict.problems:
            raise RefusedError(verdict.problems)
        placed = await in_turns(_placing(base, verdict, judged))
        at = places((each.status, each.document) for each in judged)  # which are judged each time
        made = Held(
            held.files if verdict.files is None else verdict.files,
            held.pushed if verdict.pushed is None else verdict.pushed,
            held.supplied if change.supplied is None else change.supplied,
            *(verdict.written, verdict.order),
            {url: text for url, text in (change.keys or held.keys).items() if url in at.urls},
        )
        return _Base(number, made, placed, base.etag if verdict.pushed is None else verdict.etag, at)


def _placing(base: _Base, verdict: Verdict, judged: Sequence[Judged]) -> Work[tuple[Placed, ...]]:
    """The documents in the order of a verdict: those between the ends that are as they were may be new, or elsewhere."""
    first, last = verdict.kept
    middle = verdict.order[first : len(verdict.order) - last]
    found = by_place(judged)
    if any((place.digest, place.line) not in found for place in middle):
        where = tuple(zip(base.held.order, base.placed, strict=True))
        for some in steps(where, 10 * STEP):
            yield
            for place, (status, document) in some:
                found.setdefault((place.digest, place.line), Judged(*place[:2], status, document))
    placed = yield from placing(found, middle)
    made = spliced(base.placed, verdict.kept, placed)
    again = {(each.digest, each.line): each.document for each in judged if each.status.kind == HAS_KEYS}
    if not again:
        return made
    renewed: list[Placed] = []  # their text may be as it was, and the keys that stand elsewhere not
    for some in steps(tuple(zip(verdict.order, made, strict=True)), 10 * STEP):
        yield
        for place, (status, document) in some:
            renewed.append((status, again.get((place.digest, place.line), document)))
    return tuple(renewed)
