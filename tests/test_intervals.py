"""Resampling, corrected p values and intervals against worked examples and textbook results."""

import math

import numpy as np
import pytest

from cotlib import intervals


def test_holm_matches_a_worked_example():
    adjusted, divisors = intervals.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert divisors == [3, 1, 2, 4]


def test_wilson_matches_a_worked_example_and_has_no_interval_without_trials():
    assert intervals.rate_interval(4, 10, 0.95) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert all(math.isnan(bound) for bound in intervals.rate_interval(0, 0, 0.95))


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


def test_a_p_value_is_twice_the_smaller_share_beyond_zero_and_never_zero():
    means = np.array([-1.0] * 10 + [1.0] * 89)
    assert intervals.p_value(means) == intervals.p_value(-means) == pytest.approx(2 * 11 / 100)
    assert intervals.p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert intervals.p_value(np.zeros(99)) == 1


def test_a_corrected_interval_leaves_the_error_level_divided():
    means = np.linspace(-1, 1, 100_001)
    assert intervals.corrected_interval(means, 0.9, 1) == pytest.approx((-0.9, 0.9), abs=1e-4)
    assert intervals.corrected_interval(means, 0.9, 2) == pytest.approx((-0.95, 0.95), abs=1e-4)


def test_the_detectable_effect_is_that_of_the_power_formula_and_grows_with_comparisons():
    assert intervals.detectable(1.0, 0.95, 1) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert intervals.detectable(0.5, 0.95, 5) == pytest.approx(0.5 * (2.575829 + 0.841621), abs=1e-5)


def test_a_permutation_p_is_small_for_labels_that_matter_and_never_zero():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(3, 40))
    first = lambda block: block[..., 0, :].mean(-1)
    planted = noise + np.array([[2.0], [0.0], [0.0]])
    observed, p = intervals.permutation(planted, first, 999, 1)
    assert observed == pytest.approx(planted[0].mean()) and p == 1 / 1000
    ps = [intervals.permutation(generator.normal(size=(3, 20)), first, 199, seed)[1] for seed in range(40)]
    assert 0.35 < np.mean(ps) < 0.65
