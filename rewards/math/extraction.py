"""Where in a completion the answer stands. Every scan is linear in the text."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_BETWEEN_BOXES = re.compile(r"(?:[\s$,;]|\\[,;!()\[\]]|\\q?quad|\band\b|\bor\b|\\text\s*\{\s*(?:and|or)\s*\})*")


def extract(completion: str, *, marker: str | None = None, boxed: bool = True, tag: str | None = None) -> str | None:
    r"""The answer's text, or None: the last `<tag>`, else the last `\boxed{}`, else what follows the last marker.

    What a reasoning model wrote before `</think>` does not count.
    """
    text = completion.rpartition("</think>")[2]
    if tag:
        inside = _last_tag(text, tag)
        if inside is not None:
            return (_last_boxed(inside) if boxed else None) or inside.strip()
    answer = _last_boxed(text) if boxed else None
    return answer if answer is not None or marker is None else _after_marker(text, marker)


def _last_tag(text: str, tag: str) -> str | None:
    before, closing, _ = text.rpartition(f"</{tag}>")
    _, opening, inside = before.rpartition(f"<{tag}>")
    return inside if closing and opening else None


def _after_marker(text: str, marker: str) -> str | None:
    start = text.lower().rfind(marker.lower())
    lines = text[start + len(marker) :].strip(" :\t").split("\n", 1) if start >= 0 else [""]
    return lines[0].strip().strip("*").strip() or None


def _last_boxed(text: str) -> str | None:
    """The last complete box; boxes with nothing but commas, `and` or `or` between them are one answer of several."""
    boxes = _boxes(text)
    if not boxes:
        return None
    answers = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        end = box[1] + 1
        if not _BETWEEN_BOXES.fullmatch(text[end : answers[0][2]][:200]):
            break
        answers.insert(0, box)
    return ", ".join(text[start:end].strip() for start, end, _ in answers)


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """`(start, end, opening)` of the contents of each complete, outermost box, by one walk over the braces."""
    open_braces: list[tuple[bool, int, int]] = []
    boxes: list[tuple[int, int, int]] = []
    for brace in _BRACES.finditer(text):
        if brace.group() == "}":
            if open_braces:
                is_box, start, opening = open_braces.pop()
                while is_box and boxes and boxes[-1][0] > start:
                    boxes.pop()
                if is_box:
                    boxes.append((start, brace.start(), opening))
        elif brace.group() not in (r"\{", r"\}"):
            open_braces.append((len(brace.group()) > 1, brace.end(), brace.start()))
    return boxes
