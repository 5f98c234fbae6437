"""A policy that boxes the question has not answered it."""

import pytest

from rewards import Sample
from rewards.math import MathAnswer


def check(answer, key, **settings):
    return MathAnswer(**settings)(completion=rf"so it is \boxed{{{answer}}}.", answer=key)


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (r"\int_0^1 x\,dx", "1/2"),
        (r"\int_0^1 x\,dx = \int_0^1 x dx", "1/2"),
        (r"\sum_{k=1}^{10} k", 55),
        (r"\prod_{k=1}^{5} k", 120),
        (r"\lim_{x\to 0} x", 0),
        (r"\lim_{x \to 0} \frac{\sin x}{x}", 1),
        (r"\det A", 2),
        (r"\begin{vmatrix}1 & 0\\0 & 2\end{vmatrix}", "2.000000"),
        (r"\frac{d}{dx} x^2", "2x"),
        (r"\frac{d}{dx}", r"\frac{1}{x}"),
        (r"\frac{\mathrm{d}y}{\mathrm{d}x}", r"\frac{y}{x}"),
        (r"\frac{d^2}{dx^2} x^3", "6x"),
        (r"\max(1, 2)", 2),
        (r"\gcd(4, 6)", 2),
    ],
)
def test_an_operator_that_is_still_to_be_worked_out_is_no_answer(answer, key):
    score = check(answer, key)
    assert score.value == 0.0
    assert score.info["reason"].startswith("unfinished")


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("2+2", 4),
        (r"2 \cdot 2", 4),
        ("2(2)", 4),
        ("2^2", 4),
        ("5-1", 4),
        ("-(-4)", 4),
        (r"\sqrt{16}", 4),
        ("4!", 24),
        (r"\binom{5}{2}", 10),
        (r"\log_2 16", 4),
        (r"\lfloor 4.5 \rfloor", 4),
        ("|-4|", 4),
        (r"\cos 0", 1),
        (r"e^{i\pi}", -1),
        (r"\frac{1+1}{3}", "2/3"),
        ("0.25+0.25", "0.5"),
        (r"3.1 \cdot 2.51", "7.781"),
        (r"2.5 \cdot 3.1127", "7.782"),
        ("(1+1, 3)", "(2, 3)"),
        (r"\sin 60^\circ", r"\frac{\sqrt{3}}{2}"),
        (r"\arctan 1", r"\frac{\pi}{4}"),
        (r"\log_4 2", r"0.5"),
    ],
)
def test_arithmetic_that_is_still_to_be_done_is_no_answer(answer, key):
    score = check(answer, key)
    assert score.value == 0.0
    assert score.info["reason"].startswith("unfinished")


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (r"\frac{6}{4}", "3/2"),
        (r"\frac3{3}", 1),
        (r"1\frac{1}{2}", "1.5"),
        ("1 1/2", "1.5"),
        ("-2 1/2", "-2.5"),
        (r"-1\frac{1}{2}", "-1.5"),
        (r"2 \times 10^{3}", 2000),
        (r"1.5 \cdot 10^{-2}", "0.015"),
        ("1.5e3", 1500),
        ("10^{6}", 1000000),
        ("2 million", 2000000),
        (r"6 \cdot 7 = 42", 42),
        ("x = 40 + 2 = 42", 42),
        (r"\left(\frac{1}{3}\right)", "1/3"),
        (r"0.\overline{3}", "1/3"),
        ("0.1(6)", "1/6"),
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"\sqrt{2}+1", r"1+\sqrt{2}"),
        (r"\ln 4", r"2\ln 2"),
        (r"\sqrt{17}", "4.1231056"),
        ("2+2", "2+2"),
        ("2(x+1)", "2x+2"),
        (r"\sin 20^\circ + \sin 20^\circ", r"2\sin 20^\circ"),
    ],
)
def test_an_answer_written_out_as_far_as_the_key_is_finished(answer, key):
    score = check(answer, key)
    assert (score.value, score.info["reason"]) == (1.0, "equal")


def test_a_formula_of_the_prompt_is_no_answer_to_it():
    prompt = r"Simplify $\sin(a+b) - \sin(a-b)$."
    key, copied, answer = r"2\sin b\cos a", r"\boxed{\sin(a + b)-\sin(a-b)}", r"\boxed{2 \cos a \sin b}"
    reward = MathAnswer()
    score = reward(completion=copied, answer=key, prompt=prompt)
    assert (score.value, score.info["reason"]) == (0.0, "unfinished: it repeats a formula of the question")
    assert reward(completion=copied, answer=key).value == 1.0
    assert reward(completion=answer, answer=key, prompt=prompt).value == 1.0
    batch = [Sample(prompt, copied, row={"answer": key}), Sample(prompt, answer, row={"answer": key})]
    assert [score.value for score in reward.score_batch(batch)] == [0.0, 1.0]


def test_a_choice_between_the_prompts_numbers_may_repeat_one():
    completion, prompt = r"\boxed{\frac{2}{4}}", r"Is $\frac{2}{4}$ or $1$ larger than the other half?"
    assert MathAnswer()(completion=completion, answer="1/2", prompt=prompt).value == 1.0


def test_an_answer_much_longer_than_the_key_is_refused():
    score = check("x" + " + 0" * 20, "x")
    assert (score.value, score.info["reason"]) == (0.0, "longer than 4 x the key + 32 characters")
