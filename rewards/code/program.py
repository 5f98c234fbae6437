"""Which part of a completion is the program, and which statements of a test source are its tests."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Sequence

_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)
_LANGUAGES = ("", "python", "python3", "py")


def program_of(completion: str) -> str:
    """The last Python block after `</think>`, to the end where it is not closed; without fences the whole text."""
    text = completion.rpartition("</think>")[2]
    fences = list(_FENCE.finditer(text))
    if not fences:
        return text
    openings, ends = fences[0::2], [fence.start() for fence in fences[1::2]] + [len(text)]
    blocks = [
        text[opening.end() : end].strip("\n")
        for opening, end in zip(openings, ends, strict=False)
        if opening[1].lower() in _LANGUAGES
    ]
    return blocks[-1] if blocks else ""


def split_tests(tests: str | Sequence[str], entry_point: str | None) -> tuple[list[str], list[str]]:
    """The statements before the first assert and each assert, in order, and the names the program must provide.

    A source that defines `check(candidate)` is one test. Raises `ValueError` for tests that are no Python.
    """
    sources = [tests] if isinstance(tests, str) else list(tests)
    try:
        trees = [ast.parse(source) for source in sources]
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"tests must be Python source, got {str(tests)[:80]!r}: {error}") from error
    defines_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in trees[0].body)
    if isinstance(tests, str) and defines_check:
        if not entry_point:
            raise ValueError("tests that define check(candidate) must come with entry_point")
        return [f"{tests}\ncheck({entry_point})\n".replace("\\\n", "\n")], [entry_point]
    statements = _by_assert(trees[0]) if isinstance(tests, str) else sources
    if not statements:
        raise ValueError("tests must hold at least one statement, got none")
    return statements, [entry_point] if entry_point else _free_names(trees)


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
