r"""Where in a completion the answer stands. Every scan is linear in the text, or over a bounded part of it.

In this order: the last `<tag>`; the last complete `\boxed{}`; what follows the last marker; and, only when asked for,
the last formula or number of all. What a reasoning model wrote before `</think>` does not count.

Several boxes are one answer of several parts when next to nothing, or `and` or `or`, stands between them: `\boxed{1}
and \boxed{2}` says `1, 2`, which is wrong where the key is 2. Boxes further apart must agree.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from rewards.math.cleaning import clean
from rewards.math.exact import number

SEVERAL = ("refuse", "last")
ANYWHERE = ("formula", "number", "both")
MAX_REGION_CHARS = 2000
"""So much is looked through behind a marker, and at the end of a text without box and marker."""
_MAX_BETWEEN_CHARS = 40
_MAX_WORDS_BESIDE = 2

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKUP = re.compile(r"\\(?:[()\[\],;! ]|q?quad|text)|[${}]")
_CONNECTIVE = re.compile(r"[\s,;]*|(?:[^.;:!?\n\d]*[\s,])?(?:and|or)\b[^.;:!?\n]*")
_FORMULA = re.compile(
    r"\$\$([\s\S]+?)\$\$|(?<!\\)\$((?:[^$\n\\]|\\.)+)\$|\\\[([\s\S]+?)\\\]|\\\(([^\n]+?)\\\)"
)  # what stands inline does not span lines
_NUMBER = re.compile(
    r"(?<![\w.,\\])[-+\u2212]?(?:(?:\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+)(?:[.,]\d+)?|\.\d+)(?: ?/ ?\d+)?", re.ASCII
)
_PERCENT = re.compile(r"\s?(?:\\?%|percent(?:age)?\b|pct\b)")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_SENTENCE_END = re.compile(r"\.(?=[\s\"']|$)|\n")
Span = tuple[int, int, str]


class SeveralAnswersError(ValueError):
    """The completion gives different answers in different places."""


def extract(
    completion: str,
    *,
    marker: str | Sequence[str] | None = None,
    boxed: bool = True,
    tag: str | None = None,
    several: str = "refuse",
    anywhere: str | None = None,
) -> str | None:
    r"""The answer's text, or None. `several`: whether boxes that disagree are refused, or the last one counts.

    `anywhere`: without box and marker, the last `formula` between dollars, the last `number`, or the later of `both`.
    Raises `SeveralAnswersError`.

    >>> extract(r"so \boxed{\frac{1}{2}}."), extract("the answer is 7, as said.", marker="answer is")
    ('\\frac{1}{2}', '7, as said')
    """
    text = completion.rpartition("</think>")[2]
    if tag:
        inside = _last_tag(text, tag)
        if inside is not None:
            return (_boxed(inside, several) if boxed else None) or inside.strip()
    answer = _boxed(text, several) if boxed else None
    if answer is None and marker:
        answer = _after_marker(text, (marker,) if isinstance(marker, str) else marker)
    if answer is None and anywhere:
        answer = _anywhere(text[-MAX_REGION_CHARS:], anywhere)
    return answer


def _last_tag(text: str, tag: str) -> str | None:
    before, closing, _ = text.rpartition(f"</{tag}>")
    _, opening, inside = before.rpartition(f"<{tag}>")
    return inside if closing and opening else None


def _boxed(text: str, several: str) -> str | None:
    """The last group of boxes that belong together; the groups before it must say the same, unless it alone counts."""
    boxes = _boxes(text)
    if not boxes:
        return None
    if len(boxes) == 1:
        return text[boxes[0][0] : boxes[0][1]].strip()
    spans = [(opening, end + 1, text[start:end].strip()) for start, end, opening in boxes]
    groups = _joined(text, spans)
    if several == "refuse" and len({_spelling(group) for group in groups}) > 1:
        raise SeveralAnswersError(f"{len(groups)} boxes disagree")
    return groups[-1]


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """`(start, end, opening)` of the contents of each complete, outermost box, by one walk over the braces."""
    first = _BOX.search(text)
    if first is None:
        return []
    open_braces: list[tuple[bool, int, int]] = []
    boxes: list[tuple[int, int, int]] = []
    for brace in _BRACES.finditer(text, first.start()):
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


def _joined(text: str, spans: Sequence[Span]) -> list[str]:
    """The contents of spans, those of neighbours as one text with commas, what says the same only once."""
    groups: list[dict[object, str]] = []
    previous_end = 0
    for start, end, content in spans:
        if not groups or not _connects(text[previous_end:start]):
            groups.append({})
        groups[-1].setdefault(_spelling(content), content)
        previous_end = end
    return [", ".join(group.values()) for group in groups]


def _connects(between: str) -> bool:
    """Whether what stands between two answers makes them one answer of two parts."""
    return len(between) <= _MAX_BETWEEN_CHARS and bool(_CONNECTIVE.fullmatch(_MARKUP.sub(" ", between)))


def _spelling(text: str) -> object:
    """Equal for texts that surely say the same: plain numbers by their value, others by their characters."""
    if len(text) > MAX_REGION_CHARS:
        return text
    cleaned = clean(text)
    found = number(cleaned)
    return (found.value, found.percent) if found else "".join(cleaned.split())


def _after_marker(text: str, markers: Sequence[str]) -> str | None:
    """The sentence behind the last marker; of a sentence with more words, its formulas, if they belong together."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two: places would not fit
        lowered = text
    start = max((place + len(marker) for marker in markers if (place := lowered.rfind(marker.lower())) >= 0), default=0)
    if not start:
        return None
    region = text[start : start + MAX_REGION_CHARS].lstrip(" :\t\n*\"'=")
    end, leading = _SENTENCE_END.search(region), _FORMULA.match(region)
    sentence = region[: max(end.start() if end else len(region), leading.end() if leading else 0)]
    formulas = _joined(sentence, _formulas(sentence))
    if len(formulas) == 1 and len(re.findall(r"[a-zA-Z]{2,}", _FORMULA.sub(" ", sentence))) > _MAX_WORDS_BESIDE:
        return formulas[0]
    return sentence.strip(" *\"'") or None


def _formulas(text: str) -> list[Span]:
    return [(match.start(), match.end(), match[match.lastindex or 0].strip()) for match in _FORMULA.finditer(text)]


def _anywhere(text: str, kind: str) -> str | None:
    """The last formula (with its neighbours) or number, with a percent sign behind it; a text without words whole."""
    if kind != "formula" and not _WORD.search(text):
        return text.strip() or None
    formulas = _formulas(text) if kind in ("formula", "both") else []
    numbers = deque(_NUMBER.finditer(text) if kind in ("number", "both") else (), maxlen=1)
    last_number = numbers[0] if numbers else None
    if formulas and (last_number is None or last_number.end() <= formulas[-1][1]):
        end, answer = formulas[-1][1], _joined(text, formulas)[-1]
    elif last_number is not None:
        end, answer = last_number.end(), last_number.group()
    else:
        return None
    return answer + ("%" if _PERCENT.match(text, end) and not answer.endswith("%") else "")
