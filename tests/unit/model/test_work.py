from __future__ import annotations

import gc
import weakref

from interceptor.model.work import Kept, Work, done, steps


class Thing:
    """Something that can be told from another of its kind."""


def counting(until: int) -> Work[str]:
    for _ in range(until):
        yield
    return "done"


def test_work_is_done_in_steps_or_all_at_once() -> None:
    assert done(counting(0)) == done(counting(3)) == "done"
    assert [list(some) for some in steps("abcde", 2)] == [["a", "b"], ["c", "d"], ["e"]]
    assert list(steps("")) == []


def test_what_was_made_of_a_document_is_kept_for_the_next_version_and_no_longer() -> None:
    one, other = Thing(), Thing()
    made: list[str] = []

    def make(word: str) -> str:
        made.append(word)
        return word

    first: Kept[Thing, str] = Kept()
    assert first.of(one, 1, lambda: make("one")) == "one"
    assert first.of(other, 1, lambda: make("other")) == "other"
    second = Kept(first)
    assert second.of(one, 1, lambda: make("again")) == "one"
    assert second.of(other, 2, lambda: make("depends")) == "depends"
    second.close()
    assert made == ["one", "other", "depends"]
    third = Kept(second)
    assert third.of(one, 1, lambda: make("never")) == "one"
    third.close()
    gone = weakref.ref(other)
    del other, first, second
    gc.collect()
    assert gone() is None, "nobody asked for it in the last version"
    assert made == ["one", "other", "depends"]
