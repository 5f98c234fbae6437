"""Which part of a completion is the program, and what a row's tests are."""

from __future__ import annotations

import ast
import builtins
import functools
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(r"^[ \t]*+```[ \t]*+([^\s`]*+)[^\n`]*+$", re.MULTILINE)
_PARSING = threading.Lock()
"""Python 3.11 counts the depth of trees in one place for all threads: `SystemError` where two parse at a time."""
_LANGUAGES = ("", "python", "python3", "py")


def program_of(completion: str) -> str:
    """The last block after `</think>` that is labelled Python, else the last without a label (what a program prints may
    stand in one behind it); to the end where it is not closed. Without fences the whole text."""
    text = completion.rpartition("</think>")[2]
    fences = list(_FENCE.finditer(text))
    if not fences:
        return text
    openings, ends = fences[0::2], [fence.start() for fence in fences[1::2]] + [len(text)]
    blocks = {
        bool(opening[1]): text[opening.end() : end].strip("\n")
        for opening, end in zip(openings, ends, strict=False)
        if opening[1].lower() in _LANGUAGES
    }
    return blocks.get(True, blocks.get(False, ""))


@dataclass(frozen=True)
class Case:
    """What a script reads and what it must print."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class Plan:
    """The tests of one row: sources that call the program's functions, or cases that run it as a script."""

    tests: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """What the program must define."""
    modules: tuple[str, ...] = ()
    """What the tests import."""
    cases: tuple[Case, ...] = ()

    @property
    def total(self) -> int:
        """How many tests there are."""
        return len(self.tests) + len(self.cases)


def plan_of(tests: Any, entry_point: str | None) -> Plan:
    """What a row's `tests` are; raises `ValueError` for what is neither Python nor pairs of input and output.

    A source that defines `check(candidate)` is one test. In other sources each assert is one, with the statements
    before it, and each function `test_...()` that nobody calls; in a list each source. Pairs are
    `[{"input": ..., "output": ...}, ...]`, or two lists of equal length, `{"inputs": [...], "outputs": [...]}`.
    """
    if isinstance(tests, Mapping):
        return Plan(cases=_cases(_pairs(tests)))
    if not isinstance(tests, str | Sequence):
        raise ValueError(f"tests must be Python source, a list of sources, or input and output, got {tests!r}"[:300])
    if not tests:
        raise ValueError("tests must hold at least one test, got none")
    if isinstance(tests[0], Mapping):
        return Plan(cases=_cases(tests))
    for place, source in enumerate([tests] if isinstance(tests, str) else tests):
        if not isinstance(source, str):
            raise ValueError(f"tests[{place}] must be Python source, got {source!r}"[:300])
    return _calls(tests if isinstance(tests, str) else tuple(tests), entry_point)


@functools.lru_cache(maxsize=1024)  # a group of completions shares its tests
def _calls(tests: str | tuple[str, ...], entry_point: str | None) -> Plan:
    sources = [tests] if isinstance(tests, str) else list(tests)
    try:
        with _PARSING:
            trees = [ast.parse(source) for source in sources]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"tests must be Python source, got {str(tests)[:80]!r}: {error}") from error
    defines_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in trees[0].body)
    if isinstance(tests, str) and defines_check:
        if not entry_point:
            raise ValueError("tests that define check(candidate) must come with entry_point")
        return Plan((f"{tests}\n\ncheck({entry_point})\n",), (entry_point,), _modules(trees))
    for tree in trees:
        _refuse_what_tests_nothing(tree)
    if isinstance(tests, str):
        statements = _by_assert(trees[0])
        if calls := _never_called(trees[0]):
            only_definitions = not trees[0].body or not isinstance(trees[0].body[-1], ast.Assert)
            before = [statements.pop()] if only_definitions else []
            statements += ["\n".join([*before, calls[0]]), *calls[1:]]
    else:
        statements = ["\n".join([s, *_never_called(tree)]) for s, tree in zip(sources, trees, strict=True)]
    names = (entry_point,) if entry_point else tuple(_free_names(trees))
    if not names:  # `assert sum(10, 15) == 25` would test Python's own
        raise ValueError(f"tests must use a name of the program alone, or come with entry_point: {tests!r}"[:300])
    return Plan(tuple(statements), names, _modules(trees))


def _modules(trees: Sequence[ast.Module]) -> tuple[str, ...]:
    nodes = [node for tree in trees for node in ast.walk(tree)]
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return tuple(dict.fromkeys([*whole, *parts]))


def _never_called(tree: ast.Module) -> list[str]:
    """Calls of functions named test... that nobody calls: pytest would."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return [f"{node.name}()" for node in functions if node.name.startswith("test") and node.name not in used]


def _refuse_what_tests_nothing(tree: ast.Module) -> None:
    """A source that can only pass is a mistake in the data."""
    nodes = list(ast.walk(tree))
    if not any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in nodes):
        raise ValueError(f"tests must check something, got {ast.unparse(tree)[:80]!r}")
    for node in tree.body:
        runs = any(isinstance(other, ast.Attribute) and other.attr in ("main", "run") for other in nodes)
        if isinstance(node, ast.ClassDef) and "TestCase" in "".join(map(ast.unparse, node.bases)) and not runs:
            raise ValueError(f"tests must run what they define, got the class {node.name}, which nobody runs")


def _pairs(tests: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One mapping a case."""
    both = [tests.get(name) for name in ("inputs", "outputs")]
    inputs, outputs = ([] if isinstance(some, str) or not isinstance(some, Sequence) else some for some in both)
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"tests must have lists inputs and outputs of equal length above 0, got {tests!r}"[:300])
    return [{"input": one, "output": other} for one, other in zip(inputs, outputs, strict=True)]


def _cases(pairs: Sequence[Any]) -> tuple[Case, ...]:
    for place, pair in enumerate(pairs):
        texts = [pair.get(name) for name in ("input", "output")] if isinstance(pair, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"tests[{place}] must have texts input and output, got {pair!r}"[:300])
    return tuple(Case(pair["input"], pair["output"]) for pair in pairs)


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs are equal but for white space at the ends of lines and empty lines at the end.

    >>> same_output("1 \\r\\n2\\n\\n", "1\\n2"), same_output(" 1", "1"), same_output("1\\n\\n2", "1\\n2")
    (True, False, False)
    """
    left, right = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (printed, expected))
    return left == right


def _by_assert(tree: ast.Module) -> list[str]:
    """One source per assert, each with the statements that precede it since the last."""
    groups: list[list[str]] = [[]]
    for node in tree.body:
        groups[-1].append(ast.unparse(node))
        if isinstance(node, ast.Assert):
            groups.append([])
    return ["\n".join(group) for group in groups if group]


def _free_names(trees: Sequence[ast.Module]) -> list[str]:
    """Names that the tests use and nobody else defines; a program cannot replace `all` or a test's own function."""
    used: set[str] = set()
    bound = set(dir(builtins))
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return sorted(used - bound)
