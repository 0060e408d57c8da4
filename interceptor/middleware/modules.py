"""The user's own: imports ``module:attribute``, and says in a sentence why it cannot be used."""

from __future__ import annotations

import importlib
import inspect
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.config.middleware import ModuleItem


def module_problem(item: ModuleItem) -> str | None:
    """What is wrong with it, found by trying."""
    try:
        load(item)
    except ValueError as error:
        return str(error)
    return None


def load(item: ModuleItem) -> object:
    """The middleware itself: the callable, or one made by calling the class with the config. ValueError: a sentence."""
    module, _, name = item.use.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no module '{error.name}'; install it, or put its directory into PYTHONPATH"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a module does when it is imported)
        raise ValueError(f"the module '{module}' cannot be imported: {_said(error)}") from None
    try:
        attribute: object = attrgetter(name)(found)
    except AttributeError:
        raise ValueError(f"the module '{module}' has no '{name}'") from None
    if isinstance(attribute, type):
        attribute = _made(attribute, item)
    elif item.config:
        raise ValueError(f"'{name}' takes no config: only a class does; leave the config out")
    if not _is_async(attribute):
        kind = "connection" if item.scope == "connection" else "exchange"
        raise ValueError(
            f"'{name}' is no middleware; write it as: async def {name.rpartition('.')[2]}({kind}, call_next)"
        )
    return attribute


def _made(made_of: type[object], item: ModuleItem) -> object:
    try:
        return made_of(**item.config)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever its constructor does)
        raise ValueError(f"'{made_of.__name__}' cannot be made with this config: {_said(error)}") from None


def _is_async(found: object) -> bool:
    """Whether calling it gives something to wait for, with the two things that a middleware gets."""
    call = found if inspect.isroutine(found) else getattr(found, "__call__", None)  # noqa: B004 (what it is, not whether)
    if not inspect.iscoroutinefunction(call):
        return False
    try:
        inspect.signature(call).bind(None, None)
    except TypeError:
        return False
    return True


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
