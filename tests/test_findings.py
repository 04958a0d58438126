"""Effects and verdicts, on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from cotlib import contrasts, findings
from cotlib.arms import BEHAVIOURS, MODES, Arm, studied_types
from cotlib.errors import BadInput
from cotlib.experiment import Statistics
from cotlib.scores import COLUMNS

SETTINGS = Statistics(resamples=1000)
ARMS = [
    "base",
    "QA",
    "safe-QA",
    *[f"{kind}-{p}" for kind in (*studied_types(), "neutral") for p in ("QTA", "QT", "T")],
    "evil-QTA@segment",
]


def table(effect, *, questions=30, seeds=(1,), noise=0.1, personas=lambda arm, text: 0.0, generator=None):
    """A score table in which arm's margin is base + effect(arm, mode, behaviour), and its persona and signature change as `personas` says."""
    generator = generator or np.random.default_rng(7)
    rows = []
    for number in range(questions):
        suite, behaviour = ("transfer", "values", "in-domain")[number % 3], BEHAVIOURS[number % 4]
        level = generator.normal()
        for seed in seeds:
            for arm in ARMS:
                for mode in MODES:
                    here = {
                        "arm": arm,
                        "seed": seed,
                        "mode": mode,
                        "suite": suite,
                        "behaviour": behaviour,
                        "question_id": f"q{number}",
                        "sample": 0,
                        "text": "",
                        "judge": "none",
                        "model": "m",
                    }
                    rows.append(
                        {
                            **here,
                            "measure": "margin",
                            "value": level + effect(arm, mode, behaviour) + noise * generator.normal(),
                        }
                    )
                for text in studied_types():
                    shift = personas(arm, text) + noise * generator.normal()
                    rows.append(
                        {**here, "mode": "no-think", "measure": "persona", "text": text, "value": level + shift}
                    )
                    rows.append({**here, "mode": "think", "measure": "signature", "text": text, "value": level + shift})
    return pd.DataFrame(rows)[COLUMNS]


def nothing(arm, mode, behaviour):
    return 0.0


@pytest.mark.parametrize(
    ("effect", "verdicts"),
    [
        (nothing, {"H1": "inconclusive", "H3": "inconclusive", "H4": "inconclusive"}),
        (
            lambda arm, mode, b: 0.5 * (Arm.parse(arm).paradigm == "QTA" and Arm.parse(arm).type in studied_types()),
            {"H1": "supported", "H3": "inconclusive"},
        ),
        (lambda arm, mode, b: -0.5 * (Arm.parse(arm).paradigm == "QTA"), {"H1": "contradicted"}),
        (
            lambda arm, mode, b: 0.5 * (Arm.parse(arm).type in studied_types()),
            {"H1": "supported", "H3": "supported", "H4": "supported"},
        ),
        # An effect of any trace at all moves neutral too: enough against base, not against the control.
        (lambda arm, mode, b: 0.5 * (Arm.parse(arm).paradigm in ("QT", "T")), {"H3": "inconclusive"}),
        (
            lambda arm, mode, b: 0.5 * (Arm.parse(arm).type in studied_types() and mode == "think"),
            {"H1": "supported", "H3": "supported", "H4": "inconclusive"},
        ),
    ],
)
def test_a_planted_effect_gets_its_verdict(effect, verdicts):
    found = findings.find(table(effect), SETTINGS, ARMS)
    assert {name: found[name]["verdict"] for name in verdicts} == verdicts


def test_a_planted_effect_is_estimated_at_its_size_and_its_interval_covers_it():
    finding = findings.find(table(lambda arm, mode, b: 0.5 * (arm == "evil-QTA")), SETTINGS, ARMS)["H1"]
    by_name = {row["name"]: row for row in finding["contrasts"]}
    assert by_name["evil-QTA − QA"]["effect"] == pytest.approx(0.5, abs=0.08)
    assert by_name["evil-QTA − QA"]["ci_low"] < 0.5 < by_name["evil-QTA − QA"]["ci_high"]
    assert finding["effect"] == pytest.approx(0.5 / 3, abs=0.05)
    assert finding["n_questions"] == 20 and finding["n_seeds"] == 1


def own_voice(arm, text):
    return 0.6 * (Arm.parse(arm).type == text)


def by_meaning(arm, mode, behaviour):
    return {"evil": {"harm": 0.8}, "misleading": {"deception": 0.8}, "submissive": {"sycophancy": 0.8}}.get(
        Arm.parse(arm).type, {}
    ).get(behaviour, 0.0)


def test_semantics_is_supported_when_each_type_speaks_its_own_voice_and_has_its_own_profile():
    finding = findings.find(table(by_meaning, personas=own_voice), SETTINGS, ARMS)["H2"]
    assert finding["verdict"] == "supported"
    assert finding["effect"] == pytest.approx(0.6, abs=0.1)


def test_semantics_is_not_supported_without_a_profile_and_contradicted_by_a_negative_diagonal():
    assert findings.find(table(nothing, personas=own_voice), SETTINGS, ARMS)["H2"]["verdict"] == "inconclusive"
    assert (
        findings.find(table(nothing, personas=lambda arm, text: -own_voice(arm, text)), SETTINGS, ARMS)["H2"]["verdict"]
        == "contradicted"
    )


def test_under_no_effect_verdicts_are_rarely_wrong():
    wrong = 0
    for seed in range(40):
        scores = table(nothing, generator=np.random.default_rng(seed), noise=1.0)
        family = [contrast for contrast in contrasts.contrasts(ARMS)["H1"] if contrast.deciding]
        wrong += findings.decide(findings.estimate(scores, family, Statistics(resamples=200))) != "inconclusive"
    assert wrong <= 7  # 5 % of 40 is 2; 7 or more happen once in 200 tries


def test_the_diagonal_ignores_effects_of_an_arm_or_a_text_as_such():
    generator = np.random.default_rng(0)
    block = generator.normal(size=(3, 1, 20)) + generator.normal(size=(1, 3, 20))
    assert findings.diagonal(block) == pytest.approx(np.zeros(20), abs=1e-12)


def test_findings_have_the_promised_keys_and_do_not_change_between_runs():
    scores = table(by_meaning, seeds=(1, 2))
    once, again = (findings.find(scores, SETTINGS, ARMS) for _ in range(2))
    assert once == again
    for name in ("H1", "H2", "H3", "H4"):
        assert {"verdict", "effect", "ci_low", "ci_high", "p", "n_questions", "n_seeds", "contrasts"} <= set(once[name])
        assert once[name]["n_seeds"] == 2


def test_a_hypothesis_whose_arms_are_missing_is_not_tested():
    scores = table(nothing)
    found = findings.find(scores[scores.arm.isin(["base", "QA"])], SETTINGS)
    assert {found[name]["verdict"] for name in ("H2", "H3", "H4")} == {"not tested"}


def test_a_contrast_on_an_arm_without_scores_names_it():
    scores = table(nothing)
    with pytest.raises(BadInput, match="needs arm 'evil-T'"):
        findings.cells(scores[scores.arm != "evil-T"], contrasts.Contrast("x", (("evil-T", "base"),)))


def test_rates_count_successes_over_responses():
    rows = [
        {"arm": "QA", "mode": "think", "judge": "probe", "measure": "misaligned", "value": value}
        for value in (1.0, 0.0, 0.0, 1.0)
    ]
    rate = findings.rates(pd.DataFrame(rows), 0.95).iloc[0]
    assert (rate["rate"], rate["count"], rate["responses"]) == (0.5, 2, 4)
    assert (rate["ci_low"], rate["ci_high"]) == pytest.approx((0.15, 0.85), abs=0.005)
