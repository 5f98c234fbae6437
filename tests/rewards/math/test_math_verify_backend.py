import importlib.util

import pytest

from rewards import Sample
from rewards.errors import Failure
from rewards.math import MathAnswer

INSTALLED = importlib.util.find_spec("math_verify") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason="the extra math-verify is not installed")


def value(answer, key, **settings):
    return MathAnswer(backend="math-verify", **settings)(completion=rf"\boxed{{{answer}}}", answer=key).value


@pytest.mark.skipif(INSTALLED, reason="the extra math-verify is installed")
def test_without_the_package_the_user_is_told_what_to_install():
    with pytest.raises(ValueError, match=r"pip install 'textenv\[math-verify\]'"):
        MathAnswer(backend="math-verify")


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend must be one of own, math-verify, got 'sympy'"):
        MathAnswer(backend="sympy")


@needs_package
@pytest.mark.parametrize(
    ("answer", "key"), [(r"\sqrt{12}", r"2\sqrt{3}"), ("2x+2", "2(x+1)"), (r"\{2,1\}", r"\{1,2\}"), ("x = 5", "5")]
)
def test_math_verify_judges_in_our_worker(answer, key):
    assert value(answer, key) == 1.0


@needs_package
@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("2+2", "4"),
        (r"\sum_{k=1}^{10}k", "55"),
        (r"\int_0^1 x dx", "1/2"),
        (r"\sqrt{13}", r"2\sqrt{3}"),
        ("9**9**9**9", r"2\sqrt{3}"),
    ],
)
def test_what_is_unfinished_wrong_or_hostile_is_refused(answer, key):
    assert value(answer, key, timeout_seconds=1.0) == 0.0
    assert value(r"\sqrt{12}", r"2\sqrt{3}") == 1.0


@needs_package
def test_a_key_that_math_verify_cuts_to_a_stump_is_a_failure_and_not_a_match():
    sample = Sample("", r"\boxed{\frac{1}{\mathrm{e}^2}}", row={"answer": r"\frac{1}{\mathrm{e}}"})
    (score,) = MathAnswer(backend="math-verify").score_batch([sample])
    assert isinstance(score, Failure)
    assert "was not understood" in score.reason
