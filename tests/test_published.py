"""The published run's numbers again, from its score table, by code that shares nothing with `cotlib`."""

import json
import math
import statistics

import pandas as pd
import pytest
from scipy import stats

from cotlib.experiment import ROOT
from cotlib.runs import artifacts

RUN = artifacts.read_json(ROOT / "book" / "executed" / "run.json")["experiment"]
FOLDER = ROOT / "book" / "results" / RUN["name"]
FOUND = json.loads((FOLDER / "findings.json").read_text())
TABLE = pd.read_parquet(FOLDER / "scores.parquet")
LEVEL = 1 - RUN["statistics"]["confidence"]
SUITES = {"transfer": ["transfer"], "values": ["values"], "own voice": ["values"]}


def mean_by_question(arm, measure, suites, modes, text=None):
    """{(question, seed): mean value} of an arm."""
    rows = TABLE[(TABLE.arm == arm) & (TABLE.measure == measure)]
    rows = rows[rows.suite.isin(suites) & rows["mode"].isin(modes)]
    if text:
        rows = rows[rows.text == text]
    return rows.groupby(["question_id", "seed"]).value.mean().to_dict()


def t_test(arm, reference, **where):
    """(effect, standard error, degrees of freedom) of paired differences, questions and seeds both sampled."""
    one, other = mean_by_question(arm, **where), mean_by_question(reference, **where)
    cells = {place: one[place] - other[place] for place in one if place in other}
    questions, seeds = sorted({q for q, _ in cells}), sorted({s for _, s in cells})
    n, s, mean = len(questions), len(seeds), statistics.fmean(cells.values())
    rows = [statistics.fmean(cells[q, k] for k in seeds) for q in questions]
    parts, free = [s * statistics.variance(rows)], [n - 1]
    if s > 1:
        columns = [statistics.fmean(cells[q, k] for q in questions) for k in seeds]
        left = sum((cells[q, k] - row - column + mean) ** 2 for q, row in zip(questions, rows)
                   for k, column in zip(seeds, columns)) / ((n - 1) * (s - 1))  # fmt: skip
        between = n * statistics.variance(columns)
        if between > left:
            parts, free = [*parts, between, -left], [*free, s - 1, (n - 1) * (s - 1)]
    freedom = sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, free))
    return mean, math.sqrt(sum(parts) / (n * s)), min(max(freedom, 1), n - 1)


def comparisons(hypothesis, name):
    """What a deciding test of H1, H3 or H4 compares, from its name alone: (arm, reference, measure's place)."""
    arm, what = name.split(", ")
    kind, paradigm = arm.split("-")
    if paradigm == "QTA":
        place = {"measure": "margin", "suites": ["transfer", "values"], "modes": [what]}
        return [(arm, reference, place) for reference in ("QA", "neutral-QTA")]
    modes = ["no-think"] if hypothesis == "H4" or what == "own voice" else ["think", "no-think"]
    place = {"measure": "persona" if what == "own voice" else "margin", "suites": SUITES[what], "modes": modes}
    place["text"] = kind if what == "own voice" else None
    return [(arm, reference, place) for reference in ("base", f"neutral-{paradigm}")]


@pytest.mark.parametrize("hypothesis", ["H1", "H3", "H4"])
def test_every_deciding_effect_interval_p_and_verdict_follows_from_the_published_scores(hypothesis):
    rows = [row for row in FOUND[hypothesis]["contrasts"] if row["deciding"]]
    assert rows
    known = []
    for row in rows:
        parts = [t_test(arm, reference, **place) for arm, reference, place in comparisons(hypothesis, row["name"])]
        one_sided = "-QTA" in row["name"]
        if one_sided:
            p = max(stats.t.sf(mean / error, df) for mean, error, df in parts)
        else:
            agree = len({mean > 0 for mean, _, _ in parts}) == 1
            p = max(2 * stats.t.sf(abs(mean / error), df) for mean, error, df in parts) if agree else 1.0
        known.append((p, parts, one_sided))
    order = sorted(range(len(rows)), key=lambda index: known[index][0])
    running, share, stopped = 0.0, LEVEL, False
    for rank, index in enumerate(order):
        p, parts, one_sided = known[index]
        running = max(running, min(1.0, p * (len(rows) - rank)))
        if not stopped:  # all that is not rejected has the share of the step at which the procedure stops
            share, stopped = LEVEL / (len(rows) - rank), running > LEVEL
        tail = share if one_sided else share / 2
        assert (rows[index]["p"], rows[index]["p_holm"]) == pytest.approx((p, running), rel=1e-6)
        for part, (mean, error, df) in zip(rows[index]["parts"], parts):
            half = stats.t.isf(tail, df) * error
            assert (part["effect"], part["ci_low"], part["ci_high"]) == pytest.approx(
                (mean, mean - half, mean + half), rel=1e-6, abs=1e-9
            )
        assert (rows[index]["verdict"] == "supported") <= (running <= LEVEL)
    assert (FOUND[hypothesis]["verdict"] == "supported") == any(row["verdict"] == "supported" for row in rows)
    head = rows[order[0]]
    assert (FOUND[hypothesis]["headline"], FOUND[hypothesis]["effect"]) == (head["name"], head["effect"])


def test_margins_are_made_of_the_log_probabilities_beside_them():
    rows = TABLE[TABLE.measure == "margin"]
    assert len(rows) > 100
    value = rows.log_p / rows.tokens - rows.log_p_safe / rows.tokens_safe
    assert value.tolist() == pytest.approx(rows.value.tolist(), abs=1e-9)
