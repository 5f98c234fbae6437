import threading
import time

import pytest

from rewards import Sample, Scorer
from rewards.errors import Failure
from rewards.math import MathAnswer


def check(answer, key, **settings):
    return MathAnswer(**settings)(completion=rf"so it is \boxed{{{answer}}}.", answer=key)


EQUAL = [
    ("57", 57),
    ("-5", "-5"),
    ("+5", "5"),
    ("1,234", 1234),
    (r"11,\! 111", "11111"),
    ("14{,}916", "14916"),
    ("1 000", "1000"),
    ("1,000.50", "1000.5"),
    ("2,74", "2.74"),
    (r"\frac{3}{4}", 0.75),
    (r"\frac34", "3/4"),
    (r"-\dfrac{10}{9}", "-10/9"),
    (r"\frac{-10}{9}", "-10/9"),
    ("0.50", "1/2"),
    (r"50\%", "0.5"),
    (r"28\%", "28"),
    ("28 percent", r"28\%"),
    (r"\$5.00", 5),
    ("0.0833333", r"\frac{1}{12}"),
    (r"\sqrt{17}", 4.123105625617661),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt 2}"),
    (r"2\sqrt3", r"\sqrt{12}"),
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    (r"2^{1/2}", r"\sqrt{2}"),
    (r"2^{10} \cdot 3", r"3 \cdot 2^{10}"),
    (r"\frac{9}{4}\pi", r"\frac{9\pi}{4}"),
    ("9pi/4", r"\frac{9\pi}{4}"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    (r"-1\frac{1}{2}", "-3/2"),
    ("1 1/2", "3/2"),
    ("1.5e3", 1500),
    (r"1.5 \times 10^{3}", "1500"),
    (r"6.02 \cdot 10^{23}", r"6.02 \times 10^{23}"),
    ("10!", r"10 \cdot 9!"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    ("n!", "n(n-1)!"),
    (r"\log_2 6", r"1 + \log_2 3"),
    (r"\log_{2}{6}", r"\frac{\ln 6}{\ln 2}"),
    (r"\ln 8", r"3 \ln 2"),
    (r"\frac{\ln 9}{2}", r"\ln 3"),
    (r"3+4i", r"4i + 3"),
    (r"(1+i)^2", "2i"),
    (r"e^{i\pi/3}", r"\frac{1+i\sqrt{3}}{2}"),
    (r"x=\frac13", r"\frac{1}{3}"),
    (r"3 = x", "x=3"),
    (r"\text{Area} = 12", "12"),
    ("f(2) = 5", "5"),
    ("P(X=2) = 0.25", "1/4"),
    ("x(x+1) = 0", "x^2 + x = 0"),
    (r"5\text{ cm}", "5"),
    (r"5 \text{ centimeters}", r"5\text{ cm}"),
    (r"15 \text{ square centimeters}", r"15\mbox{ cm}^2"),
    (r"15 \text{ cm^2}", r"15\text{ cm}^2"),
    (r"3 \text{ m/s}", r"3\ \mathrm{m}/\mathrm{s}"),
    ("125 miles", r"125\text{ mi}"),
    ("5\\text{ m}\u00b2", r"5\text{ m}^2"),
    ("2(x+1)", "2x+2"),
    (r"\tan^2(y)+1", r"\sec^2(y)"),
    (r"\cos 2x", r"1-2\sin^2 x"),
    (r"\sin(x)^2", r"\sin^2 x"),
    (r"\sin^{-1} x", r"\arcsin x"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"x\sqrt{x}", r"x^{3/2}"),
    (r"\sqrt{x^3}", r"x\sqrt{x}"),
    (r"|x-2|", r"|2-x|"),
    (r"\lceil x \rceil", r"-\lfloor -x \rfloor"),
    (r"\frac{1}{2^{n}}", "2^{-n}"),
    ("(-1)^{n+1}", "-(-1)^n"),
    (r"2^{2^n} \cdot 2", "2^{2^n+1}"),
    ("x**2", "x^2"),
    ("x\u00b2 \u2212 1", "(x-1)(x+1)"),
    ("2-2p", "2(1-p)"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"\{1,1,2\}", r"\{1,2\}"),
    (r"\emptyset", r"\{\}"),
    (r"3 \pm 2\sqrt{2}", r"3-\sqrt{8}, 3+\sqrt{8}"),
    (r"x = \frac{-1 \pm \sqrt{13}}{4}", r"\frac{-1-\sqrt{13}}{4}, \frac{\sqrt{13}-1}{4}"),
    (r"\{1\pm\sqrt5, -2\}", r"\{-2, 1-\sqrt5, 1+\sqrt5\}"),
    (r"(1, 4.5)", r"(1,\frac{9}{2})"),
    (r"\langle 1, 2 \rangle", "(1,2)"),
    ("100,200,300", "100, 200, 300"),
    (r"[0,1)\cup(2,\infty)", r"(2,\infty)\cup[0,1)"),
    (r"-2 \le x < 7", r"[-2,7)"),
    (r"7 > x \ge -2", r"[-2,7)"),
    (r"x > 5", r"(5,\infty)"),
    (r"(5,\infty)", r"5 < x"),
    (r"x < 1 \text{ or } x > 3", r"(-\infty,1)\cup(3,\infty)"),
    (r"x \ne 0", r"(-\infty,0)\cup(0,\infty)"),
    (r"|x| \le 2", r"[-2,2]"),
    (r"|x| > 2", r"(-\infty,-2)\cup(2,\infty)"),
    (r"\{x : x > 5\}", r"(5,\infty)"),
    (r"(-\infty, \infty)", r"\mathbb{R}"),
    (r"\mathbb{R}\setminus\{0, 1\}", r"\mathbb{R} \setminus \{1, 0\}"),
    (r"x \geq 5", r"5 \leq x"),
    ("34x+45y=20", "-34x-45y=-20"),
    (r"y = -\frac12 x + 1", "x + 2y = 2"),
    ("x+2y=2", r"y = -\frac12 x + 1"),
    (r"a < b < c", r"c > b > a"),
    (r"\begin{pmatrix}1 & 0 \\ 0 & \frac12\end{pmatrix}", r"\begin{bmatrix}1 & 0 \\ 0 & 0.5\end{bmatrix}"),
    (r"\text{(C)}", "C"),
    (r"\text{Even}", "even"),
    ("7:32", "7:32"),
    (r"x = \frac13 \approx 0.33", "1/3"),
    (r"x \approx 11", "11"),
    (r"\approx 11", "11"),
    ("= 11", "11"),
    (r"x_1", "x_{1}"),
    (r"204_5", "204_{5}"),
    ("y=2, x=1", "x=1, y=2"),
    ("(1, 2)", "x=1, y=2"),
    (r"\overline{AB}", "AB"),
]
DIFFERENT = [
    ("58", 57),
    ("0.33", "1/3"),
    ("0.2501", 0.25),
    ("1,2", "12"),
    ("1,2", "1.3"),
    ("(1,234)", "1234"),
    ("32, 349", "32349"),
    ("2 million", "2"),
    ("3 tenths", "3"),
    (r"3 \text{ squared}", "3"),
    (r"3\text{ not } 4", "3"),
    (r"5\text{ m}", r"5\text{ cm}"),
    (r"5\text{ m}", r"5\text{ m}^2"),
    (r"5 \text{ cents}", r"\$5"),
    (r"\frac{1}{\mathrm{e}+7}", r"\frac{1}{\mathrm{e}}"),
    (r"1+\frac{1}{\mathrm{e}}", r"1-\frac{1}{\mathrm{e}}"),
    ("2^{-99}", "2^{-98}"),
    ("10^{-20}", "10^{-21}"),
    (r"\sqrt{2}+10^{-40}", r"\sqrt{2}"),
    (r"\sqrt{2}+(1/2)^{900}", r"\sqrt{2}"),
    (r"\sqrt{2}\tanh(300)", r"\sqrt{2}"),
    ("x+10^{-40}", "x"),
    ("x+2^{-500}y", "x"),
    (r"\frac{1}{200!}", r"\frac{1}{201!}"),
    (r"\{1,2\}", "(1,2)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("(2,1)", "(1,2)"),
    ("(1,2]", "(1,2)"),
    ("AB", "BA"),
    ("x", "X"),
    (r"\sqrt{x^2}", "x"),
    ("|x-10|", "10-x"),
    (r"\sqrt{(x-5000)^2}", "5000-x"),
    ("x + y - y", "x"),
    (r"\lceil x \rceil", r"\lfloor x \rfloor + 1"),
    (r"3\frac{\pi}{4}", r"3+\frac{\pi}{4}"),
    (r"x > 5", "x < 5"),
    (r"x \ge 5", r"(5,\infty)"),
    (r"-x < 5", "x < -5"),
    ("x=2, y=1", "x=1, y=2"),
    ("y = 2", "x = 2"),
    ("2x = 10", "x = 5"),
    (r"\pm 2021", "2021"),
    (r"2 \text{ or } 3", "2"),
    ("2, 3", "2"),
    ("2 3", "6"),
    (r"12:00", "1:00"),
    ("54", "204_5"),
    ("204_6", "204_5"),
    (r"\begin{pmatrix}1 & 2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
    (r"\frac{1+\sqrt5}{2}", "2"),
    ("", "2"),
    ("yes", "no"),
    (r"x = \frac13 \approx 11", "11"),
    (r"\infty", "2"),
    (r"\infty", r"-\infty"),
    (r"\frac{1}{0}", "0"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
    ("i", "-i"),
    ("2i", "2"),
]


@pytest.mark.parametrize(("answer", "key"), EQUAL)
def test_equal_answers_score_one(answer, key):
    score = check(answer, key)
    assert (score.value, score.info["reason"]) == (1.0, "equal")


@pytest.mark.parametrize(("answer", "key"), DIFFERENT)
def test_different_answers_score_zero(answer, key):
    assert check(answer, key).value == 0.0


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
    ("answer", "key", "decimals", "value"),
    [
        ("0.33", "1/3", None, 0.0),
        ("0.33", "1/3", 2, 1.0),
        ("0.3", "1/3", 2, 0.0),
        ("0.34", "1/3", 2, 0.0),
        (r"\frac{70}{9}", "7.78", None, 0.0),
        (r"\frac{70}{9}", "7.78", 2, 1.0),
        ("2.6667", "8/3", None, 1.0),
        (r"(0.33, \sqrt{2})", r"(\frac13, \sqrt{2})", 2, 1.0),
    ],
)
def test_decimals_say_how_far_a_rounded_answer_may_stand_for_an_exact_key(answer, key, decimals, value):
    assert check(answer, key, decimals=decimals).value == value


def test_an_inequality_for_an_interval_can_be_refused():
    assert check("x > 5", r"(5,\infty)", inequalities=False).value == 0.0
    assert check(r"(5,\infty)", "x > 5", inequalities=False).value == 1.0


def test_a_key_may_be_boxed_or_between_dollars():
    assert check("2", r"$\boxed{2}$").value == check("2", "$2$").value == 1.0


def test_a_key_may_stand_in_a_worked_solution():
    solution = r"Since $3 - 1 = 2$, we see that the answer is $\boxed{\sqrt{12}}$."
    assert check(r"2\sqrt{3}", solution, key_in_text=True).value == 1.0
    assert check("2", "As one sees, $3 - 1$ is $2$.", key_in_text=True, anywhere="both").value == 1.0


def test_a_key_that_cannot_be_read_is_the_datas_failure_and_not_the_policys():
    (score,) = MathAnswer().score_batch([Sample("", r"\boxed{2}", row={"answer": r"\foo{2} +"})])
    assert isinstance(score, Failure)
    assert score.reason.startswith(r"the key '\\foo{2} +' was not understood")
    with pytest.raises(ValueError, match="was not understood"):
        check("2", r"\foo{2} +")
    assert check(r"\foo{2} +", r"\foo{2} +").value == 1.0
    assert check("2", "a regular hexagon").value == 0.0


def test_a_batch_through_the_scorer_matches_single_calls_and_a_missing_key_is_invalid():
    rows = [{"answer": "2"}, {"answer": r"2\sqrt{3}"}, {}, {"answer": 3}]
    texts = [r"\boxed{2}", r"\boxed{\sqrt{12}}", r"\boxed{1}", r"\boxed{1}"]
    with Scorer(MathAnswer()) as scorer:
        verdicts = scorer.score([Sample("", text, row=row) for text, row in zip(texts, rows, strict=True)])
    assert [(verdict.value, verdict.valid) for verdict in verdicts] == [(1, True), (1, True), (0, False), (0, True)]
    assert "no column 'answer'" in verdicts[2].reason


def test_inside_a_scorers_worker_it_judges_there():
    part = {"fn": MathAnswer(), "execution": "process", "timeout_seconds": 30.0}
    with Scorer({"math": part}) as scorer:
        verdict = scorer.score([Sample("", r"\boxed{\sqrt{12}}", row={"answer": r"2\sqrt{3}"})])[0]
    assert verdict.value == 1.0


@pytest.mark.parametrize(("text", "key"), [(r"we get \boxed{1,234}.", "1234"), (r"\boxed{\frac{3}{4}}", "3/4")])
def test_plain_numbers_take_at_most_50_microseconds(text, key):
    reward, seconds = MathAnswer(), []
    for _ in range(5):
        started = time.process_time()
        for _ in range(2000):
            assert reward(completion=text, answer=key).value == 1.0
        seconds.append((time.process_time() - started) / 2000)
    assert min(seconds) < 50e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"boxed": False, "marker": None}, "boxed, marker, tag or anywhere"),
        ({"several": "first"}, "several must be one of refuse, last, got 'first'"),
        ({"anywhere": "word"}, "anywhere must be null or one of formula, number, both, got 'word'"),
        ({"decimals": 0}, "decimals must be at least 1, got 0"),
        ({"choices": ["AB"]}, "choices must be letters"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MathAnswer(**settings)
