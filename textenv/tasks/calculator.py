"""Arithmetic with a tool: the policy writes `<calc>12 * 34</calc>`, and the result appears behind it."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from textenv.conversation import Reply
from textenv.tasks.arithmetic import Arithmetic, Pairs
from textenv.types import Problem

OPEN, CLOSE = "<calc>", "</calc>"
OPERATORS: dict[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
MAX_CHARACTERS = 100
"""Of an expression: without powers, this bounds the size of every result."""
TEMPLATE = "What is {a} {operation} {b}? You may write <calc>2 + 3</calc> to calculate. End with the answer."


class Calculator:
    """The problems of `Arithmetic` (by default products) beside a calculator; the answer is the last integer that the
    policy itself has written, so a result that it only saw does not count.

    Results are integers or exact fractions; what is no expression of numbers, `+ - * /` and brackets gets
    `<result>error: ...</result>`, and the episode goes on.
    """

    turn_ends = (CLOSE,)
    columns = Arithmetic.columns

    def __init__(
        self,
        operation: str = "*",
        *,
        low: int = 10,
        high: int = 99,
        template: str = TEMPLATE,
        test_size: int = 100,
        seed: int = 0,
        max_injected_tokens: int = 128,
    ) -> None:
        self._problems = Arithmetic(operation, low=low, high=high, template=template, test_size=test_size, seed=seed)
        self.name = "calculator"
        self.max_injected_tokens = max_injected_tokens

    def split(self, name: str) -> Pairs:
        """The problems of `"train"` or `"test"`."""
        return self._problems.split(name)

    def reward(self) -> Any:
        """1 when the policy's last integer is the answer."""
        return self._problems.reward()

    def converse(self, problem: Problem) -> CalculatorTool:
        """A calculator; it remembers nothing."""
        return CalculatorTool()


class CalculatorTool:
    """Answers `... <calc>expression</calc>` with `<result>value</result>`; any other turn is the last."""

    def reply(self, text: str) -> Reply:
        """The value of the turn's last expression."""
        if not text.endswith(CLOSE):
            return Reply(done=True)
        _, found, expression = text.removesuffix(CLOSE).rpartition(OPEN)
        try:
            result = shown(calculate(expression)) if found else f"error: {CLOSE} without {OPEN}"
        except (ValueError, SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
            result = f"error: {error.msg if isinstance(error, SyntaxError) else error}"
        return Reply(f"<result>{result}</result>", role="tool")


def shown(value: Fraction) -> str:
    """The value's digits; `ValueError` for more of them than a reader wants."""
    text = str(value)
    if len(text) > MAX_CHARACTERS:
        raise ValueError("the result is too long")
    return text


def calculate(expression: str) -> Fraction:
    """The exact value of an expression of numbers, `+ - * /` and brackets; nothing in it is executed.

    Raises `ValueError` for anything else, `SyntaxError` for what does not parse, `ZeroDivisionError`.

    >>> str(calculate("2 * (3 + 4) / 4"))
    '7/2'
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"an expression must have at most {MAX_CHARACTERS} characters, got {len(expression)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about the policy's text
        parsed = ast.parse(expression.strip(), mode="eval")
    return _value(parsed.body)


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand))
    raise ValueError("only numbers, + - * / and brackets can be calculated")
