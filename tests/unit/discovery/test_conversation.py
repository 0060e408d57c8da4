from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from interceptor.config.problems import Source
from interceptor.discovery.conversation import (
    SIZES,
    Answer,
    Delta,
    Held,
    Parts,
    Question,
    applied,
    difference,
    holding,
    kept,
    pieces,
    read_question,
    spliced,
    told,
    verdict_of,
)
from interceptor.discovery.judge import Session
from interceptor.discovery.pushed import etag
from interceptor.discovery.verdict import Place, Seen, Verdict
from tests.support.documents import SIDECAR, service_entry_text

WORDS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["x", "y"]))
PLACES = st.lists(st.integers(0, 3).map(lambda line: Place(b"", line, "f", 0)), max_size=6).map(tuple)


@given(WORDS, WORDS, st.randoms())
def test_a_difference_makes_the_one_of_the_other_in_its_order(
    before: dict[str, str], after: dict[str, str], random: object
) -> None:
    names = list(after)
    random.shuffle(names)  # type: ignore[attr-defined]  # it is one of hypothesis' own
    after = {name: after[name] for name in names}
    changed, rest = difference(before, after)
    assert list(applied(before, changed.items(), rest).items()) == list(after.items())
    assert changed.items() <= after.items()
    assert not changed.items() & before.items(), "what is the same is not told"


def test_where_nothing_changes_nothing_is_told() -> None:
    same = {"a": "x", "b": "y"}
    assert difference(same, dict(same)) == ({}, Delta())
    assert difference(same, {"a": "x", "b": "z"}) == ({"b": "z"}, Delta())


@given(PLACES, PLACES)
def test_places_are_told_but_for_both_ends(before: tuple[Place, ...], after: tuple[Place, ...]) -> None:
    first, last = kept(before, after)
    assert spliced(before, (first, last), after[first : len(after) - last]) == after
    if before == after:
        assert first == len(after)


def asked(question: Question, held: Held, seen: dict[bytes, Seen]) -> bytes:
    return b"".join(pieces((*told(held, seen), question)))


def test_a_question_arrives_whole_or_not_at_all() -> None:
    many = 2 * SIZES["seen"] + 1
    seen = {at.to_bytes(2, "big"): Seen("ServiceEntry", "n", str(at), 1) for at in range(many)}
    held = Held(
        (Source("f", "text"),),
        {"p": "1"},
        {"s": "2"},
        {b"d": "p"},
        tuple(Place(b"", at, "f", 0) for at in range(many)),
    )
    question = Question(2, 1, True, ("f",), None, None, Delta())
    data = asked(question, held, seen)
    found = read_question(io.BytesIO(data))
    assert found is not None
    assert found[0] == question
    assert holding(found[1]) == (held, seen)
    assert read_question(io.BytesIO(b"")) is None
    assert read_question(io.BytesIO(data[:-1])) is None


def entry(name: str, address: str = "192.0.2.1") -> str:
    spec = f"{{hosts: [{name}.example], addresses: [{address}], ports: [{{number: 80, name: http}}]}}"
    return service_entry_text(spec, f"{{name: {name}}}")


class Proxy:
    """One end of the conversation; the other is the process that judges."""

    def __init__(self) -> None:
        self.process = Session()
        self.number, self.held, self.asked = 0, Held(), 0
        self.seen: dict[bytes, Seen] = {}
        self.told: Parts = Parts()

    def ask(self, *, whole: bool = False, **change: object) -> Verdict:
        self.asked += 1
        supplied = change.pop("supplied", self.held.supplied)
        assert isinstance(supplied, dict)
        changed, rest = difference(self.held.supplied, supplied)
        given: dict[str, object] = {"paths": None, "stdin": None, "push": None, **change}
        question = Question(self.asked, self.number, whole, supplied=rest, **given)  # type: ignore[arg-type]  # each test gives what it needs
        parts = Parts()
        for kind, items in told(self.held, self.seen) if whole else ():
            parts.take(kind, list(items))
        parts.take("changed", list(changed.items()))
        self.told = Parts()
        *told_before, answer = self.process.answer(question, parts)
        for each in told_before:
            assert not isinstance(each, Answer)
            self.told.take(each[0], list(each[1]))
        assert isinstance(answer, Answer)
        verdict = verdict_of(self.held, answer, self.told)
        if not verdict.problems:
            held = self.held
            self.next = Held(
                held.files if verdict.files is None else verdict.files,
                held.pushed if verdict.pushed is None else verdict.pushed,
                supplied,
                verdict.written,
                verdict.order,
            )
        return verdict

    def accept(self) -> None:
        self.number, self.held = self.asked, self.next


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "f.yaml"
    made.write_text("---\n".join((SIDECAR, entry("a"), entry("b"))))
    return made


def test_what_the_process_holds_is_not_told_again(file: Path) -> None:
    proxy = Proxy()
    first = proxy.ask(whole=True, paths=(str(file),))
    assert len(first.order) == len(proxy.told.documents) == 3
    proxy.accept()
    file.write_text(file.read_text().replace("b.example", "c.example"))
    second = proxy.ask(paths=(str(file),))
    assert [each.status.name for each in proxy.told.documents] == ["app", "b"], "and the Sidecar every time"
    assert second.order[:2] == first.order[:2]
    assert second.kept == (2, 0)
    assert second.files != first.files
    proxy.accept()
    assert proxy.ask(paths=(str(file),)).files is None, "read again, and the same"
    assert not proxy.told.files
    assert not proxy.told.order


def test_an_answer_that_came_not_into_force_is_not_built_upon(file: Path) -> None:
    proxy = Proxy()
    proxy.ask(whole=True, paths=(str(file),))
    proxy.accept()
    proxy.ask(push=("application/yaml", entry("x").encode()))  # refused by who asked
    refused = proxy.ask(push=("application/yaml", entry("x").encode() + b"---\n}\n"))
    assert refused.problems
    verdict = proxy.ask(push=("application/yaml", entry("y").encode()))
    assert verdict.pushed is not None
    assert list(verdict.pushed) == ["ServiceEntry/default/y"]
    assert verdict.etag == etag(verdict.pushed)
    proxy.accept()
    patch = json.dumps({"documents": {"ServiceEntry/default/y": None, "ServiceEntry/default/z": _plain("z")}})
    verdict = proxy.ask(push=("application/merge-patch+json", patch.encode()))
    assert verdict.pushed is not None
    assert list(verdict.pushed) == ["ServiceEntry/default/z"]


def test_what_a_control_plane_supplies_is_told_where_it_changes(file: Path) -> None:
    proxy = Proxy()
    proxy.ask(whole=True, paths=(str(file),))
    proxy.accept()
    proxy.ask(supplied={"ServiceEntry/default/x": entry("x"), "ServiceEntry/default/y": entry("y")})
    proxy.accept()
    verdict = proxy.ask(
        supplied={
            "ServiceEntry/default/x": entry("x"),
            "ServiceEntry/default/y": entry("z", "192.0.2.7").replace("z", "y"),
        }
    )
    assert [each.status.name for each in proxy.told.documents] == ["app", "y"]
    proxy.accept()
    assert proxy.held.order == verdict.order
    # A process that has just been started is told everything, and finds the same.
    proxy.process = Session()
    proxy.seen = {}
    again = proxy.ask(whole=True)
    assert again.order == verdict.order


def _plain(name: str) -> dict[str, object]:
    spec = {
        "hosts": [f"{name}.example"],
        "addresses": ["192.0.2.8"],
        "ports": [{"number": 80, "name": "http"}],
    }
    head = {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry"}
    return {**head, "metadata": {"name": name, "namespace": "default"}, "spec": spec}
