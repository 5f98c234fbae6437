"""Rewritten formulas are the same, formulas with one other coefficient are not; plain numeric evaluation tells."""

import random

import mpmath
import sympy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rewards.math.equivalence import judge
from rewards.math.pair import Pair

X, Y = sympy.symbols("x y")
MONOMIALS = [sympy.Integer(1), X, Y, X**2, X * Y, Y**2, X**3, X**2 * Y]
WAVES = [sympy.Integer(1), sympy.sin(X), sympy.cos(X), sympy.sin(2 * X), sympy.cos(X) ** 2, sympy.tan(Y)]
coefficients = st.lists(st.integers(-9, 9), min_size=8, max_size=8)
six = st.lists(st.integers(-9, 9), min_size=6, max_size=6)
changes = st.integers(-9, 9).filter(bool)
PROFILE = settings(deadline=None, max_examples=40)


def combination(numbers, parts):
    return sympy.Add(*(number * part for number, part in zip(numbers, parts, strict=True)))


def agree(first, second):
    """Whether two formulas have the same value at eight points: what is true, by evaluation alone."""
    generator = random.Random(0)
    function = sympy.lambdify((X, Y), [first, second], "mpmath")
    with mpmath.workdps(40):
        for _ in range(8):
            point = [mpmath.mpf(generator.randint(-3000, 3000)) / 1013 for _ in range(2)]
            one, other = function(*point)
            if abs(one - other) > mpmath.mpf(10) ** -30 * max(abs(one), abs(other), 1):
                return False
    return True


def verdict(key, answer):
    right, reason = judge(Pair(sympy.latex(key), sympy.latex(answer)))
    assert right is not None, reason
    return right


def check_equal(key, answer):
    assume(key.free_symbols >= answer.free_symbols and key.free_symbols)
    assert agree(key, answer)
    assert verdict(key, answer), (sympy.latex(key), sympy.latex(answer))


def check_different(key, answer):
    assume(key.free_symbols or answer.free_symbols)
    assume(not agree(key, answer))
    assert not verdict(key, answer), (sympy.latex(key), sympy.latex(answer))


@PROFILE
@given(coefficients, coefficients)
@example([1, 1, 0, 0, 0, 0, 0, 0], [-1, 1, 0, 0, 0, 0, 0, 0])
def test_products_and_their_expansions_are_equal(first, second):
    product = combination(first, MONOMIALS) * combination(second, MONOMIALS)
    check_equal(product, sympy.expand(product))
    check_equal(sympy.expand(product), sympy.factor(product))


@PROFILE
@given(coefficients, coefficients, st.integers(1, 9))
def test_sums_of_fractions_and_one_fraction_are_equal(first, second, number):
    below = combination(second, MONOMIALS)
    assume(below != 0)
    total = number / below + combination(first, MONOMIALS) / (X**2 + 1)
    check_equal(total, sympy.together(total))
    check_equal(total, sympy.cancel(total))


@PROFILE
@given(six, st.integers(-9, 9))
def test_trigonometric_identities_are_equal(numbers, shift):
    wave = combination(numbers, WAVES) + shift * sympy.sin(X + Y)
    check_equal(wave, sympy.expand_trig(wave))
    check_equal(wave, wave.subs(sympy.cos(X) ** 2, 1 - sympy.sin(X) ** 2))
    check_equal(wave, wave.rewrite(sympy.tan, sympy.sin).rewrite(sympy.tan, sympy.cos))


@PROFILE
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_powers_and_logarithms_rewritten_are_equal(first, second, power):
    check_equal(first * sympy.exp(X) ** power + second, second + first * sympy.exp(power * X))
    check_equal(sympy.sqrt(first) * X, X * first / sympy.sqrt(first))
    check_equal(X**power * sympy.log(first + 1), sympy.log((first + 1) ** second, evaluate=False) * X**power / second)


@PROFILE
@given(coefficients, st.integers(0, 7), changes, st.sampled_from(["expand", "factor", "as it is"]))
def test_a_polynomial_with_one_other_coefficient_is_different(numbers, place, change, form):
    changed = [*numbers]
    changed[place] += change
    answer = combination(changed, MONOMIALS)
    rewritten = {"expand": sympy.expand, "factor": sympy.factor, "as it is": lambda formula: formula}[form](answer)
    check_different(combination(numbers, MONOMIALS), rewritten)


@PROFILE
@given(coefficients, coefficients, st.integers(0, 7), st.integers(-3, 3).filter(bool))
def test_a_fraction_with_one_other_coefficient_is_different(above, below, place, change):
    divisor = combination(below, MONOMIALS)
    assume(divisor != 0)
    changed = [*above]
    changed[place] += change
    check_different(combination(above, MONOMIALS) / divisor, sympy.together(combination(changed, MONOMIALS) / divisor))


@PROFILE
@given(six, st.integers(0, 5), changes)
def test_a_wave_with_one_other_coefficient_is_different(numbers, place, change):
    changed = [*numbers]
    changed[place] += change
    check_different(combination(numbers, WAVES), sympy.expand_trig(combination(changed, WAVES)))


@PROFILE
@given(coefficients, st.integers(30, 900))
def test_a_coefficient_that_is_tiny_still_counts(numbers, digits):
    key = combination(numbers, MONOMIALS)
    assume(key.free_symbols)
    right, _ = judge(Pair(sympy.latex(key), f"{sympy.latex(key)} + 10^{{-{digits}}}"))
    assert right is False


@PROFILE
@given(st.integers(-999, 999), st.integers(1, 999), st.integers(-999, 999), st.integers(1, 999))
def test_fractions_are_equal_when_their_cross_products_are(a, b, c, d):
    right, _ = judge(Pair(rf"\frac{{{a}}}{{{b}}}", f"{c}/{d}"))
    assert right is (a * d == b * c)
    assert judge(Pair(rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{a * d}}}{{{b * d}}}")) == (True, "equal")


@PROFILE
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sets_are_unordered_and_tuples_are_not(numbers, generator):
    shuffled = [*numbers]
    generator.shuffle(shuffled)
    key, answer = (", ".join(map(str, one)) for one in (numbers, shuffled))
    assert judge(Pair(rf"\{{{key}\}}", rf"\{{{answer}\}}"))[0] is True
    assert judge(Pair(key, answer))[0] is True
    assert judge(Pair(f"({key})", f"({answer})"))[0] is (numbers == shuffled)
    assert judge(Pair(rf"\{{{key}\}}", f"({answer})"))[0] is False


@PROFILE
@given(coefficients, changes, st.integers(0, 7), changes)
def test_equations_are_equal_up_to_a_factor(numbers, factor, place, change):
    formula = combination(numbers, MONOMIALS)
    assume(isinstance(formula, sympy.Add) and X in formula.free_symbols)
    equation = f"{sympy.latex(formula)} = 0"
    assert judge(Pair(equation, f"{sympy.latex(factor * formula)} = 0"))[0] is True
    assert judge(Pair(equation, f"{sympy.latex(factor * formula + X)} = {sympy.latex(X)}"))[0] is True
    changed = [*numbers]
    changed[place] += change
    other = combination(changed, MONOMIALS)
    assume(sympy.cancel(other / formula).free_symbols)
    assert judge(Pair(equation, f"{sympy.latex(other)} = 0"))[0] is False
