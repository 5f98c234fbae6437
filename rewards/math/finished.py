r"""Whether an answer is finished: not the question over again, with the work left to the grader.

Integrals, sums, limits, products, determinants and derivatives are refused while the text is read (`tokens`,
`parsing`). Of the rest, a number asks for a number: where the key is written out (`4`, `-1/2`, `0.25`, `1\frac{1}{2}`,
`50\%`, `2 \times 10^3`), an answer of the same value must be written out, too: not `2+2`, `2^2`, `\sqrt{16}`,
`\log_2 16`, `4!` or `e^{i\pi}`. Where the key itself is a formula of numbers, `2\sqrt{3}`, the answer may be any
(`\sqrt{12}`), but its functions must be of a kind that the key has: not `\sin 60^\circ` for `\frac{\sqrt{3}}{2}`, since
that may well have been the question. Where unknowns are, `2(x+1)` and `2x+2` are equally finished.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy
from sympy import Expr, Integer, Pow, preorder_traversal

from rewards.math.tokens import Token
from rewards.math.tree import closes_at_end

_CLASSES = {
    "sin": "trigonometric", "cos": "trigonometric", "tan": "trigonometric", "cot": "trigonometric",
    "sec": "trigonometric", "csc": "trigonometric", "asin": "inverse", "acos": "inverse", "atan": "inverse",
    "acot": "inverse", "log": "logarithm", "factorial": "counting", "binomial": "counting", "Abs": "rounding",
    "floor": "rounding", "ceiling": "rounding",
}  # fmt: skip
_N = r"(?:\{?[-+]?N\}?)"
_WRITTEN_OUT = re.compile(
    rf"[-+]?(?:N|N?f{_N}{_N}?|{_N}/{_N}|NN/N|(?:N\*)?T\^{_N})S*[%\u00b0]?".replace("N", "[NT]"),
)


def is_written_out(tokens: Sequence[Token]) -> bool:
    r"""Whether this is a number as one writes it down: an integer, a decimal, a fraction, a power of ten.

    >>> is_written_out([Token("number", "2"), Token("sign", "+"), Token("number", "2")])
    False
    """
    while tokens and tokens[0].text in ("(", "{") and closes_at_end(tokens):
        tokens = tokens[1:-1]
    return bool(_WRITTEN_OUT.fullmatch("".join(map(_class, tokens))))


def _class(token: Token) -> str:
    if token.kind == "number":
        return "T" if token.text == "10" else "N"
    if token.kind == "command":
        return "f" if token.text == "frac" else "?"
    return {"repeating": "N", "scale": "S", "sign": token.text}.get(token.kind, "?")


def function_classes(expression: Expr) -> set[str]:
    """The kinds of functions in an expression; roots, powers and hyperbolic functions belong to none."""
    found = (_CLASSES.get(type(node).__name__) for node in preorder_traversal(expression))
    return {name for name in found if name is not None}


def is_closed_form(expression: Expr) -> bool:
    r"""Whether this is a number that no decimal writes out: `\sqrt{17}`, `2\pi`, but no plain arithmetic."""
    return not function_classes(expression) and any(
        node in (sympy.pi, sympy.E) or (isinstance(node, Pow) and not isinstance(node.exp, Integer))
        for node in preorder_traversal(expression)
    )
