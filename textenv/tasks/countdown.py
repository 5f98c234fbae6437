"""Countdown: reach the target with all given numbers, each used once, and + - * /.

Problems are made from a random expression, so each has a solution. Whether a problem is for training or for testing is
a hash of its numbers: no set of numbers occurs in both.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from rewards.types import Score
from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem

MAX_EXPRESSION_CHARACTERS = 100
_TOKEN = re.compile(r"\s*(?:(\d{1,6}(?!\d))|([-+*/()]))", re.ASCII)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Countdown:
    """Problems of `num_numbers` numbers from 1 to `max_number`; the row holds `numbers` and `target`."""

    columns = frozenset({"numbers", "target"})

    def __init__(
        self,
        num_numbers: int = 3,
        *,
        max_number: int = 20,
        max_target: int = 100,
        train_size: int = 10_000,
        test_size: int = 200,
        seed: int = 0,
        template: str = "Use each of the numbers {numbers} once, with + - * / and (), to make {target}.",
        partial: float = 0.0,
    ) -> None:
        if not 2 <= num_numbers <= 6:
            raise ValueError(f"num_numbers must be from 2 to 6, got {num_numbers}")
        for name, size, least in (("max_number", max_number, 5), ("max_target", max_target, 10)):
            if size < least:
                raise ValueError(f"{name} must be at least {least}, got {size}")
        for name, size in (("train_size", train_size), ("test_size", test_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if "{numbers}" not in template or "{target}" not in template:
            raise ValueError(f"template must contain {{numbers}} and {{target}}, got {template!r}")
        self.name = "countdown"
        self.num_numbers, self.max_number, self.max_target = num_numbers, max_number, max_target
        self.template, self.seed, self.partial = template, seed, partial
        self.sizes = {"train": train_size, "test": test_size}

    def split(self, name: str) -> CountdownProblems:
        """The problems of `"train"` or `"test"`, made when they are asked for."""
        if name not in self.sizes:
            raise ValueError(f"split must be one of {', '.join(self.sizes)}, got {name!r}")
        return CountdownProblems(self, name)

    def reward(self) -> Any:
        """1 for an expression that reaches the target."""
        return {"correct": CountdownAnswer(partial=self.partial)}

    def tokenizer(self) -> TinyTokenizer:
        """The characters of the prompts, and what an expression needs."""
        return TinyTokenizer("".join(sorted({*"0123456789+-*/() ,", *self.template} - {*"{}"})))


@dataclass(frozen=True, slots=True)
class CountdownProblems:
    """A sequence of problems; number i depends on seed, split and i alone."""

    task: Countdown
    name: str

    def __len__(self) -> int:
        return self.task.sizes[self.name]

    def __getitem__(self, index: int) -> Problem:
        if not 0 <= index < len(self):
            raise IndexError(index)
        generator = np.random.default_rng([self.task.seed, ["train", "test"].index(self.name), index])
        while True:
            numbers = generator.integers(1, self.task.max_number + 1, self.task.num_numbers).tolist()
            if is_for_testing(numbers) == (self.name == "test"):
                target = random_result(numbers, generator)
                if 1 <= target <= self.task.max_target:
                    break
        shown = ", ".join(map(str, numbers))
        prompt = self.task.template.replace("{numbers}", shown).replace("{target}", str(target))
        return Problem(prompt, {"numbers": tuple(numbers), "target": target})


@dataclass(frozen=True)
class CountdownAnswer:
    """1 when the completion's expression uses the numbers as told and equals the target, `partial` when only the
    numbers are right, else 0.

    The expression stands in the last `<answer>...</answer>`, else it is the last line; what follows a `=` is ignored.

    >>> CountdownAnswer()(completion="(2 + 3) * 4 = 20", numbers=(2, 3, 4), target=20).value
    1.0
    """

    partial: float = 0.0
    execution = "inline"  # at most 100 characters are parsed

    def __call__(self, completion: str, numbers: tuple[int, ...], target: int) -> Score:
        expression = find_expression(completion)
        try:
            value, used = evaluate(expression)
        except ValueError as error:
            return Score(0.0, info={"reason": str(error)})
        if Counter(used) != Counter(numbers):
            return Score(0.0, info={"reason": f"uses {used}, not {list(numbers)}"})
        if value != target:
            return Score(self.partial, info={"reason": f"makes {value}, not {target}"})
        return Score(1.0, info={"reason": "right"})


def is_for_testing(numbers: list[int]) -> bool:
    """One set of numbers in ten."""
    return zlib.crc32(" ".join(map(str, sorted(numbers))).encode()) % 10 == 0


def random_result(numbers: list[int], generator: np.random.Generator) -> int:
    """The value of a random expression over all numbers, without fractions or negative numbers on the way; 0: none."""
    values = list(numbers)
    while len(values) > 1:
        first, second = (values.pop(int(generator.integers(len(values)))) for _ in range(2))
        high, low = max(first, second), min(first, second)
        results = [high + low, high - low, high * low]
        if low and high % low == 0:
            results.append(high // low)
        values.append(results[int(generator.integers(len(results)))])
    return values[0]


def find_expression(completion: str) -> str:
    """Where the answer is looked for."""
    answers = _ANSWER.findall(completion)
    lines = answers[-1:] or [line for line in completion.splitlines() if line.strip()][-1:]
    return lines[0].split("=")[0].strip() if lines else ""


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Value and numbers of an expression of integers, + - * / and (); `ValueError` for anything else.

    >>> evaluate("1 - 3 / (2 + 4)")
    (Fraction(1, 2), [1, 3, 2, 4])
    """
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        raise ValueError(f"an expression has at most {MAX_EXPRESSION_CHARACTERS} characters")
    parser = _Parser(_tokens(expression))
    value = parser.sum()
    if parser.tokens:
        raise ValueError(f"not an expression: unexpected {parser.tokens[0]!r}")
    return value, parser.used


def _tokens(expression: str) -> list[str]:
    tokens, position = [], 0
    while expression[position:].strip():
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"not an expression: unexpected {expression[position:].strip()[0]!r}")
        tokens.append(match.group().strip())
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent: sum of products of atoms. Its depth is bounded by the length of the expression."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.used: list[int] = []

    def sum(self) -> Fraction:
        value = self.product()
        while self._next_is("+", "-"):
            value = value + self.product() if self.tokens.pop(0) == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        value = self.atom()
        while self._next_is("*", "/"):
            if self.tokens.pop(0) == "*":
                value *= self.atom()
            elif divisor := self.atom():
                value /= divisor
            else:
                raise ValueError("not an expression: a division by zero")
        return value

    def atom(self) -> Fraction:
        if self._next_is("("):
            self.tokens.pop(0)
            value = self.sum()
            if not self._next_is(")"):
                raise ValueError("not an expression: a ')' is missing")
            self.tokens.pop(0)
            return value
        if not self.tokens or not self.tokens[0].isdecimal():
            raise ValueError(
                f"not an expression: a number is missing before {self.tokens[0] if self.tokens else 'the end'!r}"
            )
        self.used.append(int(self.tokens.pop(0)))
        return Fraction(self.used[-1])

    def _next_is(self, *symbols: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in symbols
