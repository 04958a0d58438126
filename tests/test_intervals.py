"""Estimates, intervals and corrected p values against their definitions, worked examples and simulations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from cotlib import intervals

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=8)
numbers = st.floats(-3, 3, allow_nan=False)
estimates = st.builds(intervals.Estimate, numbers, st.floats(0.01, 3), st.floats(1, 300))


# ---- a mixed model


def slow_mixed_error(block):
    """The standard error of the mean by maximising the restricted likelihood of a crossed random-effects model."""
    n, s = block.shape
    of_question, of_seed = np.kron(np.eye(n), np.ones((s, s))), np.kron(np.ones((n, n)), np.eye(s))
    values, ones = block.ravel(), np.ones(block.size)

    def parts(logs):
        question, seed, rest = np.exp(logs)
        covariance = question * of_question + seed * of_seed + rest * np.eye(block.size)
        weights = np.linalg.solve(covariance, ones)
        return covariance, ones @ weights, values @ weights

    def minus_likelihood(logs):
        covariance, information, weighted = parts(logs)
        residual = values - weighted / information
        return np.linalg.slogdet(covariance)[1] + np.log(information) + residual @ np.linalg.solve(covariance, residual)

    starts = [np.log([a, b, 0.1]) for a in (0.1, 1e-4) for b in (0.1, 1e-4)]
    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000}
    fits = [optimize.minimize(minus_likelihood, start, method="Nelder-Mead", options=options) for start in starts]
    return parts(min(fits, key=lambda fit: fit.fun).x)[1] ** -0.5


@pytest.mark.parametrize(("of_questions", "of_seeds"), [(0.5, 0.3), (0.5, 0.0), (0.0, 0.4), (0.0, 0.0)])
@pytest.mark.parametrize("number", [1, 2])
def test_the_mixed_models_error_is_that_of_a_fit_by_restricted_likelihood(of_questions, of_seeds, number):
    generator = np.random.default_rng(number)
    block = (
        generator.normal(0, of_questions, (9, 1)) + generator.normal(0, of_seeds, 4) + generator.normal(0, 0.3, (9, 4))
    )
    assert intervals.mixed(block).error == pytest.approx(slow_mixed_error(block), rel=2e-3)
    assert intervals.mixed(block).effect == pytest.approx(block.mean())


def test_a_mixed_model_of_one_seed_is_the_error_over_questions_with_normal_tails():
    block = np.random.default_rng(3).normal(0.1, 1, (30, 1))
    found = intervals.mixed(block)
    assert found.error == pytest.approx(block.std(ddof=1) / 30**0.5)
    assert found.interval(0.05) == pytest.approx(stats.norm.interval(0.95, block.mean(), found.error))
    assert math.isnan(intervals.mixed(block[:1]).error)


# ---- two-way variance


def slow_two_way(block):
    """Effect, error and degrees of freedom by sums over cells, as a textbook writes them."""
    n, s = len(block), len(block[0])
    mean = sum(map(sum, block)) / (n * s)
    rows = [sum(row) / s for row in block]
    columns = [sum(row[j] for row in block) / n for j in range(s)]
    square_q = s * sum((row - mean) ** 2 for row in rows) / (n - 1)
    parts, free = [square_q], [n - 1]
    if s > 1:
        square_s = n * sum((column - mean) ** 2 for column in columns) / (s - 1)
        square_e = sum(
            (block[i][j] - rows[i] - columns[j] + mean) ** 2 for i, j in itertools.product(range(n), range(s))
        ) / ((n - 1) * (s - 1))
        if square_s > square_e:
            parts, free = [square_q, square_s, -square_e], [n - 1, s - 1, (n - 1) * (s - 1)]
    variance = sum(parts) / (n * s)
    freedom = sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, free))
    return mean, math.sqrt(variance), min(max(freedom, 1), n - 1)


@pytest.mark.parametrize("seeds", [1, 2, 3, 6])
@pytest.mark.parametrize("between", [0.0, 0.5, 3.0])
def test_an_estimate_is_that_of_sums_over_cells(seeds, between):
    generator = np.random.default_rng(seeds)
    for _ in range(20):
        block = generator.normal(size=(12, seeds)) + between * generator.normal(size=(1, seeds))
        found = intervals.two_way(block)
        assert (found.effect, found.error, found.freedom) == pytest.approx(slow_two_way(block.tolist()))


def test_with_one_seed_it_is_the_t_test_over_questions():
    values = np.random.default_rng(1).normal(0.3, 1, size=(25, 1))
    found, known = intervals.two_way(values), stats.ttest_1samp(values[:, 0], 0)
    assert found.p == pytest.approx(known.pvalue)
    assert found.interval(0.05) == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert found.p_above(0) == pytest.approx(stats.ttest_1samp(values[:, 0], 0, alternative="greater").pvalue)


@pytest.mark.parametrize("questions, seeds, noise", [(22, 1, 0.0), (8, 3, 0.02), (80, 6, 0.0), (240, 6, 0.05)])
def test_an_interval_covers_the_truth_as_often_as_it_says(questions, seeds, noise):
    """Questions differ by .15, cells by .08, training runs of both arms by `noise` each."""
    generator, runs, covered = np.random.default_rng(3), 2000, 0
    for _ in range(runs):
        block = 0.15 * generator.normal(size=(questions, 1)) + 0.08 * generator.normal(size=(questions, seeds))
        block += math.sqrt(2) * noise * generator.normal(size=(1, seeds))
        low, high = intervals.two_way(block).interval(0.05)
        covered += low <= 0 <= high
    assert 0.925 <= covered / runs <= 0.975


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not_narrow_it_below_that_of_questions():
    generator = np.random.default_rng(0)
    agree = generator.normal(size=(60, 1)) + np.zeros((1, 3))
    disagree = agree + np.array([[-1.0, 0.0, 1.0]])
    one, three, apart = (intervals.two_way(block) for block in (agree[:, :1], agree, disagree))
    assert three.error == pytest.approx(one.error) and three.freedom == pytest.approx(one.freedom)
    assert apart.error > 3 * three.error and apart.freedom < 5


def test_of_one_question_nothing_can_be_concluded_and_of_equal_differences_all():
    single = intervals.two_way([[0.4, 0.5]])
    assert single.effect == pytest.approx(0.45) and math.isnan(single.error)
    assert single.p == single.p_above(0) == single.p_within(9.0) == 1.0
    assert all(map(math.isnan, single.interval(0.05)))
    equal, nothing = intervals.two_way(np.full((5, 2), 0.3)), intervals.two_way(np.zeros((5, 2)))
    assert (equal.p, equal.p_above(0.2), equal.p_above(0.3), equal.p_below(0.4)) == (0, 0, 1, 0)
    assert equal.interval(0.05) == (equal.effect, equal.effect) and equal.effect == pytest.approx(0.3)
    assert nothing.p == 1 and nothing.p_within(0.1) == 0


# ---- tests and intervals


@given(estimates, st.sampled_from([0.001, 0.05, 0.2]))
def test_an_interval_excludes_a_value_exactly_if_its_test_rejects_it(found, level):
    low, high = found.interval(level)
    assert (low > 0) == (found.p_above(0) < level / 2) and (high < 0) == (found.p_below(0) < level / 2)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.effect / found.error), found.freedom), abs=1e-9)


@given(estimates, st.floats(0.01, 2), st.sampled_from([0.01, 0.05]))
def test_an_effect_is_shown_to_be_small_exactly_if_its_interval_lies_inside_the_limits(found, limit, level):
    """Two one-sided tests at 5 % are the 90 % interval."""
    low, high = found.interval(2 * level)
    assert (found.p_within(limit) < level) == (-limit < low and high < limit)


def test_holm_matches_a_worked_example():
    adjusted, shares = intervals.holm([0.01, 0.04, 0.03, 0.005], 0.05)
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Two are rejected, at a quarter and a third; the others get the half at which the procedure stopped.
    assert shares == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])


@given(p_lists)
def test_holm_is_the_largest_of_the_scaled_p_values_up_to_its_rank(p_values):
    """The definition: sort; the k-th smallest of m is the largest of (m − j + 1)·p(j) over j up to k, at most 1."""
    count, ranked = len(p_values), sorted(p_values)
    by_rank = [min(1.0, max((count - j) * ranked[j] for j in range(k + 1))) for k in range(count)]
    adjusted, _ = intervals.holm(p_values, 0.05)
    for p, found in zip(p_values, adjusted):
        assert any(found == pytest.approx(by_rank[k]) for k in range(count) if ranked[k] == p)
    assert sorted(adjusted) == pytest.approx(by_rank)


@given(p_lists, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    order, rejected = np.argsort(p_values, kind="stable"), set()
    for step, index in enumerate(order):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(int(index))
    assert {index for index, p in enumerate(intervals.holm(p_values, level)[0]) if p <= level} == rejected


@given(st.lists(estimates, min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_a_corrected_interval_excludes_zero_exactly_if_the_corrected_p_is_small_enough(family, level):
    p_values = [one.p for one in family]
    for one, p, share in zip(family, *intervals.holm(p_values, level)):
        low, high = one.interval(share)
        if abs(p - level) > 1e-9:
            assert (low > 0 or high < 0) == (p <= level)


def test_no_p_value_at_all_needs_no_correction():
    assert intervals.holm([], 0.05) == ([], [])


# ---- power


@pytest.mark.parametrize("comparisons", [1, 6, 18])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_effect_of_the_detectable_size_is_found_at_least_four_times_in_five(comparisons, parts):
    """Parts that vary independently of each other are the hardest to find together."""
    generator, error, freedom, runs = np.random.default_rng(5), 0.04, 30, 20_000
    tail = 0.05 / comparisons
    effect = intervals.detectable([intervals.Estimate(0.0, error, freedom)] * parts, tail)
    spread = error * np.sqrt(generator.chisquare(freedom, size=(runs, parts)) / freedom)
    t = (effect + error * generator.normal(size=(runs, parts))) / spread
    power = (t > stats.t.isf(tail, freedom)).all(1).mean()
    assert 0.77 <= power <= 0.86


def test_more_comparisons_parts_or_power_need_a_larger_effect_and_what_says_nothing_finds_none():
    one = intervals.Estimate(0.0, 0.1, 1e9)
    plain = intervals.detectable([one], 0.025)
    assert plain == pytest.approx(0.1 * (1.959964 + 0.841621), rel=1e-5)
    assert intervals.detectable([one], 0.025 / 6) > plain < intervals.detectable([one], 0.025, power=0.9)
    assert intervals.detectable([one, one], 0.025) > plain
    assert intervals.detectable([one, intervals.Estimate(0.0, 0.3, 1e9)], 0.025) > 3 * plain
    assert intervals.detectable([one, intervals.two_way([[1.0]])], 0.025) is None


# ---- rates


def test_a_rates_interval_matches_a_worked_example_and_there_is_none_without_trials():
    assert intervals.rate_interval(4, 10, 0.95) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert all(math.isnan(bound) for bound in intervals.rate_interval(0, 0, 0.95))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_a_rates_interval_is_the_formula_of_wilson(counts, confidence):
    successes, trials = counts
    z, rate = stats.norm.ppf((1 + confidence) / 2), successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    low, high = intervals.rate_interval(successes, trials, confidence)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert 0 <= low <= rate <= high <= 1


def test_no_success_gives_a_bound_of_zero_and_all_give_one():
    assert intervals.rate_interval(0, 20, 0.95) == pytest.approx((0, 0.1611), abs=1e-4)
    assert intervals.rate_interval(20, 20, 0.95) == pytest.approx((0.8389, 1), abs=1e-4)
