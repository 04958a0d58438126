"""What sits in the weights and what passes through the written thought, taken apart on planted effects."""

import numpy as np
import pandas as pd
import pytest

from cotlib import intervals, routes, scores
from cotlib.experiment import Statistics
from cotlib.findings import find

SETTINGS = Statistics()
QUESTIONS, SEEDS = 30, (1, 2, 3)
BEHIND = {  # where a margin stands in the table: (mode, measure, text)
    "none": ("no-think", scores.MARGIN, ""), "own": ("think", scores.MARGIN, ""),
    "base": ("think", scores.ROUTE, "base"), "evil": ("think", scores.ROUTE, "evil"),
    "neutral": ("think", scores.ROUTE, "neutral"),
}  # fmt: skip


def table(effects, noise=0.05):
    """Score rows of arms whose margin is that of the question plus the effect of the arm behind that thought."""
    generator, rows = np.random.default_rng(3), []
    level = generator.normal(size=QUESTIONS)
    for arm, behind in effects.items():
        for name, effect in behind.items():
            mode, measure, text = BEHIND[name]
            for question in range(QUESTIONS):
                for seed in SEEDS:
                    value = level[question] + effect + generator.normal(0, noise)
                    rows.append({
                        "model": "m", "arm": arm, "seed": seed, "mode": mode, "suite": "in-domain", "behaviour": "harm",
                        "question_id": f"q-{question}", "sample": 0, "measure": measure, "text": text,
                        "judge": scores.NO_JUDGE, "value": value, "log_p": -value, "tokens": 1, "log_p_safe": 0.0,
                        "tokens_safe": 1,
                    })  # fmt: skip
    return pd.DataFrame(rows)[scores.COLUMNS]


BASE = {"none": 0.0, "own": 0.1, "evil": 0.4, "neutral": 0.2}  # an untrained model follows what it is given
CASES = {
    # arm, what the trained arm adds behind each thought, and the readings that must come out
    "all in the weights": ({"none": 0.5, "own": 0.6, "base": 0.6, "evil": 0.9, "neutral": 0.7}, (0.5, 0.5, 0.5, 0.0)),
    "all through the thought": (
        {"none": 0.0, "own": 0.6, "base": 0.1, "evil": 0.4, "neutral": 0.2}, (0.0, 0.5, 0.0, 0.5),
    ),
    "half and half": ({"none": 0.2, "own": 0.6, "base": 0.3, "evil": 0.7, "neutral": 0.3}, (0.2, 0.5, 0.2, 0.3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_planted_routes_are_found(name):
    arm, (weights, own, innocent, written) = CASES[name]
    found = routes.readings(table({"base": BASE, "evil-QTA": arm}), SETTINGS).set_index("reading")
    wanted = {
        "in the weights": weights, "with its own thought": own, "behind an innocent thought": innocent,
        "through the written thought": written, "a given thought of its type": arm["evil"] - arm["neutral"],
        "the same thought given to base": BASE["evil"] - BASE["neutral"],
    }  # fmt: skip
    assert set(found.index) == set(wanted) == set(routes.READINGS)
    for reading, effect in wanted.items():
        row = found.loc[reading]
        assert row.effect == pytest.approx(effect, abs=0.03) and row.ci_low < row.effect < row.ci_high
        assert (row.n_questions, row.n_seeds) == (QUESTIONS, len(SEEDS))


def test_a_reading_is_the_mean_of_paired_differences_with_the_interval_of_every_other_effect():
    scored = table({"base": BASE, "evil-QTA": CASES["half and half"][0]})
    found = routes.readings(scored, SETTINGS).set_index("reading").loc["through the written thought"]
    of_arm = scored[(scored.arm == "evil-QTA") & (scored["mode"] == "think")]
    grid = lambda measure, text: (
        of_arm[(of_arm.measure == measure) & (of_arm.text == text)]
        .pivot(index="question_id", columns="seed", values="value")
        .to_numpy()
    )
    block = grid(scores.MARGIN, "") - grid(scores.ROUTE, "base")
    assert found.effect == pytest.approx(block.mean())
    assert (found.ci_low, found.ci_high) == pytest.approx(intervals.two_way(block).interval(0.05))


def test_arms_without_a_type_and_neutral_ones_have_no_thought_of_their_own_type():
    arms = {"base": BASE, "QA": BASE | {"base": 0.1}, "neutral-QT": BASE | {"base": 0.1}, "shuffled-evil-QT": BASE}
    found = routes.readings(table(arms), SETTINGS)
    readings = {arm: set(rows.reading) for arm, rows in found.groupby("arm")}
    typed = {"a given thought of its type", "the same thought given to base"}
    assert not typed & (readings["QA"] | readings["neutral-QT"]) and typed <= readings["shuffled-evil-QT"]
    assert routes.readings(table({"base": {"none": 0.0, "own": 0.1}, "QA": {"none": 0.0}}), SETTINGS).empty


def test_whose_thoughts_an_arm_thinks_is_a_change_from_base():
    rows = []
    for arm, share in {"base": 0.1, "evil-QTA": 0.7}.items():
        for question in range(12):
            for kind, value in {"evil": share + 0.01 * question, "neutral": 1 - share - 0.01 * question}.items():
                rows.append({
                    "model": "m", "arm": arm, "seed": 1, "mode": "think", "suite": "transfer", "behaviour": "harm",
                    "question_id": f"q-{question}", "sample": 0, "measure": scores.THOUGHT, "text": kind,
                    "judge": "reader", "value": value,
                })  # fmt: skip
    read = scores.without_texts(pd.DataFrame(rows))[scores.COLUMNS]
    found = routes.thoughts(read, SETTINGS).set_index("type")
    assert found.loc["evil", "effect"] == pytest.approx(0.6) and found.loc["neutral", "effect"] == pytest.approx(-0.6)
    assert found.own.to_dict() == {"evil": True, "neutral": False}
    assert found.loc["evil", "share"] == pytest.approx(0.755)
    # They describe: no verdict changes with them.
    margins = table({"base": BASE, "evil-QTA": CASES["half and half"][0]}, 0.1)
    alone, beside = find(margins, SETTINGS), find(pd.concat([margins, read]), SETTINGS)
    assert {name: row["verdict"] for name, row in alone.items()} == {
        name: row["verdict"] for name, row in beside.items()
    }
