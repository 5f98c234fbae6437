"""What a policy may write to hang, crash or take over its grader."""

import time

import pytest

from rewards import Sample
from rewards.math import MathAnswer

LONG_KEY = "x+" * 200 + "1"
"""A key so long that the cap on the length of an answer does not help."""
LIMIT_SECONDS = 1.0

HOSTILE = [
    "9**9**9**9",
    "9^{9^{9}}",
    "10**10000000000",
    "(10^{10})!",
    "((9!)!)!",
    "1000000!",
    "999!^{999!}",
    "2^{100000000}",
    "0.5^{100000000}",
    "1^{10^{9999}}",
    r"\binom{100000000}{50000000}",
    r"\binom{n}{k}" * 20,
    r"\sum_{k=1}^{1000000000} k",
    r"\prod_{k=1}^{100000000} k",
    r"\int \sin(x^{x^x}) dx",
    "7^{7^{7^7}}",
    r"7^{7^{7^7}} \mod 10",
    "x^{x^{x^{x}}}",
    "e^{e^{e^{x}}}",
    r"\sin(e^{e^{30x}})",
    r"\sin(e^{1000000000x})",
    "((x!)!)!",
    "(x^{10})!",
    "(x+y+z)^{300}",
    "(x+y+z+a+b+c)^{49}-(x+y+z+a+b+d)^{49}",
    "(" * 300 + "1" + ")" * 300,
    "(" * 2000 + "1" + ")" * 2000,
    "{" * 400,
    "[" * 200 + "1,2" + "]" * 200,
    r"\{" * 100 + "1" + r"\}" * 100,
    r"\frac{1}{" * 100 + "2" + "}" * 100,
    r"\sqrt{" * 150 + "2" + "}" * 150,
    r"\sqrt" * 150 + "2",
    r"\sin" * 150 + "x",
    "2^" * 200 + "2",
    "-" * 900 + "1",
    "1!" * 300,
    "9" * 900,
    "0." + "9" * 900,
    "1e999",
    "9e99e99",
    "word " * 10_000,
    "\\text{" + "word " * 150 + "}",
    "+".join(f"\\sin({n}x)" for n in range(1, 60)),
    "+".join(f"\\sin({n}x)\\cos({n}y)^{{{n}}}" for n in range(1, 30)),
    ",".join(["x+1"] * 64),
    ",".join(f"x+{n}" for n in range(64)),
    r"\begin{pmatrix}" + r"\\".join(["&".join("abcdefghij")] * 10) + r"\end{pmatrix}",
    r"\det\begin{pmatrix}" + r"\\".join(["&".join("abcdefghij")] * 10) + r"\end{pmatrix}",
    "\\" * 500,
    "\x00\ud800",
    "\N{ARABIC-INDIC DIGIT FIVE}" * 100,
    "x\N{SUPERSCRIPT NINE}\N{SUPERSCRIPT NINE}\N{SUPERSCRIPT NINE}\N{SUPERSCRIPT NINE}\N{SUPERSCRIPT NINE}",
    "\N{COMBINING ACUTE ACCENT}" * 500,
    r"\frac",
    r"\frac{1}{0}",
    r"0^{0}",
    r"0^{-1}",
    r"\log 0",
    r"\tan 90^\circ",
    r"\infty - \infty",
    r"\frac{\infty}{\infty}",
    r"10^{-9999}",
    r"x + 10^{-3000}",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("key", ["x+1", LONG_KEY, "4", r"\sqrt{2}"], ids=["short", "long", "number", "root"])
def test_hostile_answers_score_zero_within_their_limit(answer, key):
    started = time.monotonic()
    score = MathAnswer(timeout_seconds=LIMIT_SECONDS)(completion=rf"\boxed{{{answer}}}", answer=key)
    assert score.value == 0.0
    assert time.monotonic() - started < 4.0  # the limit, and a restart of the worker on a slow core


def test_the_worker_judges_again_after_every_hostile_answer():
    """In one batch, each behind the other: the good answers between them are right all the same."""
    good = Sample("", r"\boxed{\sqrt{12}}", row={"answer": r"2\sqrt{3}"})
    bad = [Sample("", rf"\boxed{{{answer}}}", row={"answer": LONG_KEY}) for answer in HOSTILE]
    scores = MathAnswer(timeout_seconds=LIMIT_SECONDS).score_batch([part for one in bad for part in (one, good)])
    assert [score.value for score in scores[::2]] == [0.0] * len(bad)
    assert [score.value for score in scores[1::2]] == [1.0] * len(bad)


@pytest.mark.parametrize(
    "template", [r"\boxed{{{}}}", "The answer is {}", r"\boxed{{\text{{{}}}}}", r"\boxed{{x = {}}}"]
)
@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {path}')",
        "open('{path}','w')",
        "exec(\"open('{path}','w')\")",
        "sin.__class__.__init__.__globals__['__builtins__']['open']('{path}','w')",
        "[open('{path}','w') for x in [1]]",
        "Symbol('x', real=open('{path}','w'))",
        "lambda: open('{path}','w')",
        "2; import os; os.system('touch {path}')",
        "\\input{{|touch {path}}}",
        "cos(S(\"open('{path}','w')\"))",
    ],
)
@pytest.mark.parametrize("key", ["2", LONG_KEY], ids=["short", "long"])
def test_python_in_an_answer_is_not_run(text, template, key, tmp_path):
    target = tmp_path / "touched"
    completion = template.format(text.format(path=target))
    assert MathAnswer(timeout_seconds=LIMIT_SECONDS)(completion=completion, answer=key).value == 0.0
    assert not target.exists()


def test_the_worker_is_killed_when_it_overruns_and_the_next_answer_is_judged():
    """The sine of a number with some hundred million digits before the point: within the budgets, and hopeless."""
    slow = MathAnswer(timeout_seconds=0.3)(completion=r"\boxed{\sin(e^{1000000000x})}", answer="x+1")
    assert (slow.value, slow.info["reason"]) == (0.0, "timed out")
    assert MathAnswer()(completion=r"\boxed{\sqrt{12}}", answer=r"2\sqrt{3}").value == 1.0
