"""Uncertainty of effects: two-way variance, Student's t, Holm's correction, equivalence, detectable effects.

Every effect is the mean of a block of paired differences, questions × seeds (Miller 2024 on pairing and clustering).
Nothing is drawn at random: the same block gives the same verdict. Knows nothing about arms.
"""

import dataclasses
import math

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean effect, its standard error (same unit) and the degrees of freedom of its t statistic.

    A block of one question says nothing about other questions: its error is NaN, and nothing can be concluded.
    """

    effect: float
    error: float
    freedom: float

    @property
    def _t(self):
        if self.error == 0:  # all differences alike
            return math.copysign(math.inf, self.effect) if self.effect else 0.0
        return self.effect / self.error

    @property
    def p(self):
        """Two-sided p of no effect; 1 where nothing can be concluded."""
        return min(1.0, 2 * min(self.p_above(0), self.p_below(0)))

    def p_above(self, value):
        """One-sided p against "the effect is at most `value`"; small speaks for an effect above it."""
        return self._tail(self.effect - value)

    def p_below(self, value):
        """One-sided p against "the effect is at least `value`"; small speaks for an effect below it."""
        return self._tail(value - self.effect)

    def _tail(self, distance):
        if math.isnan(self.error):
            return 1.0
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.error, self.freedom))

    def p_within(self, limit):
        """The larger p of two one-sided tests; small speaks for an effect inside ±limit (Schuirmann 1987)."""
        return max(self.p_above(-limit), self.p_below(limit))

    def interval(self, level):
        """(low, high) that misses the effect in a share `level` of all repetitions, half on each side."""
        half = self.critical(level / 2) * self.error
        return self.effect - half, self.effect + half

    def critical(self, tail):
        """The t value with a share `tail` above it."""
        return float(stats.t.isf(tail, self.freedom))


def two_way(block):
    """The mean of a block of paired differences, both questions and seeds being samples of many.

    The variance of the mean is (MSQ + max(MSS − MSE, 0)) / (questions × seeds), with the mean squares of a two-way
    layout without replication; the degrees of freedom are Satterthwaite's (1946). The part of the seeds is never
    counted below 0, so the error is not smaller than that over questions alone. With one seed this is the t interval
    over questions, and holds for that training run.

    Args:
        block: (questions, seeds), complete.
    """
    effect, squares, free = _squares(block)
    if squares is None:
        return Estimate(effect, math.nan, 1.0)
    terms = [(squares["question"], free["question"])]
    if squares["seed"] > squares["rest"]:
        terms += [(squares["seed"], free["seed"]), (-squares["rest"], free["rest"])]
    variance = sum(square for square, _ in terms)
    if variance <= 1e-24 * max(1.0, effect**2):
        return Estimate(effect, 0.0, free["question"])
    freedom = variance**2 / sum(square**2 / df for square, df in terms)
    return Estimate(effect, math.sqrt(variance / np.size(block)), min(max(freedom, 1.0), free["question"]))


def _squares(block):
    """(mean, mean squares, degrees of freedom) of a two-way layout without replication, by `question`, `seed`, `rest`.

    With one seed those of `seed` and `rest` are 0; with one question there are none, only the mean.
    """
    block = np.asarray(block, dtype=float)
    questions, seeds = block.shape
    effect = float(block.mean())
    if questions < 2:
        return effect, None, None
    by_question, by_seed = block.mean(1), block.mean(0)
    free = {"question": questions - 1, "seed": seeds - 1, "rest": (questions - 1) * (seeds - 1)}
    squares = {"question": seeds * by_question.var(ddof=1), "seed": 0.0, "rest": 0.0}
    if seeds > 1:
        rest = block - by_question[:, None] - by_seed[None] + effect
        squares["seed"], squares["rest"] = questions * by_seed.var(ddof=1), (rest**2).sum() / free["rest"]
    return effect, squares, free


def mixed(block):
    """The same mean by a mixed model: random effects of question and seed, fitted by REML, with normal tails.

    For a complete block REML has a closed form: the mean squares of `two_way`, where a part that would be negative is
    0 and its mean square joins the rest. It differs from `two_way` in that the rest may lower the questions' part, too,
    and that the variances count as known (what a fit by lme4 reports), which is too sure with few seeds.

    Args:
        block: (questions, seeds), complete.
    """
    effect, squares, free = _squares(block)
    if squares is None:
        return Estimate(effect, math.nan, 1.0)
    gone, pooled, freedom = set(), squares["rest"] * free["rest"], free["rest"]
    # The smaller part is the first to vanish. With one seed there is nothing that it could join.
    for name in sorted(("question", "seed"), key=squares.get) if freedom else ():
        if squares[name] <= pooled / freedom:
            gone.add(name)
            pooled, freedom = pooled + squares[name] * free[name], freedom + free[name]
    rest = pooled / freedom if freedom else 0.0
    variance = sum(rest if name in gone else squares[name] for name in ("question", "seed")) - rest
    return Estimate(effect, math.sqrt(max(variance, 0.0) / np.size(block)), math.inf)


def holm(p_values, level):
    """Holm (1979): adjusted p values in the given order, and each one's share of the error level.

    An interval made at its share excludes 0 exactly if the adjusted p is at most `level`: what is rejected has the
    share of its own step, and all that is not has that of the step at which the procedure stopped.
    """
    count = len(p_values)
    adjusted, shares, running, stopped = [0.0] * count, [level] * count, 0.0, None
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        if running > level and stopped is None:
            stopped = level / (count - rank)
        adjusted[index], shares[index] = running, stopped or level / (count - rank)
    return adjusted, shares


def detectable(estimates, tail, power=0.8):
    """The effect that a test of all these estimates at once finds with this power, in their unit.

    Each part must clear `tail` on its side, and none may be missed: with k parts each is given the power
    1 − (1 − power) / k, which is enough however they depend on each other. None where nothing can be concluded.

    Args:
        estimates: of the parts that must all be found; tail: share of the t distribution beyond the critical value.
    """
    each = 1 - (1 - power) / len(estimates)
    sizes = [(one.critical(tail) + float(stats.t.ppf(each, one.freedom))) * one.error for one in estimates]
    return None if any(map(math.isnan, sizes)) else max(sizes)


def rate_interval(successes, trials, confidence):
    """Wilson (1927) score interval of a rate: (low, high); (nan, nan) without trials."""
    if trials == 0:
        return math.nan, math.nan
    found = stats.binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)
