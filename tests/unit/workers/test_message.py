from __future__ import annotations

import pickle
from dataclasses import replace

from interceptor.workers.message import change, changed
from tests.support.documents import configuration, service_entry_text


def entry(name: str) -> str:
    return service_entry_text(
        f"{{hosts: [{name}.example], ports: [{{number: 80, name: http}}]}}", f"{{name: {name}}}"
    )


def test_what_is_new_is_sent_and_the_rest_is_told_by_its_place() -> None:
    before = configuration("---\n".join((entry("a"), entry("b"), entry("c"))))
    a, _, c = before.service_entries
    [new] = configuration(entry("n")).service_entries
    after = replace(before, service_entries=(c, new, a))
    made = change(before, after)
    assert made.documents["service_entries"] == [2, new, 0]
    found = changed(before, pickle.loads(pickle.dumps(made)))
    assert found == replace(after, documents=())
    assert [each is old for each, old in zip(found.service_entries[::2], (c, a), strict=True)] == [True, True]
    assert changed(before, change(before, before)).service_entries == before.service_entries
