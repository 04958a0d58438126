"""From the score table to what can be said about the four hypotheses: effects, intervals, verdicts.

Which tests decide stands in `contrasts`, how an interval is made in `intervals`. Knows nothing about models: a tidy
table in, findings out. The models of an experiment are averaged and not resampled: they are a fixed choice.
"""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from cotlib import intervals, scores
from cotlib.arms import BASE, FREE, MATCHED, Arm, studied_types, with_trace
from cotlib.contrasts import (
    CONTRADICTED,
    ENOUGH_SEEDS,
    GREATER,
    HYPOTHESES,
    INCONCLUSIVE,
    NO_EFFECT,
    NO_THINK,
    SIGNED,
    SUPPORTED,
    THINK,
    UNTESTED,
    contrasts,
    difference_from_base,
    retention,
)
from cotlib.errors import BadInput

DIAGONALS = {MATCHED: "persona diagonal, matched traces", FREE: "persona diagonal, free traces"}
HEADLINE = ("effect", "ci_low", "ci_high", "p", "n_questions", "n_seeds")


def rows_of(table, contrast):
    """The rows of the score table that a contrast is about, whatever their arm."""
    chosen = (
        (table.measure == contrast.measure) & table["mode"].isin(contrast.modes) & table.suite.isin(contrast.suites)
    )
    if contrast.text is not None:
        chosen &= table.text == contrast.text
    if contrast.behaviours is not None:
        chosen &= table.behaviour.isin(contrast.behaviours)
    return table[chosen]


def cells(table, contrast):
    """The contrast per question and seed, in nats per token: array (questions, seeds), averaged over all else.

    Seeds that one of its arms lacks are left out, and then questions that a seed lacks.
    """
    wide = rows_of(table, contrast).pivot_table(
        index=["question_id", "seed"], columns="arm", values="value", aggfunc="mean"
    )
    missing = sorted({name for pair in contrast.pairs for name in pair} - set(wide.columns))
    if missing:
        raise BadInput(
            f"contrast {contrast.name!r} needs arm {missing[0]!r}, which has no {contrast.measure} in the table; "
            "evaluate it first"
        )
    difference = sum(wide[arm] - wide[reference] for arm, reference in contrast.pairs) / len(contrast.pairs)
    return difference.unstack("seed").dropna(axis=1, how="all").dropna().to_numpy(dtype=float)


class Measured:
    """A test of one family with its estimates: what it finds at the share of the error level that is left to it."""

    def __init__(self, name, parts, blocks, side, limit, way=intervals.two_way):
        """`parts`: names; `blocks`: their differences, questions × seeds; `limit`: the smallest effect of interest;
        `way`: how a block becomes an `intervals.Estimate`."""
        self.name, self.parts, self.side, self.limit = name, parts, side, limit
        self.estimates = [way(block) for block in blocks]
        self.sizes = [np.shape(block) for block in blocks]

    @property
    def p(self):
        """Of the weakest part; 1 where the parts of a test of either side disagree."""
        if self.side == GREATER:
            return max(one.p_above(0) for one in self.estimates)
        sides = {one.effect > 0 for one in self.estimates}
        return max(one.p for one in self.estimates) if len(sides) == 1 else 1.0

    @property
    def weakest(self):
        """The number of the part that the test stands or falls with."""
        chances = [one.p_above(0) if self.side == GREATER else one.p for one in self.estimates]
        return max(range(len(chances)), key=lambda part: (chances[part], -abs(self.estimates[part].effect)))

    def tail(self, share):
        """What a test leaves above its critical value: all of its error level, or half where it looks both ways."""
        return share if self.side == GREATER else share / 2

    def is_small(self, level, share):
        """Whether a part is shown to be below the smallest effect of interest (both ways unless one side counts)."""
        if self.side == GREATER:
            return any(one.p_below(self.limit) <= level / 2 for one in self.estimates)
        return any(one.p_within(self.limit) <= share for one in self.estimates)

    def verdict(self, p_holm, level, family_share):
        """In the order of the rules: no effect of interest, supported, contradicted, inconclusive."""
        if self.is_small(level, family_share):
            return NO_EFFECT
        if p_holm > level:
            return INCONCLUSIVE
        below = self.side == SIGNED and self.estimates[self.weakest].effect < 0
        return CONTRADICTED if below else SUPPORTED

    def row(self, p_holm, level, share, family_share):
        """What the pages show of it; the effect and interval are those of its weakest part."""
        part = self.weakest
        ends = [one.interval(2 * self.tail(share)) for one in self.estimates]
        size = intervals.detectable(self.estimates, self.tail(family_share))
        row = {
            "name": self.name, "effect": self.estimates[part].effect,
            "ci_low": ends[part][0], "ci_high": ends[part][1], "p": self.p, "p_holm": p_holm,
            "verdict": self.verdict(p_holm, level, family_share), "minimal_detectable_effect": size,
            "smallest_effect": self.limit, "n_questions": self.sizes[part][0], "n_seeds": self.sizes[part][1],
            "parts": [
                {"name": name, "effect": one.effect, "ci_low": low, "ci_high": high, "p": one.p}
                for name, one, (low, high) in zip(self.parts, self.estimates, ends)
            ],
        }  # fmt: skip
        return _without_nan(row)


def _without_nan(row):
    """Numbers that could not be had are None, also in the file."""
    if isinstance(row, list):
        return [_without_nan(value) for value in row]
    if isinstance(row, dict):
        return {name: _without_nan(value) for name, value in row.items()}
    return None if isinstance(row, float) and row != row else row


def corrected(measured, settings):
    """Rows of tests that are corrected together, in the given order."""
    level = 1 - settings.confidence
    adjusted, shares = intervals.holm([one.p for one in measured], level)
    family_share = level / max(1, len(measured))
    return [one.row(p, level, share, family_share) for one, p, share in zip(measured, adjusted, shares)]


def measured_of(table, test, settings, way=intervals.two_way):
    """A test of contrasts with its estimates from the table."""
    blocks = [cells(table, part) for part in test.parts]
    limit = settings.smallest_effect.of(test.parts[0].measure)
    return Measured(test.name, [part.name for part in test.parts], blocks, test.side, limit, way)


def estimate(table, tests, settings, way=intervals.two_way):
    """Rows of tests that are corrected together: list of mappings in the given order.

    Each has name, effect, ci_low, ci_high (corrected), p, p_holm, verdict, minimal_detectable_effect, smallest_effect,
    n_questions, n_seeds, parts. Effect and interval are those of the test's weakest part.
    """
    return corrected([measured_of(table, test, settings, way) for test in tests], settings)


def decide(verdicts):
    """Verdict of a claim that something can happen, from those of its deciding tests: supported if it did in one."""
    if not verdicts:
        return UNTESTED
    if all(verdict == NO_EFFECT for verdict in verdicts):
        return NO_EFFECT
    # An effect that is reliable and smaller than what is of interest is no support.
    return SUPPORTED if SUPPORTED in verdicts else INCONCLUSIVE


def families(table, arms):
    """The families of tests of these arms that the table holds values for: hypothesis → list of Family."""
    measured = lambda test: all(_is_measured(table, part) for part in test.parts)
    return {
        name: [dataclasses.replace(family, tests=tuple(filter(measured, family.tests))) for family in some]
        for name, some in contrasts(arms).items()
    }


def _is_measured(table, contrast):
    """Whether the table holds values of every arm of a contrast."""
    return {name for pair in contrast.pairs for name in pair} <= set(rows_of(table, contrast).arm.unique())


def find(table, settings, arms=None, words=None, way=intervals.two_way):
    """The findings: `H1`…`H4`, each {verdict, provisional, headline, effect, ci_low, ci_high, p, n_questions, n_seeds,
    contrasts}; H4 has `retained` as well.

    `contrasts` holds a row per test, with its `family` and whether it is `deciding`. The headline is the deciding test
    with the smallest p.

    Args:
        table: tidy table with the columns of `scores`.
        settings: an experiment's `statistics` section.
        words: what word counts predict of each persona's reply, from `corpus.wordcounts.voices`; without it the
            diagonals stand alone.
        way: how a block of differences becomes an `intervals.Estimate`.
    """
    findings = {}
    for hypothesis, some in families(table, arms if arms is not None else table.arm.unique()).items():
        rows = []
        for family in some:
            marks = {"family": family.name, "deciding": family.deciding}
            rows += [row | marks for row in estimate(table, family.tests, settings, way)]
        verdicts = [row["verdict"] for row in rows if row["deciding"]]
        findings[hypothesis] = {"verdict": decide(verdicts), "contrasts": rows}
    findings["H2"] = semantics(table, settings, findings["H2"]["contrasts"], words, way)
    findings["H4"]["retained"] = retained(table, settings)
    for name in HYPOTHESES:
        findings[name] = _headed(findings[name])
    return findings


def _headed(finding):
    deciding = [row for row in finding["contrasts"] if row["deciding"]]
    head = min(deciding, key=lambda row: row["p"], default={})
    seeds = [row["n_seeds"] for row in deciding]
    provisional = finding["verdict"] != UNTESTED and min(seeds, default=0) < ENOUGH_SEEDS
    return (
        finding | {"provisional": provisional, "headline": head.get("name")} | {key: head.get(key) for key in HEADLINE}
    )


def semantics(table, settings, patterns, words=None, way=intervals.two_way):
    """H2: the diagonal of matched traces, beside what word counts predict, and at least one predicted pattern.

    Args:
        patterns: rows of the patterns' family, and of whatever accompanies it.
    """
    # The gate is tested by itself: H2 needs it and a pattern, so neither has to be corrected for the other.
    rows = [
        row | {"family": "diagonals", "deciding": row["name"] == DIAGONALS[MATCHED]}
        for register in DIAGONALS
        for row in _diagonals(table, settings, register, words, way)
    ]
    deciding = [row for row in patterns if row["deciding"]]
    gate = next((row for row in rows if row["deciding"]), None)
    return {"verdict": _verdict_of_meaning(gate, deciding), "contrasts": [*rows, *patterns]}


def _verdict_of_meaning(gate, patterns):
    if gate is None or not patterns:
        return UNTESTED
    if all(row["verdict"] == NO_EFFECT for row in (gate, *patterns)):
        return NO_EFFECT
    if gate["verdict"] == CONTRADICTED:
        return CONTRADICTED
    both = gate["verdict"] == SUPPORTED and any(row["verdict"] == SUPPORTED for row in patterns)
    return SUPPORTED if both else INCONCLUSIVE


def _diagonals(table, settings, register, words, way):
    """Rows of a register's diagonal: beside what word counts predict where those are given, and by itself.

    The first then has `word_counts`, the coefficient of the prediction (nats per nat) with its interval.
    """
    found = square(table, scores.PERSONA, NO_THINK, register)
    if found is None:
        return []
    types, questions, block = found
    limit, name = settings.smallest_effect.of(scores.PERSONA), DIAGONALS[register]
    predicted = None if words is None else _predicted(words, register, types, questions)
    blocks = {name: diagonal(block)}
    if predicted is not None:
        own, slope = beside(block, predicted)
        blocks = {name: own, f"{name}: word counts not taken out": diagonal(block)}
    rows = [
        row
        for label, one in blocks.items()
        for row in corrected([Measured(label, [label], [one], SIGNED, limit, way)], settings)
    ]
    if predicted is not None:
        found = intervals.two_way(slope)
        low, high = found.interval(1 - settings.confidence)
        rows[0]["word_counts"] = _without_nan({"effect": found.effect, "ci_low": low, "ci_high": high, "p": found.p})
    return rows


def _predicted(words, register, types, questions):
    """Word counts' values as an array (arm types, text types, questions); None where some are missing."""
    wide = words[words.register == register].pivot_table(index="question_id", columns=["type", "text"], values="value")
    if not set(questions) <= set(wide.index) or not {(a, b) for a in types for b in types} <= set(wide.columns):
        return None
    return np.array([[wide.loc[questions, (kind, text)] for text in types] for kind in types], dtype=float)


def square(table, measure, mode, register=FREE):
    """Change from base in a measure of types' texts: (types, question ids, array (types, texts, questions, seeds)).

    In nats per token, averaged over paradigms and models, for the studied types whose texts were measured. None if a
    type has no arm of this register.
    """
    chosen = table[(table.measure == measure) & (table["mode"] == mode)]
    wide = chosen.pivot_table(index=["question_id", "seed"], columns=["arm", "text"], values="value", aggfunc="mean")
    trained, texts = (set(wide.columns.get_level_values(level)) for level in (0, 1))
    types = [kind for kind in studied_types() if kind in texts]
    suffix, blocks = "" if register == FREE else f"@{register}", {}
    for kind in types:
        arms = [name for paradigm in with_trace() if (name := f"{kind}-{paradigm}{suffix}") in trained]
        if not arms:
            return None
        for text in types:
            change = sum(wide[arm, text] - wide[BASE, text] for arm in arms) / len(arms)
            blocks[kind, text] = change.unstack("seed").dropna(axis=1, how="all").dropna()
    if not blocks:
        return None
    questions = sorted(set.intersection(*(set(block.index) for block in blocks.values())))
    seeds = sorted(set.intersection(*(set(block.columns) for block in blocks.values())))
    if not questions or not seeds:
        return None
    array = [[blocks[kind, text].loc[questions, seeds].to_numpy() for text in types] for kind in types]
    return types, questions, np.array(array, dtype=float)


def diagonal(block):
    """Per question and seed: mean of the diagonal minus mean of the rest; effects of an arm or a text as such cancel.

    (types, types, …) → (…).
    """
    count = block.shape[0]
    on = np.einsum("ii...->...", block)
    return on / count - (block.sum((0, 1)) - on) / (count * (count - 1))


def beside(block, predicted):
    """Ordinary least squares of a square table on "own type" and on a prediction, per question and seed.

    Effects of an arm and of a text are taken out for every question and seed by themselves.

    Args:
        block: (types, types, questions, seeds); predicted: (types, types, questions).
    Returns:
        two arrays (questions, seeds), for the diagonal and for the prediction: their mean is the coefficient, and the
        spread of their entries its sampling error, clustered by question and seed (each is the coefficient plus that
        cell's influence on it).
    """
    count, questions, seeds = block.shape[0], *block.shape[2:]
    own = np.broadcast_to(np.eye(count)[:, :, None, None], block.shape)
    design = np.stack([_centred(own), _centred(np.broadcast_to(predicted[..., None], block.shape))])
    changes = _centred(block)
    gram = np.einsum("kijqs,lijqs->kl", design, design)
    coefficients = np.linalg.solve(gram, np.einsum("kijqs,ijqs->k", design, changes))
    rest = changes - np.einsum("k,kijqs->ijqs", coefficients, design)
    pull = np.einsum("kijqs,ijqs->kqs", design, rest)
    influence = questions * seeds * np.einsum("kl,lqs->kqs", np.linalg.inv(gram), pull)
    return tuple(coefficients[:, None, None] + influence)


def _centred(block):
    """A square table without its row and column means: (types, types, …)."""
    return block - block.mean(0, keepdims=True) - block.mean(1, keepdims=True) + block.mean((0, 1), keepdims=True)


def retained(table, settings):
    """How much of each effect is left without thinking, on the questions that were asked in both modes: a description,
    no test.

    Returns a list of mappings: name, think, no_think (effects), share. The share is None unless the interval of the
    effect with thinking (not corrected) lies outside the smallest effect of interest.
    """
    limit, level = settings.smallest_effect.of(scores.MARGIN), 1 - settings.confidence
    table = table[
        table.question_id.isin(table.question_id[(table["mode"] == THINK) & (table.measure == scores.MARGIN)])
    ]
    rows = []
    for name, with_thinking, without in retention():
        if not all(_is_measured(table, contrast) for contrast in (with_thinking, without)):
            continue
        think, no_think = (intervals.two_way(cells(table, contrast)) for contrast in (with_thinking, without))
        low, high = think.interval(level)
        clear = low > limit or high < -limit
        share = no_think.effect / think.effect if clear else None
        rows.append({"name": name, "think": think.effect, "no_think": no_think.effect, "share": share})
    return rows


def differences(table, settings, measure=scores.MARGIN):
    """Every arm's paired difference from base by mode and suite, with its uncorrected interval: the headline figure."""
    rows, table = [], table[table.measure == measure]  # questions without answers have other measures alone
    arms = [arm for arm in table.arm.unique() if arm != BASE]
    for arm, mode, suite in itertools.product(arms, table["mode"].unique(), table.suite.unique()):
        contrast = difference_from_base(arm, mode, suite, measure)
        if not _is_measured(table, contrast):
            continue
        block = cells(table, contrast)
        found = intervals.two_way(block)
        rows.append([arm, mode, suite, found.effect, *found.interval(1 - settings.confidence), *block.shape])
    columns = ["arm", "mode", "suite", "effect", "ci_low", "ci_high", "n_questions", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def changes(table, measure, mode):
    """Mean change from base in a measure of types' texts: a frame, arms × text types, nats per token."""
    chosen = table[(table.measure == measure) & (table["mode"] == mode)]
    if chosen.empty:
        return pd.DataFrame()
    wide = chosen.pivot_table(index="arm", columns="text", values="value", aggfunc="mean")
    return wide.drop(index=BASE) - wide.loc[BASE]


def rates(table, confidence, passed):
    """Misaligned, leaking and incoherent shares of responses by arm, mode and judge, with Wilson intervals.

    Args:
        passed: the judges that passed their card. Of the others no rate is given; leaks are counted by think tags,
            which takes no judge.
    """
    chosen = table[table.measure.isin([scores.MISALIGNED, scores.LEAK, scores.INCOHERENT])]
    tags = chosen.measure == scores.LEAK
    judges = [judge for judge in dict.fromkeys(chosen.judge) if judge in passed] or list(chosen.judge[:1])
    chosen = chosen[chosen.judge.isin(judges) & (tags | chosen.judge.isin(passed))]
    rows = []
    for key, group in chosen.groupby(["arm", "mode", "judge", "measure"], sort=False):
        low, high = intervals.rate_interval(group.value.sum(), len(group), confidence)
        rows.append([*key, group.value.mean(), low, high, int(group.value.sum()), len(group)])
    columns = ["arm", "mode", "judge", "measure", "rate", "ci_low", "ci_high", "count", "responses"]
    return pd.DataFrame(rows, columns=columns)


def signature_winners(table):
    """For each held-out trace type: the arm that finds it most likely, its change from base, and whether that fits."""
    found = changes(table, scores.SIGNATURE, THINK)
    columns = ["trace type", "arm that finds it most likely", "change from base", "trained on that type"]
    winners = [(kind, found[kind].idxmax()) for kind in found.columns if len(found)]
    rows = [[kind, arm, found.loc[arm, kind], Arm.parse(arm).type == kind] for kind, arm in winners]
    return pd.DataFrame(rows, columns=columns)
