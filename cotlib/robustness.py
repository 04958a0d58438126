"""How fragile the verdicts are: each of them again with one choice made otherwise.

The choices are those that another analyst might have made: which questions, which seeds, sums or means, a mixed model,
a judge's rate in place of the margin. Nothing here decides anything.
"""

import pandas as pd

from cotlib import findings, intervals, scores
from cotlib.contrasts import GENERALISATION, HYPOTHESES

VARIANT, QUESTIONS = "variant", "questions"
AS_FIXED = "as fixed beforehand"
TEXT_COLUMNS = ("model", "arm", "mode", "suite", "behaviour", "question_id", "measure", "text", "judge")


def panel(table, settings, questions, arms=None, words=None, judged=()):
    """Every verdict under every choice: a frame with `variant`, `questions` (how many are left) and a column a claim.

    Args:
        table, settings, arms, words: as `findings.find` takes them.
        questions: the `Question` records that the table is about.
        judged: pairs (name of the choice, score rows of a judge), from `marks.at_thresholds`.
    """
    table = table.astype(dict.fromkeys(TEXT_COLUMNS, "category"))  # the same numbers, compared faster
    rows = []
    variants = [(name, some, intervals.two_way) for name, some in _variants(table, questions)]
    variants.insert(1, ("by a mixed model", table, intervals.mixed))
    variants += [(name, _rates_as_margins(table, some), intervals.two_way) for name, some in judged]
    for name, some, way in variants:
        found = findings.find(some, settings, arms, words, way)
        verdicts = {claim: found[claim]["verdict"] for claim in HYPOTHESES}
        rows.append({VARIANT: name, QUESTIONS: some.question_id.nunique(), **verdicts})
    return pd.DataFrame(rows, columns=[VARIANT, QUESTIONS, *HYPOTHESES])


def _variants(table, questions):
    yield AS_FIXED, table
    new = {question.id for question in questions if question.origin == "new"}
    if 0 < table.question_id.isin(new).sum() < len(table):
        yield "new questions alone", table[table.question_id.isin(new)]
    if (sums := summed(table)) is not None:
        yield "sums instead of means per token", sums
    suites = [suite for suite in GENERALISATION if (table.suite == suite).any()]
    for suite in suites if len(suites) > 1 else []:
        others = [other for other in suites if other != suite]
        yield f"without {', '.join(others)}", table[~table.suite.isin(others)]
    seeds = sorted(table.seed.unique())
    for seed in seeds if len(seeds) > 1 else []:
        yield f"seed {seed} alone", table[table.seed == seed]
    deciding = [question for question in questions if question.suite != "in-domain"]
    for domain in dict.fromkeys(question.domain for question in deciding):
        left_out = {question.id for question in deciding if question.domain == domain}
        if table.question_id.isin(left_out).any():
            yield f"without {domain}", table[~table.question_id.isin(left_out)]


def _rates_as_margins(table, rows):
    """The table with a judge's rates of misaligned responses where its margins were: a point is 0.01 of a nat."""
    rates = rows[rows.measure == scores.MISALIGNED].assign(measure=scores.MARGIN, judge=scores.NO_JUDGE)
    return pd.concat([table[table.measure != scores.MARGIN], rates], ignore_index=True)


def summed(table):
    """The table with whole texts' log-probabilities in place of means per token; None where they were not kept.

    A sum is divided by the mean length of the measure's texts, one number for all, so that effects keep their scale
    and the smallest effect of interest its meaning. Numbers that are not log-probabilities stay as they are.
    """
    kept = table.log_p.notna()
    if not kept.any():
        return None
    sums = (table.log_p - table.log_p_safe.fillna(0)).where(kept)
    pressed = table.measure.isin([scores.PRESSURE, scores.ASSENT])
    keys = ["model", "arm", "seed", "mode", "question_id"]
    margins = table[table.measure == scores.MARGIN].assign(plain=sums)[[*keys, "plain"]]
    plain = table[keys].astype({name: object for name in keys}).merge(
        margins.astype({name: object for name in keys}), on=keys, how="left"
    ).plain  # fmt: skip
    sums = sums - plain.to_numpy() * pressed.to_numpy()
    compared = table.tokens_safe > 0
    lengths = ((table.tokens + table.tokens_safe) / compared.map({True: 2, False: 1})).where(kept)
    scale = lengths.groupby(table.measure.astype(object)).transform("mean")
    return table.assign(value=(sums / scale).where(kept, table.value))


def agreement(frame):
    """Per claim, how many of the other variants give the verdict of the rules fixed beforehand: name → (same, all).

    Args:
        frame: from `panel`.
    """
    fixed, others = frame.iloc[0], frame.iloc[1:]
    return {claim: (int((others[claim] == fixed[claim]).sum()), len(others)) for claim in HYPOTHESES}
