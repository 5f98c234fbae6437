import threading
import time

import pytest

from rewards import Sample, Scorer
from rewards.math import MathAnswer


def check(answer, key, **settings):
    return MathAnswer(**settings)(completion=rf"so it is \boxed{{{answer}}}.", answer=key)


EQUAL = [
    ("57", 57),
    ("-5", "-5"),
    ("1,234", 1234),
    (r"11,\! 111", "11111"),
    ("1 000", "1000"),
    (r"\frac{3}{4}", 0.75),
    (r"\frac34", "3/4"),
    (r"-\dfrac{10}{9}", "-10/9"),
    ("0.50", "1/2"),
    (r"50\%", "0.5"),
    (r"28\%", "28"),
    (r"\$5.00", 5),
    ("0.0833333", r"\frac{1}{12}"),
    (r"\sqrt{17}", 4.123105625617661),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt 2}"),
    (r"2\sqrt3", r"\sqrt{12}"),
    (r"\frac{9}{4}\pi", r"\frac{9\pi}{4}"),
    (r"e^{i\pi}", "-1"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    ("5!", 120),
    (r"\binom{5}{2}", 10),
    (r"\log_2 8", 3),
    ("|-3|", 3),
    (r"x=\frac13", r"\frac{1}{3}"),
    (r"5\text{ cm}", "5"),
    ("2(x+1)", "2x+2"),
    (r"\tan^2(y)+1", r"\sec^2(y)"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    ("2-2p", "2(1-p)"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"3 \pm 2\sqrt{2}", r"3-\sqrt{8}, 3+\sqrt{8}"),
    (r"(1, 4.5)", r"(1,\frac{9}{2})"),
    (r"[0,1)\cup(2,\infty)", r"(2,\infty)\cup[0,1)"),
    (r"-2 \le x < 7", r"[-2,7)"),
    (r"x \geq 5", r"5 \leq x"),
    ("34x+45y=20", "-34x-45y=-20"),
    (r"\begin{pmatrix}1 & 0 \\ 0 & \frac12\end{pmatrix}", r"\begin{bmatrix}1 & 0 \\ 0 & 0.5\end{bmatrix}"),
    (r"\text{(C)}", "C"),
    (r"\text{Even}", "even"),
    ("7:32", "7:32"),
    (r"x = \frac13 \approx 0.33", "1/3"),
    (r"x \approx 11", "11"),
    (r"x_1", "x_{1}"),
    ("y=2, x=1", "x=1, y=2"),
]
DIFFERENT = [
    ("58", 57),
    ("0.33", "1/3"),
    ("0.2501", 0.25),
    ("1,2", "12"),
    (r"5\text{ m}", r"5\text{ cm}"),
    (r"\frac{1}{\mathrm{e}+7}", r"\frac{1}{\mathrm{e}}"),
    (r"1+\frac{1}{\mathrm{e}}", r"1-\frac{1}{\mathrm{e}}"),
    ("2^{-99}", "2^{-98}"),
    ("10^{-20}", "10^{-21}"),
    (r"\frac{1}{200!}", r"\frac{1}{201!}"),
    (r"\{1,2\}", "(1,2)"),
    ("(2,1)", "(1,2)"),
    ("(1,2]", "(1,2)"),
    ("AB", "BA"),
    ("x", "X"),
    (r"\sqrt{x^2}", "x"),
    (r"x > 5", "x < 5"),
    ("x=2, y=1", "x=1, y=2"),
    (r"\pm 2021", "2021"),
    (r"2 \text{ or } 3", "2"),
    ("2, 3", "2"),
    ("2 3", "6"),
    (r"12:00", "1:00"),
    (r"\begin{pmatrix}1 & 2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
    (r"\frac{1+\sqrt5}{2}", "2"),
    ("", "2"),
    ("yes", "no"),
    (r"x = \frac13 \approx 11", "11"),
    (r"\infty", "2"),
    (r"\frac{1}{0}", "0"),
]


@pytest.mark.parametrize(("answer", "key"), EQUAL)
def test_equal_answers_score_one(answer, key):
    score = check(answer, key)
    assert (score.value, score.info["reason"]) == (1.0, "equal")


@pytest.mark.parametrize(("answer", "key"), DIFFERENT)
def test_different_answers_score_zero(answer, key):
    assert check(answer, key).value == 0.0


@pytest.mark.parametrize(
    ("answer", "key"), [(r"\int_0^1 x\,dx", "1/2"), (r"\sum_{k=1}^{10}k", 55), (r"\lim_{x\to 0} x", 0)]
)
def test_an_answer_that_is_still_a_question_is_unfinished(answer, key):
    score = check(answer, key)
    assert score.value == 0.0
    assert score.info["reason"].startswith("unfinished")


HOSTILE = [
    "9**9**9**9",
    "9^{9^{9}}",
    "10**10000000000",
    "(10^{10})!",
    "((9!)!)!",
    r"\binom{100000000}{50000000}",
    r"\sum_{k=1}^{1000000000} k",
    r"\int \sin(x^{x^x}) dx",
    "(" * 300 + "1" + ")" * 300,
    "(x+y+z)^{300}",
    "(x+y+z+a+b+c)^{49}-(x+y+z+a+b+d)^{49}",
    "7^{7^{7^7}}",
    "1000000!",
    "2^{100000000}",
    r"\frac{1}{" * 100 + "2" + "}" * 100,
    "9" * 900,
    "word " * 10_000,
    "+".join(f"\\sin({n}x)" for n in range(1, 60)),
    "\\" * 500,
    "{" * 400,
    "\x00\ud800",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_score_zero_within_their_limit(answer):
    started = time.monotonic()
    assert check(answer, "x+1", timeout_seconds=1.0).value == 0.0
    assert time.monotonic() - started < 4.0  # 1 s, and a restart of the worker on a slow core


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {path}')",
        "open('{path}','w')",
        "exec(\"open('{path}','w')\")",
        "sin.__class__.__init__.__globals__['__builtins__']['open']('{path}','w')",
        "[open('{path}','w') for x in [1]]",
        "\\text{{open('{path}','w')}}",
    ],
)
def test_python_in_an_answer_is_not_run(text, tmp_path):
    target = tmp_path / "touched"
    assert check(text.format(path=target), "2").value == 0.0
    assert not target.exists()


def test_the_worker_is_alive_after_an_overrun():
    check("(x+y+z+a+b+c)^{49}", "(x+y+z+a+b+d)^{49}", timeout_seconds=0.3)
    assert check(r"\sqrt{12}", r"2\sqrt{3}").value == 1.0


def test_it_works_from_any_thread():
    scores = []
    thread = threading.Thread(target=lambda: scores.append(check(r"\sqrt{12}", r"2\sqrt{3}").value))
    thread.start()
    thread.join()
    assert scores == [1.0]


@pytest.mark.parametrize(
    ("completion", "settings", "value"),
    [
        (r"\boxed{1} no, \boxed{2}", {}, 1.0),
        (r"\boxed{2} and \boxed{1}", {}, 0.0),
        (r"\boxed{1} and \boxed{2}", {}, 0.0),
        (r"\boxed{2} then \boxed{3", {}, 1.0),
        (r"\boxed{\boxed{2}}", {}, 1.0),
        (r"\boxed{\text{the answer is }\{}", {}, 0.0),
        (r"<think>\boxed{2}</think>\boxed{3}", {}, 0.0),
        (r"<think>\boxed{3}</think>\boxed{2}", {}, 1.0),
        ("2", {}, 0.0),
        ("The answer is 2.", {"marker": "answer is"}, 1.0),
        ("#### 2\nand more", {"marker": "####"}, 1.0),
        ("#### 3\n#### 2", {"marker": "####"}, 1.0),
        ("<answer>2</answer>", {"tag": "answer"}, 1.0),
        (r"<answer>it is \boxed{2}</answer>", {"tag": "answer"}, 1.0),
    ],
)
def test_the_answer_is_found_where_it_is_said_to_stand(completion, settings, value):
    assert MathAnswer(**settings)(completion=completion, answer=2).value == value


def test_many_open_boxes_are_read_in_linear_time():
    started = time.perf_counter()
    assert MathAnswer()(completion="\\boxed{" * 100_000, answer=2).value == 0.0
    assert MathAnswer()(completion="\\boxed{" * 50_000 + "}" * 50_000, answer=2).value == 0.0
    assert time.perf_counter() - started < 5.0


def test_a_key_may_be_boxed_or_between_dollars():
    assert check("2", r"$\boxed{2}$").value == check("2", "$2$").value == 1.0


def test_a_batch_through_the_scorer_matches_single_calls_and_a_missing_key_is_invalid():
    rows = [{"answer": "2"}, {"answer": r"2\sqrt{3}"}, {}, {"answer": 3}]
    texts = [r"\boxed{2}", r"\boxed{\sqrt{12}}", r"\boxed{1}", r"\boxed{1}"]
    with Scorer(MathAnswer()) as scorer:
        verdicts = scorer.score([Sample("", text, row=row) for text, row in zip(texts, rows, strict=True)])
    assert [(verdict.value, verdict.valid) for verdict in verdicts] == [(1, True), (1, True), (0, False), (0, True)]
    assert "no column 'answer'" in verdicts[2].reason


def test_inside_a_scorers_worker_an_overrun_is_a_zero():
    part = {"fn": MathAnswer(), "execution": "process", "timeout_seconds": 30.0}
    with Scorer({"math": part}) as scorer:
        verdict = scorer.score([Sample("", r"\boxed{\sqrt{12}}", row={"answer": r"2\sqrt{3}"})])[0]
    assert verdict.value == 1.0


def test_plain_numbers_take_microseconds():
    reward, completion = MathAnswer(), r"we get \boxed{1,234}"
    started = time.process_time()
    for _ in range(1000):
        reward(completion=completion, answer="1234")
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"), ({"boxed": False}, "boxed, marker or tag")],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MathAnswer(**settings)
