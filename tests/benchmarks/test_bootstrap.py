import numpy as np
import pytest

from benchmarks.bootstrap import bounded, degrees_of_freedom, draw_means, estimate, shares, variances
from benchmarks.student import quantile, two_sided_p, within
from benchmarks.verdicts import holm


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (10**6, 1.9600)]
)
def test_the_quantiles_of_t_are_those_of_the_tables(freedom, t):
    assert quantile(0.95, freedom) == pytest.approx(t, abs=2e-4)
    assert two_sided_p(-t, freedom) == pytest.approx(0.05, abs=2e-5)


def test_t_with_one_and_two_degrees_of_freedom_has_its_closed_form():
    """One: 2 atan(t) / pi. Two: t / sqrt(2 + t^2)."""
    assert within(2.5, 1) == pytest.approx(2 * np.arctan(2.5) / np.pi)
    assert within(2.5, 2) == pytest.approx(2.5 / np.sqrt(2 + 2.5**2))
    assert within(np.inf, 3) == 1


def test_two_seeds_and_two_problems_are_drawn_one_of_each():
    """One seed and one problem a draw: any of the four values, mean 2, variance (4 + 1 + 0 + 9) / 4."""
    values = np.array([[0.0, 1.0], [2.0, 5.0]])
    drawn = draw_means(values, 20_000, np.random.default_rng(0))
    assert set(drawn.tolist()) == {0.0, 1.0, 2.0, 5.0}
    assert drawn.mean() == pytest.approx(2, abs=0.05)
    assert drawn.var() == pytest.approx(14 / 4, rel=0.03)


def test_a_draw_has_one_fewer_than_there_are():
    drawn = shares(4, 100, np.random.default_rng(0))
    assert np.array_equal(drawn.sum(1), np.ones(100))
    assert set((drawn * 3).round(9).ravel()) <= {0, 1, 2, 3}
    assert shares(1, 3, np.random.default_rng(0)).tolist() == [[1], [1], [1]]


def test_the_parts_of_the_variance_are_those_of_the_analysis_of_variance():
    """Seed means 0.5 and 3.5: variance 4.5 over 2 seeds. Problem means 1 and 3: 2 over 2. Left: +-0.5 four times, so
    1 over 4 values and 1 degree of freedom."""
    parts = variances(np.array([[0.0, 1.0], [2.0, 5.0]]))
    assert (parts.seeds, parts.problems, parts.rest) == (2.25, 1.0, 0.25)


def test_what_seeds_and_problems_do_not_explain_counts_once():
    """The draws' variance is 2.25 + 1 + 0.25 = 3.5; one of the three times that the rest is in it is right: 3.0.
    Two seeds leave one degree of freedom."""
    values = np.array([[0.0, 1.0], [2.0, 5.0]])
    e = estimate(values, draws=50_000)
    assert e.mean == 2
    assert e.error == pytest.approx(np.sqrt(3.0), rel=0.02)
    assert e.high - e.mean == pytest.approx(12.7062 * e.error, rel=1e-4)
    assert e.p == pytest.approx(1 - 2 / np.pi * np.arctan(2 / e.error))


def test_means_of_seeds_alone_have_the_interval_of_students_t():
    """1, 2, 6: mean 3, deviation sqrt(7), error sqrt(7 / 3), t(2) = 4.3027."""
    e = estimate(np.array([[1.0], [2.0], [6.0]]), draws=100_000)
    assert e.error == pytest.approx(np.sqrt(7 / 3), rel=0.01)
    assert e.low == pytest.approx(3 - 4.3027 * np.sqrt(7 / 3), abs=0.1)
    assert e.num_problems == 1


def test_problems_give_degrees_of_freedom_where_seeds_agree_and_only_from_four_seeds_on():
    problems = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    for num_seeds, freedom in ((3, 2), (4, 5)):
        values = np.tile(problems, (num_seeds, 1))
        parts = variances(values)
        assert parts.seeds == 0
        assert degrees_of_freedom(parts, parts.problems, num_seeds, 6) == freedom


def test_values_that_are_all_equal_leave_no_doubt():
    same, none = estimate(np.full((3, 4), 0.7)), estimate(np.zeros((3, 4)))
    assert (same.low, same.high, same.p) == pytest.approx((0.7, 0.7, 0.0))
    assert (none.low, none.high, none.p) == (0, 0, 1)


def test_a_few_seeds_that_say_the_same_may_do_so_by_chance():
    """Where the signs of S differences are a coin's, all are alike with probability 2 / 2^S."""
    assert [estimate(np.full((s, 1), 0.22)).p for s in (2, 3, 6)] == [0.5, 0.25, 1 / 32]
    assert estimate(np.zeros((3, 1))).p == 1


def test_shares_that_never_differed_still_have_an_interval():
    """Wilson's for 0 of 96 problems: z^2 / (96 + z^2) = 3.8415 / 99.8415."""
    e = bounded(estimate(np.zeros((3, 96))), -1, 1)
    assert (e.low, e.high) == pytest.approx((-0.038476, 0.038476), abs=1e-6)
    assert bounded(estimate(np.ones((3, 96))), -1, 1).high == 1


def test_one_seed_has_an_interval_over_problems_and_no_verdict():
    e = estimate(np.array([[0.0, 1.0, 1.0, 0.0]]))
    assert e.p is None
    assert e.low < 0.5 < e.high
    single = estimate(np.array([[0.3]]))
    assert (single.mean, single.low, single.p) == (0.3, None, None)


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.array([[np.nan, 1.0]]), np.zeros((2, 0))])
def test_nothing_is_said_of_what_is_no_number(values):
    with pytest.raises(ValueError, match="values must be finite numbers of at least one seed and problem"):
        estimate(values)


def test_holm_multiplies_by_how_many_are_left():
    """0.01 x 4, then 0.02 x 3, 0.03 x 2 and 0.04, of which none may be below the one before; no p beyond 1."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, None, 0.8]) == [1.0, None, 1.0]
    assert holm([]) == []


def agents(generator, count, *, num_seeds, num_problems, seed_deviation, better=0.0):
    """Right or wrong, S by M, of agents whose logits have a problem's difficulty, an agent's own taste, a seed's luck;
    the last agent is better by `better`."""
    difficulty = generator.normal(size=num_problems)
    out = []
    for agent in range(count):
        logits = difficulty + 0.5 * generator.normal(size=num_problems) + better * (agent == count - 1)
        logits = logits + seed_deviation * generator.normal(size=(num_seeds, 1))
        out.append((generator.random((num_seeds, num_problems)) < 1 / (1 + np.exp(-logits))).astype(float))
    return out


WORLDS = [(3, 100, 1.0), (5, 100, 0.3), (5, 30, 0.0)]


@pytest.mark.parametrize(("num_seeds", "num_problems", "seed_deviation"), WORLDS)
def test_equal_agents_are_called_different_no_more_often_than_promised(num_seeds, num_problems, seed_deviation):
    """The true difference is 0, so a 95 % interval without 0 is a false alarm: at most 5 % and three standard errors
    of 250 repetitions."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(250):
        a, b = agents(generator, 2, num_seeds=num_seeds, num_problems=num_problems, seed_deviation=seed_deviation)
        e = estimate(b - a, draws=200)
        assert (e.p < 0.05) == (e.low > 0 or e.high < 0)
        alarms += e.p < 0.05
    assert alarms / 250 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 250)


def test_percentiles_of_three_seeds_would_raise_false_alarms():
    """Why the interval is not made of percentiles; the test above can fail."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        a, b = agents(generator, 2, num_seeds=3, num_problems=100, seed_deviation=1.0)
        low, high = np.quantile(draw_means(b - a, 200, generator), [0.025, 0.975])
        alarms += low > 0 or high < 0
    assert alarms / 200 > 0.1


def test_among_four_equal_agents_the_chance_of_any_false_alarm_is_as_promised():
    generator = np.random.default_rng(0)
    any_alarm = plain = 0
    for _ in range(120):
        found = agents(generator, 4, num_seeds=5, num_problems=60, seed_deviation=0.5)
        p = [estimate(found[j] - found[i], draws=200).p for i in range(4) for j in range(i)]
        any_alarm += min(holm(p)) < 0.05
        plain += min(p) < 0.05
    assert any_alarm / 120 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)
    assert plain > any_alarm


def test_a_true_difference_is_found_and_covered():
    """Ten points of logits between a half and nine tenths: found nearly always, and its true size, averaged over many
    seeds and problems of the same world, lies in nearly all intervals."""
    generator = np.random.default_rng(0)
    many = agents(generator, 2, num_seeds=400, num_problems=4000, seed_deviation=0.3, better=1.5)
    truth = float((many[1] - many[0]).mean())
    found = covered = 0
    for _ in range(100):
        a, b = agents(generator, 2, num_seeds=5, num_problems=100, seed_deviation=0.3, better=1.5)
        e = estimate(b - a, draws=200)
        found += e.p < 0.05
        covered += e.low <= truth <= e.high
    assert found >= 90
    assert covered >= 95 - 3 * np.sqrt(5 * 0.95)
