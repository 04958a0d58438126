"""Intervals and corrected p values against their definitions, worked examples and simulations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cotlib import intervals

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_holm_matches_a_worked_example():
    adjusted, divisors = intervals.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert divisors == [3, 1, 2, 4]


@given(p_lists)
def test_holm_is_the_largest_of_the_scaled_p_values_up_to_its_rank(p_values):
    """The definition: sort; the k-th smallest of m is the largest of (m − j + 1)·p(j) over j up to k, at most 1."""
    count, ranked = len(p_values), sorted(p_values)
    by_rank = [min(1.0, max((count - j) * ranked[j] for j in range(k + 1))) for k in range(count)]
    adjusted, divisors = intervals.holm(p_values)
    for p, found in zip(p_values, adjusted):
        assert any(found == pytest.approx(by_rank[k]) for k in range(count) if ranked[k] == p)
    assert sorted(adjusted) == pytest.approx(by_rank)
    assert sorted(divisors) == list(range(1, count + 1))


@given(p_lists, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    order, rejected = np.argsort(p_values, kind="stable"), set()
    for step, index in enumerate(order):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(int(index))
    assert {index for index, p in enumerate(intervals.holm(p_values)[0]) if p <= level} == rejected


def test_no_p_value_at_all_needs_no_correction():
    assert intervals.holm([]) == ([], [])


# ---- the bootstrap


def test_the_bootstrap_is_that_of_a_slow_loop_that_draws_one_question_and_seed_after_the_other():
    table = np.random.default_rng(0).normal(size=(25, 4)) + np.linspace(-1, 1, 4)
    generator, slow = np.random.default_rng(1), []
    for _ in range(4000):
        questions, seeds = generator.integers(25, size=25), generator.integers(4, size=4)
        slow.append(np.mean([table[question, seed] for question in questions for seed in seeds]))
    fast = intervals.bootstrap(table, 40_000, seed=2)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.03)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.06)
    assert np.quantile(fast, [0.025, 0.975]) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.08)


def test_the_bootstrap_of_question_means_has_the_textbook_standard_error():
    values = np.random.default_rng(0).normal(size=(200, 1))
    means = intervals.bootstrap(values, 4000, seed=3)
    assert means.std() == pytest.approx(values.std() / math.sqrt(200), rel=0.06)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)


def test_resampling_seeds_widens_the_interval_when_seeds_disagree():
    generator = np.random.default_rng(0)
    agree = generator.normal(size=(60, 1)) + np.zeros((1, 3))
    disagree = agree + np.array([[-1.0, 0.0, 1.0]])
    assert intervals.bootstrap(disagree, 2000, 1).std() > 2 * intervals.bootstrap(agree, 2000, 1).std()


def test_the_same_seed_draws_the_same_and_another_seed_another():
    table = np.random.default_rng(0).normal(size=(10, 2))
    once, again, other = (intervals.bootstrap(table, 100, seed) for seed in (1, 1, 2))
    assert (once == again).all() and not (once == other).all()


def test_a_p_value_is_twice_the_smaller_share_and_never_zero():
    means = np.concatenate([np.full(10, -1.0), np.full(989, 1.0)])
    assert intervals.p_value(means) == intervals.p_value(-means) == pytest.approx(2 * 11 / 1000)
    assert intervals.p_value(np.ones(999)) == pytest.approx(0.002)
    assert intervals.p_value(np.zeros(999)) == 1.0


def test_a_corrected_interval_is_that_of_the_smaller_error_level():
    means = np.random.default_rng(0).normal(size=20_000)
    for divisor in (1, 6):
        tail = 0.05 / divisor / 2
        expected = np.sort(means)[[round(tail * 19_999), round((1 - tail) * 19_999)]]
        assert intervals.corrected_interval(means, 0.95, divisor) == pytest.approx(expected, abs=0.01)


# ---- power


def power_of(effect, comparisons, runs=4000, questions=300, noise=0.3, seeds=3):
    """How often a two-sided test at Bonferroni's level finds an effect of paired differences by question and seed."""
    generator = np.random.default_rng(5)
    level = 0.05 / comparisons
    values = effect + noise * generator.normal(size=(runs, questions, seeds))
    values += 0.2 * generator.normal(size=(runs, questions, 1))  # a question's own difference, the same in every seed
    by_question = values.mean(2)
    error = by_question.std(1, ddof=1) / math.sqrt(questions)
    p_values = 2 * stats.t.sf(abs(by_question.mean(1) / error), questions - 1)
    return (p_values < level).mean()


@pytest.mark.parametrize("comparisons", [1, 6])
def test_an_effect_of_the_detectable_size_is_found_four_times_in_five(comparisons):
    standard_error = math.sqrt((0.2**2 + 0.3**2 / 3) / 300)
    effect = intervals.detectable(standard_error, 0.95, comparisons)
    assert power_of(effect, comparisons) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("comparisons", [1, 6])
def test_the_detectable_size_read_off_a_bootstrap_is_found_four_times_in_five(comparisons):
    generator = np.random.default_rng(8)
    table = 0.3 * generator.normal(size=(300, 1)) + np.zeros((1, 3))  # seeds agree: the error is that of the questions
    error = intervals.bootstrap(table, 4000, seed=1).std()
    effect = intervals.detectable(error, 0.95, comparisons)
    assert effect == pytest.approx(intervals.detectable(table.std() / math.sqrt(300), 0.95, comparisons), rel=0.04)


def test_more_comparisons_power_or_confidence_need_a_larger_effect():
    plain = intervals.detectable(0.1, 0.95, 1)
    assert plain == pytest.approx(0.1 * (1.959964 + 0.841621), rel=1e-5)
    assert intervals.detectable(0.1, 0.95, 6) > plain < intervals.detectable(0.1, 0.99, 1)
    assert intervals.detectable(0.1, 0.95, 1, power=0.9) > plain and intervals.detectable(0.2, 0.95, 1) == 2 * plain


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


# ---- permutation


def test_a_permutation_test_finds_a_planted_difference_and_none_where_there_is_none():
    generator = np.random.default_rng(0)
    block = generator.normal(size=(3, 40))
    statistic = lambda block: block[..., 0, :].mean(-1) - block[..., 1:, :].mean((-1, -2))
    planted = block + np.array([1.5, 0, 0])[:, None]
    observed, p = intervals.permutation(planted, statistic, 999, seed=1)
    assert observed == pytest.approx(statistic(planted)) and p == 1 / 1000
    assert intervals.permutation(block - block.mean(1, keepdims=True), statistic, 999, seed=1)[1] > 0.3


def test_a_permutation_p_is_the_exact_share_of_relabellings_within_questions():
    block = np.random.default_rng(3).normal(size=(2, 6))
    statistic = lambda block: (block[..., 0, :] - block[..., 1, :]).mean(-1)
    difference = block[0] - block[1]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    exact = ((signs * difference[:, None]).mean(0) >= difference.mean() - 1e-12).mean()
    assert intervals.permutation(block, statistic, 20_000, seed=1)[1] == pytest.approx(exact, abs=0.015)
