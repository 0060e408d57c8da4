"""``/config`` as a client sees it: who may, what is asked for, what is too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing

from interceptor.admin.push import MAX_BODY, MAX_WAITING, Door, PushEndpoint, by_name, by_token
from interceptor.admin.server import Request, Response

TOKEN = "0123456789abcdef"
PATCH = "application/merge-patch+json"


class RefusedError(Exception):
    pass


class StaleError(Exception):
    pass


class Pushes:
    """What discovery would be: it takes what comes, or raises what it is told to."""

    def __init__(self, token_file: Path) -> None:
        self.taken: list[tuple[str, bytes, str | None]] = []
        self.error: Exception | None = None
        self.gate = trio.Event()
        self.gate.set()
        self.endpoint = PushEndpoint(
            Door(
                etag=lambda: '"e"',
                shown=lambda: "{}",
                types=("application/yaml", PATCH),
                patch=PATCH,
                push=self.push,
                refused=RefusedError,
                stale=StaleError,
            ),
            by_token(str(token_file)),
        )

    async def push(self, content_type: str, body: bytes, expected: str | None) -> tuple[str, str]:
        await self.gate.wait()
        self.taken.append((content_type, body, expected))
        if self.error is not None:
            raise self.error
        return "v2", '"f"'


@pytest.fixture
def token(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text(f"{TOKEN}\n")
    return made


@pytest.fixture
async def pushes(token: Path) -> Pushes:
    return Pushes(token)


def put(given: str | None = f"Bearer {TOKEN}", *, method: str = "PUT", **headers: str) -> Request:
    sent = {
        "content-type": "application/yaml",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    if given is not None:
        sent["authorization"] = given
    told = tuple((name.encode(), value.encode()) for name, value in sent.items())
    return Request(method=method, path="/config", headers=told, body=b"a: 1")


async def test_who_has_the_token_pushes_and_is_told_the_version(pushes: Pushes) -> None:
    answer = await pushes.endpoint.answer(put(content_type="Application/YAML; charset=utf-8", if_match='"e"'))
    assert (answer.status, json.loads(answer.body)) == (200, {"version": "v2"})
    assert answer.headers == (("ETag", '"f"'),)
    assert pushes.taken == [("application/yaml", b"a: 1", '"e"')]


async def test_who_has_it_sees_what_is_pushed(pushes: Pushes) -> None:
    answer = await pushes.endpoint.answer(put(method="GET"))
    assert (answer.status, answer.body, answer.headers) == (200, "{}", (("ETag", '"e"'),))


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_who_has_not_gets_nothing_in_and_no_body_read(
    pushes: Pushes, given: str | None, method: str
) -> None:
    request = put(given, method=method)
    wanted = pushes.endpoint.wants(request)
    assert wanted == 0 if method == "GET" else isinstance(wanted, Response)
    answer = await pushes.endpoint.answer(request) if method == "GET" else wanted
    assert isinstance(answer, Response)
    assert (answer.status, answer.headers) == (401, (("WWW-Authenticate", "Bearer"),))
    assert pushes.taken == []


async def test_only_a_push_by_who_may_has_a_body(pushes: Pushes) -> None:
    assert pushes.endpoint.wants(put()) == MAX_BODY
    assert pushes.endpoint.wants(put(method="GET")) == 0
    assert pushes.endpoint.wants(Request(method="PUT", path="/drain")) == 0


async def test_a_token_that_is_replaced_counts_at_once(pushes: Pushes, token: Path) -> None:
    await trio.Path(token).write_text("another-0123456789")
    assert (await pushes.endpoint.answer(put())).status == 401
    assert (await pushes.endpoint.answer(put("bearer another-0123456789"))).status == 200


@pytest.mark.parametrize("text", [None, "", "short"])
async def test_without_a_good_token_nobody_may(pushes: Pushes, token: Path, text: str | None) -> None:
    file = trio.Path(token)
    await (file.unlink() if text is None else file.write_text(text))
    assert (await pushes.endpoint.answer(put(f"Bearer {text or ''}"))).status == 403


async def test_where_pushes_are_off_the_remedy_is_said() -> None:
    closed = PushEndpoint(None, by_token("/nowhere"))
    for answer in (await closed.answer(put()), closed.wants(put())):
        assert isinstance(answer, Response)
        assert answer.status == 403
        assert "spec.discovery.push" in str(answer.body)


def test_a_certificate_of_another_name_is_told_whose_it_is() -> None:
    refusal = by_name(("spiffe://a/b", "ops.example"))
    assert refusal(Request(method="PUT", path="/config", names=("x", "ops.example"))) is None
    for names, shown in ((("x", "y\n"), r"'x', 'y\n'"), ((), "nobody")):
        answer = refusal(Request(method="PUT", path="/config", names=names))
        assert answer is not None
        assert answer.status == 403
        assert f"is of {shown}, which" in str(answer.body)


async def test_what_is_wrong_with_a_push_is_said_by_its_status(pushes: Pushes) -> None:
    assert (await pushes.endpoint.answer(put(content_type="text/html"))).status == 415
    assert (await pushes.endpoint.answer(put(content_type=PATCH))).status == 428
    pushes.error = StaleError()
    assert (await pushes.endpoint.answer(put(content_type=PATCH, if_match='"x"'))).status == 412
    pushes.error = RefusedError("push:1: a", "push:2: b")
    answer = await pushes.endpoint.answer(put())
    assert (answer.status, json.loads(answer.body)) == (422, {"problems": ["push:1: a", "push:2: b"]})


async def test_only_so_many_pushes_wait(pushes: Pushes) -> None:
    pushes.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_WAITING):
            nursery.start_soon(pushes.endpoint.answer, put())
        await trio.testing.wait_all_tasks_blocked()
        assert (await pushes.endpoint.answer(put())).status == 503
        pushes.gate.set()
    assert (await pushes.endpoint.answer(put())).status == 200
