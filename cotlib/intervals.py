"""Uncertainty of effects: resampling, corrected p values and intervals, in NumPy. Knows nothing about arms.

A question is the unit of resampling, crossed with the seed; differences between arms are paired on the same questions
(Miller 2024).
"""

import itertools
import math

import numpy as np
from scipy import stats


def bootstrap(table, resamples, seed):
    """Means of `resamples` tables with questions and seeds drawn again, independently, with replacement.

    Args:
        table: (questions, seeds).
    Returns:
        (resamples,) means, in the table's unit.
    """
    generator = np.random.default_rng(seed)
    questions, seeds = table.shape
    by_question = generator.multinomial(questions, np.full(questions, 1 / questions), size=resamples) / questions
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return np.einsum("rq,qs,rs->r", by_question, table, by_seed, optimize=True)


def p_value(means):
    """Two-sided percentile p: twice the smaller share of resampled means beyond zero, never below 2 / (n + 1)."""
    below, above = (means <= 0).sum(), (means >= 0).sum()
    return min(1.0, 2 * (min(below, above) + 1) / (len(means) + 1))


def holm(p_values):
    """Holm (1979) adjusted p values, in the given order, and each one's divisor of the error level."""
    count = len(p_values)
    adjusted, divisors, running = [0.0] * count, [1] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index], divisors[index] = running, count - rank
    return adjusted, divisors


def corrected_interval(means, confidence, divisor):
    """The percentile interval of resampled means at the error level that Holm's correction leaves: (low, high)."""
    tail = (1 - confidence) / divisor / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def detectable(standard_error, confidence, comparisons, power=0.8):
    """The effect that a two-sided test finds with this power, in the unit of the standard error.

    Args:
        comparisons: how many contrasts are corrected together. Holm's first step divides the error level by all of
            them, which is the level that an effect must clear when it is the only one.
    """
    level = (1 - confidence) / comparisons
    return float((stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) * standard_error)


def rate_interval(successes, trials, confidence):
    """Wilson (1927) score interval of a rate: (low, high); (nan, nan) without trials."""
    if trials == 0:
        return math.nan, math.nan
    found = stats.binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def permutation(block, statistic, resamples, seed, at_once=250):
    """A statistic and its one-sided p: types' labels shuffled within each question.

    Args:
        block: types first, questions last.
        statistic: maps (…, *block.shape) to (…).
    """
    generator = np.random.default_rng(seed)
    orders = np.array(list(itertools.permutations(range(block.shape[0]))))
    moved, questions = np.moveaxis(block, -1, 1), np.arange(block.shape[-1])  # types, questions, …
    observed, extreme = statistic(block), 0
    for start in range(0, resamples, at_once):
        drawn = generator.integers(len(orders), size=(min(at_once, resamples - start), len(questions)))
        picked = np.swapaxes(orders[drawn], 1, 2)  # resamples, types, questions
        extreme += int((statistic(np.moveaxis(moved[picked, questions], 2, -1)) >= observed - 1e-12).sum())
    return float(observed), (extreme + 1) / (resamples + 1)
