"""Verdicts that math-verify 0.9.0 gets wrong, and what we say instead."""

import pytest

from rewards.math import MathAnswer


def check(answer, key):
    return MathAnswer()(completion=rf"\boxed{{{answer}}}", answer=key)


FALSE_POSITIVES = [
    (r"\frac{1}{\mathrm{e}}", r"\frac{1}{\mathrm{e}+7}"),
    (r"\frac{1}{\mathrm{e}}", r"\frac{1}{\mathrm{e}^2}"),
    (r"\frac{3}{\mathrm{s}}", r"\frac{3}{\mathrm{cm}}"),
    (r"1-\frac{1}{\mathrm{e}}", r"1+\frac{1}{\mathrm{e}}"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("1/2004!", "1/2006!"),
    (r"\frac{1}{204!}", r"\frac{1}{206!}"),
    ("2^-99", "2^-98"),
    ("2^{-99}", "2^{-98}"),
    ("10^-20", "10^-21"),
    (r"\{1,2\}", "(1,2)"),
    (r"5\text{ m}", r"5\text{ cm}"),
    ("AB", "BA"),
    ("1/2", r"\int_0^1 x dx"),
    ("55", r"\sum_{k=1}^{10}k"),
    ("4", "2+2"),
]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (r"3+\frac{\sqrt{2}}{2}", r"3\frac{\sqrt{2}}{2}"),
        ("xy=6", "x=6"),
        ("xy=6", "6"),
        ("|x|=5", "x=5"),
        (r"\sin x=\frac12", r"x=\frac12"),
        ("5", r"\frac{x}{2}=5"),
        (r"(5,\infty)", r"\frac{x}{2}>5"),
        ("5", r"5\text{ million}"),
        ("24", r"24\text{ base five}"),
        ("5", r"5\text{ below zero}"),
        ("f(2x)", "2f(x)"),
        ("f(a)+f(b)", "f(a+b)"),
        ("P(A)+P(B)", "P(A+B)"),
        ("42", "41=42"),
    ],
)
def test_what_a_reviewer_found_is_refused(key, answer):
    (score,) = MathAnswer().score_batch([_sample(answer, key)])
    assert getattr(score, "value", 0.0) == 0.0


def test_functions_of_equal_arguments_and_equations_that_hold_are_equal():
    assert check("1+f(x+1)", "f(1+x)+1").value == 1.0
    assert check("P(1+r)", "P+Pr").value == 1.0
    assert check(r"6 \cdot 7 = 42", "42").value == 1.0


def test_a_product_of_a_number_and_a_fraction_of_roots_is_one():
    assert check(r"3\frac{\sqrt{2}}{2}", r"\frac{3\sqrt{2}}{2}").value == 1.0
    assert check(r"3\frac{1}{2}", "3.5").value == 1.0


@pytest.mark.parametrize(("key", "answer"), FALSE_POSITIVES)
def test_false_positives_of_math_verify_are_refused(key, answer):
    assert check(answer, key).value == 0.0


@pytest.mark.parametrize(("answer", "key"), FALSE_POSITIVES[:13])
def test_they_are_refused_the_other_way_around_too(answer, key):
    score = MathAnswer().score_batch([_sample(answer, key)])[0]
    assert getattr(score, "value", 0.0) == 0.0


def _sample(answer, key):
    from rewards import Sample

    return Sample("", rf"\boxed{{{answer}}}", row={"answer": key})


@pytest.mark.parametrize(
    ("key", "answer", "value"),
    [
        ("0.5", r"50\%", 1.0),
        (r"50\%", "0.5", 1.0),
        (r"50\%", "50", 1.0),  # the sign is often left out where the question asks for percent
        ("50", r"50\%", 1.0),
        ("5", r"50\%", 0.0),
        (r"e^{i\pi}", "-1", 1.0),
        ("-1", r"e^{i\pi}", 0.0),  # unfinished: it may have been the question
        (r"90^\circ", r"\frac{\pi}{2}", 1.0),
        (r"\frac{\pi}{2}", r"90^\circ", 1.0),
        (r"90^\circ", "90", 1.0),
        ("90", r"90^\circ", 1.0),
        ("90", r"\frac{\pi}{2}", 0.0),
        ("1/3", r"0.\overline{3}", 1.0),
        (r"0.\overline{3}", r"\frac{1}{3}", 1.0),
        ("1/3", "0.3333", 1.0),
        ("1/3", "0.33", 0.0),
    ],
)
def test_false_negatives_of_math_verify_are_decided(key, answer, value):
    assert check(answer, key).value == value


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (r"\overline{z}", "z"),
        (r"\bar z", "z"),
        (r"2\overline{z} + 1", "2z + 1"),
        (r"\hat{p}", "p"),
        (r"\bar zw", r"\overline{zw}"),
        (r"\overline{A+B}", r"\overline{A}+\overline{B}"),
        (r"\overrightarrow{AB}", "AB"),
        (r"\tilde{x}", r"\hat{x}"),
    ],
)
def test_a_sign_above_a_letter_makes_another_unknown_of_it(key, answer):
    assert check(answer, key).value == 0.0
    assert check(key, answer).value == 0.0


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (r"\overline{z}", r"\bar{z}"),
        (r"\bar zw", r"w\overline{z}"),
        (r"\overline{z+w}", r"\bar{w+z}"),
        (r"\hat\theta + 1", r"1 + \widehat{\theta}"),
        (r"\vec{v} + 2\vec{u}", r"2\mathbf{u} + \mathbf{v}"),
        (r"\overrightarrow{AB}", r"\vec{AB}"),
    ],
)
def test_the_same_sign_may_be_written_in_other_ways(key, answer):
    assert check(answer, key).value == 1.0


@pytest.mark.parametrize(
    ("key", "answer"),
    [("dog", "god"), ("no", "on"), ("red", "d e r"), ("BIG DOG", "DOG BIG"), ("red, dog", "god, red"), ("dog", "go d")],
)
def test_a_word_is_no_product_of_its_letters(key, answer):
    assert check(answer, key).value == 0.0
    assert check(key, answer).value == 0.0


@pytest.mark.parametrize(
    ("key", "answer"), [("xy", "yx"), ("abc", "a b c"), ("abc", r"c \cdot ab"), ("2abc", "abc*2"), ("Dog", "dog")]
)
def test_products_of_unknowns_are_still_read(key, answer):
    assert check(answer, key).value == 1.0


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (r"\{2,1\}", "x=1, y=2"),
        (r"\{1,2\}", "x=1, y=2"),
        (r"\{1,2\}", r"\{x=1, y=2\}"),
        ("(1,2)", "y=1, x=2"),
        ("(x,y)=(1,2)", "(y,x)=(1,2)"),
        ("(m,b)=(2,3)", "b=2, m=3"),
        ("x=1, y=2", "y=1, x=2"),
        ("x=1, y=2", "2, 1"),
    ],
)
def test_named_values_are_no_set_of_numbers(key, answer):
    assert check(answer, key).value == 0.0
    assert check(key, answer).value == 0.0


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("(1,2)", "x=1, y=2"),
        ("(1,2)", "y=2, x=1"),
        ("(x,y)=(1,2)", "(y,x)=(2,1)"),
        ("(m,b)=(2,3)", "b=3, m=2"),
        (r"\{1,2\}", "x=2, x=1"),
        (r"\{1,2\}", "x_1=2, x_2=1"),
        (r"\{x=1, y=2\}", "y=2, x=1"),
        ("x=1, y=2", "y=2, x=1"),
        ("x=1, y=2", "1, 2"),
    ],
)
def test_named_values_in_any_order_say_the_same(key, answer):
    assert check(answer, key).value == 1.0


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (r"\vec{a} \times \vec{b}", r"\vec{b} \times \vec{a}"),
        (r"\frac{ac}{b}", "a/bc"),  # or is it a/(bc)?
        (r"\frac{x}{2y}", "x/2y"),
        (r"\mathbb{R}\setminus\{1,2\}", r"x \ne 2"),
        (r"50\text{ km/h}", "50 m/s"),
        (r"5\text{ m}", "5 cm"),
        (r"\{\{1\}\}", r"\{1\}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"),
        ("0.667", "2/3=0.767"),
    ],
)
def test_other_values_are_refused(key, answer):
    (score,) = MathAnswer().score_batch([_sample(answer, key)])
    assert getattr(score, "value", 0.0) == 0.0


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("42", r"\textbf{42}"),
        ("3", r"\text{3 apples}"),
        (r"5\text{ m}", "5 m"),
        (r"50\text{ km/h}", "50 km/h"),
        ("9.8 m/s^2", r"9.8\ \mathrm{m/s^2}"),
        (r"5000\text{ m}", r"5\text{ km} = 5000\text{ m}"),
        ("2m", "m+m"),
        (r"\mathbb{R}\setminus\{2, 1\}", r"(-\infty,1)\cup(1,2)\cup(2,\infty)"),
        (r"\{1\}", "x=1"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\langle 1,2 \rangle"),
        ("0.667", "2/3=0.667"),
        ("1", "|AB|=1"),
        (r"\frac{x}{2}+3", "1/2x+3"),
        ("5", r"5 \$"),
    ],
)
def test_the_same_value_in_another_dress_is_accepted(key, answer):
    assert check(answer, key).value == 1.0
