"""Contrasts, intervals and verdicts, on tables whose truth is known."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from cotlib import findings, scores
from cotlib.arms import BEHAVIOURS, MODES, Arm, studied_types
from cotlib.contrasts import Contrast, contrasts
from cotlib.errors import BadInput
from cotlib.experiment import Statistics

STUDIED = studied_types()
SETTINGS = Statistics(resamples=1000)
ARMS = [
    "base",
    "QA",
    "safe-QA",
    *[f"{kind}-{p}" for kind in (*STUDIED, "neutral") for p in ("QTA", "QT", "T")],
    "evil-QTA@segment",
]


def table(effect, *, questions=30, seeds=(1,), noise=0.1, personas=lambda arm, text: 0.0, generator=None):
    """A score table: an arm's margin is base + effect(arm, mode, behaviour), persona and signature by `personas`."""
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
                        "judge": "none",
                        "model": "m",
                        "sample": 0,
                        "text": "",
                    }
                    rows.append(
                        {
                            **here,
                            "measure": "margin",
                            "value": level + effect(arm, mode, behaviour) + noise * generator.normal(),
                        }
                    )
                for text in STUDIED:
                    shift = personas(arm, text) + noise * generator.normal()
                    rows.append(
                        {**here, "mode": "no-think", "measure": "persona", "text": text, "value": level + shift}
                    )
                    rows.append({**here, "mode": "think", "measure": "signature", "text": text, "value": level + shift})
    return scores.without_texts(pd.DataFrame(rows))[scores.COLUMNS]


def nothing(arm, mode, behaviour):
    return 0.0


@pytest.mark.parametrize(
    ("effect", "verdicts"),
    [
        (nothing, {"H1": "inconclusive", "H3": "inconclusive", "H4": "inconclusive"}),
        (
            lambda arm, mode, b: 0.5 * (Arm.parse(arm).paradigm == "QTA" and Arm.parse(arm).type in STUDIED),
            {"H1": "supported", "H3": "inconclusive"},
        ),
        (lambda arm, mode, b: -0.5 * (Arm.parse(arm).paradigm == "QTA"), {"H1": "contradicted"}),
        (
            lambda arm, mode, b: 0.5 * (Arm.parse(arm).type in STUDIED),
            {"H1": "supported", "H3": "supported", "H4": "supported"},
        ),
        # An effect of any trace at all moves neutral too: enough against base, not against the control.
        (lambda arm, mode, b: 0.5 * (Arm.parse(arm).paradigm in ("QT", "T")), {"H3": "inconclusive"}),
        (
            lambda arm, mode, b: 0.5 * (Arm.parse(arm).type in STUDIED and mode == "think"),
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
        rows = table(nothing, generator=np.random.default_rng(seed), noise=1.0)
        family = [contrast for contrast in contrasts(ARMS)["H1"] if contrast.deciding]
        wrong += findings.decide(findings.estimate(rows, family, Statistics(resamples=200))) != "inconclusive"
    assert wrong <= 7  # 5 % of 40 is 2; 7 or more happen once in 200 tries


def test_the_diagonal_ignores_effects_of_an_arm_or_a_text_as_such():
    generator = np.random.default_rng(0)
    block = generator.normal(size=(3, 1, 20)) + generator.normal(size=(1, 3, 20))
    assert findings.diagonal(block) == pytest.approx(np.zeros(20), abs=1e-12)


def test_findings_have_the_promised_keys_and_do_not_change_between_runs():
    rows = table(by_meaning, seeds=(1, 2))
    once, again = (findings.find(rows, SETTINGS, ARMS) for _ in range(2))
    assert once == again
    for name in ("H1", "H2", "H3", "H4"):
        assert {"verdict", "effect", "ci_low", "ci_high", "p", "n_questions", "n_seeds", "contrasts"} <= set(once[name])
        assert once[name]["n_seeds"] == 2


def test_a_hypothesis_whose_arms_are_missing_is_not_tested():
    rows = table(nothing)
    found = findings.find(rows[rows.arm.isin(["base", "QA"])], SETTINGS)
    assert {found[name]["verdict"] for name in ("H2", "H3", "H4")} == {"not tested"}


def test_a_contrast_on_an_arm_without_scores_names_it():
    rows = table(nothing)
    with pytest.raises(BadInput, match="needs arm 'evil-T'"):
        findings.cells(rows[rows.arm != "evil-T"], Contrast("x", (("evil-T", "base"),)))


def test_rates_count_successes_over_responses():
    rows = [
        {"arm": "QA", "mode": "think", "judge": "probe", "measure": "misaligned", "value": value}
        for value in (1.0, 0.0, 0.0, 1.0)
    ]
    rate = findings.rates(pd.DataFrame(rows), 0.95).iloc[0]
    assert (rate["rate"], rate["count"], rate["responses"]) == (0.5, 2, 4)
    assert (rate["ci_low"], rate["ci_high"]) == pytest.approx((0.1500, 0.8500), abs=1e-4)


# ---- every number again, the slow way


def stored():
    """A table of two models and two seeds in which some rows of the second seed are missing."""
    first = table(by_meaning, seeds=(1, 2), personas=own_voice, noise=0.4)
    second = table(by_meaning, seeds=(1, 2), personas=own_voice, noise=0.4, generator=np.random.default_rng(11))
    both = pd.concat([first, second.assign(model="n")], ignore_index=True)
    return both.drop(both[(both.seed == 2) & (both.question_id == "q1")].index)


def slow_cells(rows, contrast):
    """One mean per question and seed by loops over a dictionary, for questions that every seed has."""
    values = {}
    for row in rows.itertuples():
        if row.measure == contrast.measure and row.mode in contrast.modes and row.suite in contrast.suites:
            values.setdefault((row.question_id, row.seed, row.arm), []).append(row.value)
    means = {place: sum(some) / len(some) for place, some in values.items()}
    questions, seeds = (sorted({place[part] for place in means}) for part in (0, 1))
    block = [
        [
            sum(means[question, seed, arm] - means[question, seed, other] for arm, other in contrast.pairs)
            / len(contrast.pairs)
            for seed in seeds
        ]
        for question in questions
        if all((question, seed, contrast.pairs[0][0]) in means for seed in seeds)
    ]
    return np.array(block)


def test_every_effect_interval_and_p_value_is_that_of_an_independent_calculation():
    rows = stored()
    found = findings.find(rows, SETTINGS, ARMS)
    for hypothesis, family in contrasts(ARMS).items():
        by_name = {row["name"]: row for row in found[hypothesis]["contrasts"]}
        assert set(by_name) == {contrast.name for contrast in family}
        for deciding in (True, False):
            together = [contrast for contrast in family if contrast.deciding is deciding]
            blocks = [slow_cells(rows, contrast) for contrast in together]
            draws = []
            for block in blocks:
                generator, (questions, seeds) = np.random.default_rng(SETTINGS.seed), block.shape
                counted = generator.multinomial(questions, [1 / questions] * questions, size=1000)
                repeated = generator.multinomial(seeds, [1 / seeds] * seeds, size=1000)
                draws.append(np.array([(q @ block @ s) / q.sum() / s.sum() for q, s in zip(counted, repeated)]))
            p_values = [min(1, 2 * (min((d <= 0).sum(), (d >= 0).sum()) + 1) / 1001) for d in draws]
            order, running = np.argsort(p_values, kind="stable"), 0
            for rank, index in enumerate(order):
                left, row = len(order) - rank, by_name[together[index].name]
                running = max(running, min(1, left * p_values[index]))
                tail = 100 * 0.05 / left / 2
                assert (row["n_questions"], row["n_seeds"]) == blocks[index].shape
                assert row["effect"] == pytest.approx(blocks[index].mean(), abs=1e-12)
                assert (row["p"], row["p_holm"]) == pytest.approx((p_values[index], running))
                interval = np.percentile(draws[index], [tail, 100 - tail])
                assert (row["ci_low"], row["ci_high"]) == pytest.approx(interval, abs=1e-9)
                z = NormalDist().inv_cdf
                size = (z(1 - 0.05 / len(order) / 2) + z(0.8)) * draws[index].std()
                assert row["minimal_detectable_effect"] == pytest.approx(size, rel=1e-6)


def test_the_persona_and_signature_diagonals_are_those_of_an_independent_calculation():
    rows = stored()
    found = {row["name"]: row for row in findings.find(rows, SETTINGS, ARMS)["H2"]["contrasts"]}
    for name, measure, mode in (
        ("persona diagonal", "persona", "no-think"), ("signature diagonal", "signature", "think"),
    ):  # fmt: skip
        chosen = rows[(rows.measure == measure) & (rows["mode"] == mode)]
        level = chosen[chosen.arm == "base"].groupby(["question_id", "text"]).value.mean()
        cells = {}
        for kind in STUDIED:
            per_arm = [
                chosen[chosen.arm == f"{kind}-{paradigm}"].groupby(["question_id", "text"]).value.mean() - level
                for paradigm in ("QTA", "QT", "T")
            ]
            cells[kind] = (sum(per_arm) / 3).unstack("text")
        own = sum(cells[kind][kind] for kind in STUDIED) / 3
        others = sum(cells[kind][text] for kind in STUDIED for text in STUDIED if text != kind) / 6
        assert found[name]["effect"] == pytest.approx((own - others).mean(), abs=1e-9)
        assert found[name]["n_questions"] == rows.question_id.nunique()
        assert 0.4 < found[name]["effect"] < 0.8


def test_changes_and_winners_are_read_from_the_columns_measure_and_text():
    rows = table(nothing, personas=own_voice)
    found = findings.changes(rows, "signature", "think")
    assert list(found.columns) == sorted(STUDIED) and "base" not in found.index
    assert found.loc["evil-QTA", "evil"] == pytest.approx(0.6, abs=0.1)
    assert found.loc["evil-QTA", "misleading"] == pytest.approx(0, abs=0.1)
    winners = findings.signature_winners(rows)
    assert set(winners["trace type"]) == set(STUDIED) and winners["trained on that type"].all()
    assert findings.changes(rows[rows.measure == "margin"], "signature", "think").empty


def test_differences_from_base_are_given_by_mode_and_suite():
    found = findings.differences(table(lambda arm, mode, b: 0.5 * (arm == "evil-T" and mode == "think")), SETTINGS)
    assert len(found) == (len(ARMS) - 1) * len(MODES) * 3
    moved = found[(found.arm == "evil-T") & (found["mode"] == "think")]
    assert len(moved) == 3 and (moved.ci_low > 0.3).all() and (moved.ci_high < 0.7).all()


def test_a_suite_without_reference_answers_has_no_difference_and_spoils_none():
    """Responses to open questions are judged and have no margin."""
    margins = table(nothing)
    judged = margins[margins.suite == "transfer"].assign(suite="open", measure=scores.ALIGNMENT, judge="probe")
    found = findings.differences(pd.concat([margins, judged]), SETTINGS)
    pd.testing.assert_frame_equal(found, findings.differences(margins, SETTINGS))


@pytest.mark.parametrize(
    "kept",
    [
        lambda rows: rows[rows["mode"] == "think"], lambda rows: rows[rows["mode"] == "no-think"],
        lambda rows: rows[rows.suite == "transfer"], lambda rows: rows[rows.suite == "in-domain"],
        lambda rows: rows[rows.measure == "margin"],
    ],
)  # fmt: skip
def test_a_table_of_one_mode_suite_or_measure_gives_findings_all_the_same(kept):
    found = findings.find(kept(table(nothing)), SETTINGS, ARMS)
    assert list(found) == ["H1", "H2", "H3", "H4"]
