from __future__ import annotations

from pathlib import Path

import pytest

from interceptor.config.middleware import ModuleItem
from interceptor.middleware.modules import load, module_problem
from tests.support import own_middleware

OWN = "tests.support.own_middleware"


def item(use: str, config: dict[str, object] | None = None, scope: str = "request") -> ModuleItem:
    return ModuleItem.model_validate({"name": "own", "use": use, "config": config or {}, "scope": scope})


def test_a_function_is_taken_as_it_is() -> None:
    assert load(item(f"{OWN}:passing")) is own_middleware.passing
    assert module_problem(item(f"{OWN}:passing")) is None


def test_a_class_is_made_with_the_config() -> None:
    made = load(item(f"{OWN}:Limited", {"allowed": ["10.0.0.1"]}, "connection"))
    assert isinstance(made, own_middleware.Limited)


@pytest.mark.parametrize(
    ("use", "config", "found"),
    [
        ("no.such:name", None, "there is no module 'no'; install it, or put its directory into PYTHONPATH"),
        (f"{OWN}:nothing", None, f"the module '{OWN}' has no 'nothing'"),
        (f"{OWN}:passing", {"a": 1}, "'passing' takes no config: only a class does"),
        (f"{OWN}:Limited", None, "'Limited' cannot be made with this config: TypeError: "),
        (f"{OWN}:NOT_CALLABLE", None, "'NOT_CALLABLE' is no middleware; write it as: async def NOT_CALLABLE(exchange, call_next)"),
        (f"{OWN}:synchronous", None, "'synchronous' is no middleware"),
        (f"{OWN}:one_argument", None, "'one_argument' is no middleware"),
        (f"{OWN}:Exchange", None, "'Exchange' cannot be made with this config"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_a_sentence(
    use: str, config: dict[str, object] | None, found: str
) -> None:
    message = module_problem(item(use, config))
    assert message is not None
    assert message.startswith(found)


def test_the_form_fits_what_it_stands_around() -> None:
    message = module_problem(item(f"{OWN}:NOT_CALLABLE", None, "connection"))
    assert message is not None
    assert "(connection, call_next)" in message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import no_such_thing", "there is no module 'no_such_thing'"),
    ],
)
def test_a_module_that_cannot_be_imported(
    text: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"mine_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    message = module_problem(item(f"{name}:a"))
    assert message is not None
    assert found in message
