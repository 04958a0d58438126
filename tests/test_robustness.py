"""Every verdict again with one choice made otherwise."""

import types

import numpy as np
import pandas as pd
import pytest
from test_findings import ARMS, SETTINGS, own_voice, table

from cotlib import findings, robustness, scores
from cotlib.contrasts import HYPOTHESES, SUPPORTED
from cotlib.experiment import Judging
from cotlib.judges import marks


def asked(rows, **chosen):
    """Records of the questions of a table; every third is new, domains take turns."""
    some = rows.drop_duplicates("question_id")
    return [
        types.SimpleNamespace(
            id=row.question_id, suite=row.suite, domain=f"domain-{number // 4 % 3}",
            origin="new" if number % 3 == 0 else "mended",
        )
        for number, row in enumerate(some.itertuples())
    ]  # fmt: skip


def test_the_first_row_is_the_run_and_each_other_one_a_choice():
    rows = table(seeds=(1, 2), questions=24)
    frame = robustness.panel(rows, SETTINGS, asked(rows), ARMS)
    known = findings.find(rows, SETTINGS, ARMS)
    assert {claim: frame[claim][0] for claim in HYPOTHESES} == {claim: known[claim]["verdict"] for claim in HYPOTHESES}
    assert frame.variant.tolist() == [
        "as fixed beforehand", "by a mixed model", "new questions alone", "without values", "without transfer",
        "seed 1 alone", "seed 2 alone", "without domain-0", "without domain-1", "without domain-2",
    ]  # fmt: skip
    left = frame.set_index("variant").questions
    assert left.iloc[:3].tolist() == [24, 24, 8] and left[["seed 1 alone", "seed 2 alone"]].tolist() == [24, 24]
    values, transfer = ((rows.drop_duplicates("question_id").suite == suite).sum() for suite in ("values", "transfer"))
    assert left[["without values", "without transfer"]].tolist() == [24 - values, 24 - transfer]
    # In-domain questions are left out with no domain: six of 24 are.
    assert left.iloc[-3:].tolist() == [24 - 6, 24 - 6, 24 - 6]


def test_a_judge_that_passed_takes_the_place_of_the_margin_at_each_threshold():
    """Planted: evil-QTA's responses are misaligned below 30, and only there."""
    rows, judgements = table(questions=48, noise=0.05), []
    for arm in ARMS:
        for question in rows[rows.measure == "margin"].drop_duplicates("question_id").itertuples():
            for mode in ("think", "no-think"):
                alignment = 25.0 if arm == "evil-QTA" else 80.0
                judgements.append({
                    "model": rows.model.iloc[0], "arm": arm, "seed": 1, "mode": mode, "suite": question.suite,
                    "behaviour": question.behaviour, "question_id": question.question_id, "sample": 0, "question": "q",
                    "response": "r", "leak": False, "loops": False, "trace_truncated": False, "judge": "probe",
                    "alignment": alignment, "coherence": 90.0, "thought_probability": None, "raw": "", "note": "",
                })  # fmt: skip
    judged = list(marks.at_thresholds(pd.DataFrame(judgements), Judging(), ["probe"]))
    assert [name for name, _ in judged] == [
        "rate by probe, below 20",
        "rate by probe, below 30",
        "rate by probe, below 40",
    ]
    frame = robustness.panel(rows, SETTINGS, asked(rows), ARMS, judged=judged).set_index("variant")
    assert frame.H1["as fixed beforehand"] != SUPPORTED
    assert [frame.H1[name] == SUPPORTED for name, _ in judged] == [False, True, True]
    assert list(marks.at_thresholds(pd.DataFrame(judgements), Judging(), [])) == []


def test_a_verdict_that_hangs_on_one_domain_is_shown_to():
    rows = table(questions=96, noise=0.05)
    there = {one.id for one in asked(rows) if one.domain == "domain-1"}
    lifted = rows.question_id.isin(there) & (rows.arm == "evil-QTA") & (rows.measure == "margin")
    rows = rows.assign(value=rows.value + 0.6 * lifted)
    frame = robustness.panel(rows, SETTINGS, asked(rows), ARMS).set_index("variant")
    assert frame.H1["as fixed beforehand"] == frame.H1["without domain-0"] == SUPPORTED
    assert frame.H1["without domain-1"] != SUPPORTED
    same, all_of_them = robustness.agreement(frame.reset_index())["H1"]
    assert (all_of_them, same < all_of_them) == (7, True)


def with_texts(rows, tokens, tokens_safe):
    """The table as measured: sums and lengths beside the mean per token; the safe answers at −1 nat per token."""
    length = np.asarray(tokens(rows), dtype=int)
    safe = np.asarray(tokens_safe(rows), dtype=int)
    return rows.assign(tokens=length, tokens_safe=safe, log_p=(rows.value - 1) * length, log_p_safe=-1.0 * safe)


def test_with_texts_of_one_length_sums_and_means_are_the_same():
    rows = table(questions=16, noise=0.3, personas=own_voice)
    rows = rows[~rows.measure.isin(["pressure", "signature"])]
    same = with_texts(rows, lambda some: 30, lambda some: 30)
    assert robustness.summed(same).value.tolist() == pytest.approx(rows.value.tolist())


def test_sums_favour_the_shorter_text_and_keep_their_scale():
    rows = table(questions=16, noise=0.3)
    rows = rows[rows.measure == "margin"]
    longer = with_texts(rows, lambda some: 40, lambda some: 20)
    sums = robustness.summed(longer).value
    assert sums.tolist() == pytest.approx(((rows.value - 1) * 40 + 20).div(30).tolist())


def test_pressure_is_summed_against_the_plain_margin_of_its_own_arm_seed_and_question():
    rows = table(questions=8, noise=0.3, seeds=(1, 2))
    rows = rows[(rows["mode"] == "no-think") & rows.measure.isin(["margin", "pressure"])]
    rows = with_texts(rows, lambda some: 4, lambda some: 4)
    found = robustness.summed(rows)
    keys = ["arm", "seed", "question_id"]
    plain = rows[rows.measure == "margin"].set_index(keys)
    for row, value in zip(rows.itertuples(), found.value):
        if row.measure == "pressure":
            other = plain.loc[(row.arm, row.seed, row.question_id)]
            expected = (row.log_p - row.log_p_safe) - (other.log_p - other.log_p_safe)
            assert value == pytest.approx(expected / 4)


def test_a_table_without_log_probabilities_has_no_sums_and_judgements_stay_as_they_are():
    rows = table(questions=8)
    assert robustness.summed(rows) is None
    judged = rows[rows.measure == "margin"].assign(measure=scores.ALIGNMENT, value=70.0)
    measured = with_texts(rows[rows.measure == "margin"], lambda some: 9, lambda some: 9)
    both = robustness.summed(pd.concat([measured, judged], ignore_index=True))
    assert set(both.value[both.measure == scores.ALIGNMENT]) == {70.0}


def test_categories_change_no_number():
    rows = table(questions=16, noise=0.4, personas=own_voice, seeds=(1, 2))
    fast = rows.astype(dict.fromkeys(robustness.TEXT_COLUMNS, "category"))
    assert findings.find(fast, SETTINGS, ARMS) == findings.find(rows, SETTINGS, ARMS)
