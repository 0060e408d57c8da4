"""Records: dataclasses in all that a caller sees."""

from __future__ import annotations

import pickle

import pytest

from interceptor.model.record import Record, replace


class Point(Record):
    """Two fields, one with a default."""

    x: int
    y: int = 7


class Named(Point):
    """Inherits two."""

    name: str = "here"


class Options(Record, kw_only=True):
    """By name only."""

    port: int | None = None


class Same(Record):
    """What Point is, by another name."""

    x: int
    y: int = 7


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    assert (Point(1).x, Point(1).y) == (1, 7)
    assert Point(1, 2) == Point(1, y=2) == Point(x=1, y=2)
    assert (Named(1).name, Named(1, 2, "there").name) == ("here", "there")
    assert Options().port is None


@pytest.mark.parametrize(
    ("kind", "args", "given"),
    [
        (Point, (), {}),
        (Point, (1, 2, 3), {}),
        (Point, (1,), {"z": 1}),
        (Named, (), {"name": "there"}),
        (Options, (1,), {}),
    ],
)
def test_what_is_missing_or_too_much_is_refused(
    kind: type[Record], args: tuple[int, ...], given: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match=rf"{kind.__name__} is made of \("):
        kind(*args, **given)


def test_equal_are_records_of_one_type_with_equal_fields() -> None:
    assert Point(1) != Point(2)
    assert Point(1) != Same(1)
    assert Point(1) != (1, 7)
    assert len({Point(1), Point(1, 7), Point(1, 8)}) == 2


def test_a_record_never_changes() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="Point is frozen: 'x' cannot be set"):
        setattr(point, "x", 2)  # noqa: B010 (the type checker would refuse it too)
    with pytest.raises(AttributeError, match="Point is frozen: 'x' cannot be deleted"):
        del point.x
    assert point == Point(1)


def test_a_record_is_shown_copied_and_matched_like_a_dataclass() -> None:
    assert repr(Named(1, name="x")) == "Named(x=1, y=7, name='x')"
    assert replace(Point(1), y=2) == Point(1, 2)
    assert replace(Point(1, 2), x=3) == Point(3, 2)
    assert pickle.loads(pickle.dumps(Named(1, 2))) == Named(1, 2)
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
    assert Options.__match_args__ == ()
