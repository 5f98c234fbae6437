"""What the parts of an answer are said to be values of: `x = 1, y = 2`, and coordinates of the point `(x, y)`."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.math.tree import Answer


def names(items: Sequence[Answer]) -> set[str]:
    """Of what items are values; those that are said of nothing left out."""
    return {item.name for item in items} - {""}


def unknowns(items: Sequence[Answer]) -> set[str]:
    """As `names`, without subscripts: `x_1` and `x_2` are two values of one unknown."""
    return {name.partition("_")[0] for name in names(items)}


def as_points(key: Answer, answer: Answer) -> tuple[Sequence[Answer], Sequence[Answer]]:
    """The items of both in one order of the coordinates that they name: `y = 2, x = 1` is (1, 2). Others stay."""
    named = _coordinates(key), _coordinates(answer)
    order = named[0] if all(named) else [*"xyz"]
    return _arranged(key.items, named[0], order), _arranged(answer.items, named[1], order)


def _coordinates(point: Answer) -> list[str]:
    """The names of its items, all different: of `x = 1, y = 2` and of `(x, y) = (1, 2)`; empty where it tells none."""
    found = point.name[1:-1].split(",") if point.name.startswith("(") else [item.name for item in point.items]
    return found if all(found) and len({*found}) == len(found) == len(point.items) else []


def _arranged(items: Sequence[Answer], named: Sequence[str], order: Sequence[str]) -> Sequence[Answer]:
    if not named or not {*named} <= {*order}:
        return items
    by_name = dict(zip(named, items, strict=True))
    return [by_name[name] for name in order if name in by_name]
