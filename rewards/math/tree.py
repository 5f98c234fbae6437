"""An answer as a tree, and the splitting of tokens at borders outside of all brackets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sympy import Expr

from rewards.math.exact import Number
from rewards.math.tokens import Token

OPEN, CLOSE = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One node. `detail` tells brackets, the signs of a relation or chain, or a matrix's shape."""

    kind: str
    """value, list, set, tuple (an interval, too), union, intersection, difference, matrix, ratio, relation, chain."""
    items: tuple[Answer, ...] = ()
    detail: str = ""
    expression: Expr | None = None
    """Of a value; of a relation what its left side has more than its right one."""
    unmarked: Expr | None = None
    """A value without its percent or degree sign; None where it has none."""
    mark: str = ""
    number: Number | None = None
    """Of a value written as one plain number: what was written."""
    is_written_out: bool = False
    """Whether a value is a number as one writes it down, with no arithmetic left to do."""
    letters: tuple[str, ...] = ()
    """Of a value that is nothing but letters: these, as they stand together."""
    unit: str = ""
    quantity: Answer | None = None
    """Of a number with letters behind it, `5 m`: the number with that unit."""
    name: str = ""
    """What the answer was said to equal: `x` of `x = 5`."""
    named: Expr | None = None
    """The name as an expression, where it can be read as one."""
    interval: Answer | None = None
    """Of a relation between an unknown and numbers: where the unknown may lie."""


def split(tokens: Sequence[Token], is_border: Callable[[Token], bool]) -> tuple[list[list[Token]], list[str]]:
    """The runs between borders outside of all brackets, and the borders."""
    depth = 0
    runs: list[list[Token]] = [[]]
    borders: list[str] = []
    for token in tokens:
        depth += step(token)
        if depth == 0 and is_border(token) and token.kind != "end":
            runs.append([])
            borders.append(token.text)
        else:
            runs[-1].append(token)
    return runs, borders


def step(token: Token) -> int:
    """1 for an opening bracket, -1 for a closing one, else 0."""
    if token.kind == "sign":
        return (token.text in OPEN) - (token.text in CLOSE)
    return (token.kind == "begin") - (token.kind == "end")


def signs(*texts: str) -> Callable[[Token], bool]:
    """A border at each of these signs."""
    return lambda token: token.kind == "sign" and token.text in texts


def command(name: str) -> Callable[[Token], bool]:
    """A border at this command."""
    return lambda token: token.kind == "command" and token.text == name


def closes_at_end(tokens: Sequence[Token]) -> bool:
    """Whether the first bracket is closed by the last token."""
    depth = 0
    for index, token in enumerate(tokens):
        depth += step(token)
        if depth == 0:
            return index == len(tokens) - 1 and index > 0
    return False
