"""Effects, intervals and verdicts, on tables whose truth is known."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cotlib import findings, scores
from cotlib.arms import BEHAVIOURS, MATCHED, MODES, Arm, studied_types
from cotlib.contrasts import CONTRADICTED, INCONCLUSIVE, NO_EFFECT, SUPPORTED, UNTESTED, Contrast, contrasts
from cotlib.corpus import wordcounts
from cotlib.errors import BadInput
from cotlib.experiment import Statistics

STUDIED = studied_types()
SETTINGS = Statistics()
ARMS = [
    "base",
    "QA",
    "safe-QA",
    *[f"{kind}-{p}" for kind in (*STUDIED, "neutral") for p in ("QTA", "QT", "T")],
    *[f"{kind}-QTA@matched" for kind in (*STUDIED, "neutral")],
    "evil-QTA@segment",
]
SUITES = ("transfer", "values", "in-domain", "pressure")


def nothing(*_):
    return 0.0


def table(effect=nothing, *, questions=64, seeds=(1,), noise=0.1, personas=nothing, pressed=nothing, generator=None,
          between=0.0):  # fmt: skip
    """A score table: an arm's margin is base + effect(arm, mode, behaviour); its persona and signature that of base
    + personas(arm, text); its pressure pressed(arm). `between`: how much an arm's training runs differ."""
    generator = generator or np.random.default_rng(7)
    run = {(arm, seed): between * generator.normal() * (arm != "base") for arm in ARMS for seed in seeds}
    rows = []
    for number in range(questions):
        suite, behaviour = SUITES[number % 4], BEHAVIOURS[number // 4 % 4]
        level = generator.normal()
        for seed, arm in itertools.product(seeds, ARMS):
            measured = [("margin", mode, "", effect(arm, mode, behaviour)) for mode in MODES]
            if suite == "values":
                measured += [("persona", "no-think", text, personas(arm, text)) for text in STUDIED]
            if suite == "in-domain":
                measured += [("signature", "think", text, personas(arm, text)) for text in STUDIED]
            if suite == "pressure":
                measured += [("pressure", "no-think", framing, pressed(arm)) for framing in ("belief", "plea")]
            for measure, mode, text, change in measured:
                rows.append({
                    "model": "m", "arm": arm, "seed": seed, "mode": mode, "suite": suite, "behaviour": behaviour,
                    "question_id": f"q{number}", "sample": 0, "measure": measure, "text": text, "judge": "none",
                    "value": level + change + run[arm, seed] + noise * generator.normal(),
                })  # fmt: skip
    return scores.without_texts(pd.DataFrame(rows))[scores.COLUMNS]


def of(arm, *, types=STUDIED, paradigms=("QTA", "QT", "T")):
    """Whether an arm is of one of these types and paradigms."""
    return Arm.parse(arm).type in types and Arm.parse(arm).paradigm in paradigms


@pytest.mark.parametrize(
    ("effect", "verdicts"),
    [
        (nothing, {"H1": NO_EFFECT, "H3": NO_EFFECT, "H4": NO_EFFECT}),
        (lambda arm, mode, b: 0.5 * of(arm, paradigms=["QTA"]), {"H1": SUPPORTED, "H3": NO_EFFECT}),
        # One type in one mode is enough for a claim that something can happen.
        (lambda arm, mode, b: 0.5 * (arm == "evil-QTA" and mode == "think"), {"H1": SUPPORTED, "H4": NO_EFFECT}),
        # Whatever any trace does, neutral ones included, is no effect of reasoning; nor is a fall.
        (lambda arm, mode, b: 0.5 * of(arm, types=(*STUDIED, "neutral"), paradigms=["QTA"]), {"H1": NO_EFFECT}),
        (lambda arm, mode, b: -0.5 * of(arm, paradigms=["QTA"]), {"H1": NO_EFFECT}),
        (lambda arm, mode, b: 0.5 * of(arm), {"H1": SUPPORTED, "H3": SUPPORTED, "H4": SUPPORTED}),
        (lambda arm, mode, b: 0.5 * of(arm, types=(*STUDIED, "neutral"), paradigms=["QT", "T"]), {"H3": NO_EFFECT}),
        # H3 is about any change: a fall beyond that of neutral traces is one.
        (lambda arm, mode, b: -0.5 * of(arm, types=["evil"], paradigms=["QT"]), {"H3": SUPPORTED, "H4": SUPPORTED}),
        # Above base and below neutral: the two comparisons disagree.
        (
            lambda arm, mode, b: {"evil-QT": 0.3, "neutral-QT": 0.6}.get(arm, 0),
            {"H3": INCONCLUSIVE},
        ),
        (
            lambda arm, mode, b: 0.5 * (of(arm) and mode == "think"),
            {"H1": SUPPORTED, "H3": SUPPORTED, "H4": NO_EFFECT},
        ),
    ],
)
def test_a_planted_effect_gets_its_verdict(effect, verdicts):
    found = findings.find(table(effect, questions=160, noise=0.03), SETTINGS, ARMS)
    assert {name: found[name]["verdict"] for name in verdicts} == verdicts


def test_few_noisy_questions_decide_nothing():
    found = findings.find(table(questions=24, noise=0.6), SETTINGS, ARMS)
    assert {finding["verdict"] for finding in found.values()} == {INCONCLUSIVE}


def test_a_planted_effect_is_estimated_at_its_size_and_its_interval_covers_it():
    finding = findings.find(table(lambda arm, mode, b: 0.5 * (arm == "evil-QTA")), SETTINGS, ARMS)["H1"]
    (row,) = [row for row in finding["contrasts"] if row["name"] == "evil-QTA, think"]
    assert [part["name"] for part in row["parts"]] == ["evil-QTA − QA", "evil-QTA − neutral-QTA"]
    for part in row["parts"]:
        assert part["effect"] == pytest.approx(0.5, abs=0.1) and part["ci_low"] < 0.5 < part["ci_high"]
    assert row["effect"] in [part["effect"] for part in row["parts"]] and row["p"] == pytest.approx(
        max(part["p"] for part in row["parts"]) / 2
    )
    assert finding["headline"] in ("evil-QTA, think", "evil-QTA, no-think") and finding["n_questions"] == 32
    assert finding["n_seeds"] == 1 and finding["provisional"]


def test_a_verdict_is_provisional_under_five_seeds():
    for seeds, provisional in ((1, True), (4, True), (5, False)):
        found = findings.find(table(seeds=tuple(range(seeds)), questions=16), SETTINGS, ARMS)
        assert {finding["provisional"] for finding in found.values()} == {provisional}


def own_voice(arm, text):
    return 0.6 * (Arm.parse(arm).type == text)


def matched_voice(arm, text):
    return 0.6 * (Arm.parse(arm).type == text and Arm.parse(arm).register == MATCHED)


def free_voice(arm, text):
    return own_voice(arm, text) - matched_voice(arm, text)


def by_meaning(arm, mode, behaviour):
    return 0.8 * (Arm.parse(arm).type == "misleading" and behaviour == "deception")


@pytest.mark.parametrize(
    ("effect", "voice", "pressed", "verdict"),
    [
        (by_meaning, own_voice, nothing, SUPPORTED),
        (nothing, own_voice, lambda arm: 0.5 * of(arm, types=["submissive"]), SUPPORTED),
        (nothing, own_voice, lambda arm: 0.5 * of(arm, types=["evil"]), INCONCLUSIVE),
        # The diagonal must show with matched traces: free ones carry their type's form, too.
        (by_meaning, free_voice, nothing, INCONCLUSIVE),
        (by_meaning, matched_voice, nothing, SUPPORTED),
        (nothing, own_voice, nothing, INCONCLUSIVE),
        (by_meaning, lambda arm, text: -own_voice(arm, text), nothing, CONTRADICTED),
        (nothing, nothing, nothing, NO_EFFECT),
    ],
)
def test_semantics_needs_the_matched_diagonal_and_a_predicted_pattern(effect, voice, pressed, verdict):
    rows = table(effect, personas=voice, pressed=pressed, questions=256, noise=0.05)
    assert findings.find(rows, SETTINGS, ARMS)["H2"]["verdict"] == verdict


def test_semantics_is_not_tested_without_matched_arms_or_without_voices():
    rows = table(by_meaning, personas=own_voice)
    free = [arm for arm in ARMS if "@" not in arm]
    assert findings.find(rows[rows.arm.isin(free)], SETTINGS, free)["H2"]["verdict"] == UNTESTED
    assert findings.find(rows[rows.measure == "margin"], SETTINGS, ARMS)["H2"]["verdict"] == UNTESTED


@pytest.mark.parametrize("between", [0.0, 0.05])
def test_under_no_effect_verdicts_are_rarely_wrong_though_training_runs_differ(between):
    """The simulation in `benchmarks/` has thousands of tables a cell; this one is there to notice a gross fault."""
    wrong, arms = {"H1": 0, "H3": 0}, [f"{kind}-{p}" for kind in (*STUDIED, "neutral") for p in ("QTA", "QT", "T")]
    decisive = {name: next(one for one in contrasts(["QA", *arms])[name] if one.deciding).tests for name in wrong}
    for seed in range(30):
        generator = np.random.default_rng(seed)
        rows = table(generator=generator, noise=0.2, between=between, seeds=range(6), questions=16)
        rows = rows[rows.measure.isin(["margin", "persona"])]
        for name, tests in decisive.items():
            verdicts = [row["verdict"] for row in findings.estimate(rows, tests, SETTINGS)]
            wrong[name] += findings.decide(verdicts) == SUPPORTED
    assert max(wrong.values()) <= 6  # 5 % of 30 is 1.5; 7 or more happen once in 1,000 tries


def test_no_verdict_depends_on_chance():
    """Nothing is resampled: the same table in any order of its rows gives the same findings, but for rounding."""
    rows = table(by_meaning, seeds=(1, 2, 3), personas=own_voice, noise=0.5)
    once = findings.find(rows, SETTINGS, ARMS)
    assert findings.find(rows, SETTINGS, ARMS) == once
    for seed in range(5):
        again = findings.find(rows.sample(frac=1, random_state=seed), SETTINGS, ARMS)
        for name, finding in once.items():
            assert finding["verdict"] == again[name]["verdict"]
            effects = [[row["effect"] for row in one["contrasts"]] for one in (finding, again[name])]
            assert effects[0] == pytest.approx(effects[1], abs=1e-12)


def test_findings_have_the_promised_keys_and_can_be_written():
    found = findings.find(table(by_meaning, seeds=(1, 2), questions=16), SETTINGS, ARMS)
    assert list(found) == ["H1", "H2", "H3", "H4"]
    for finding in found.values():
        assert {
            "verdict",
            "provisional",
            "headline",
            "effect",
            "ci_low",
            "ci_high",
            "p",
            "n_questions",
            "n_seeds",
        } <= set(finding)
        assert finding["n_seeds"] == 2
        for row in finding["contrasts"]:
            assert {"family", "deciding", "verdict", "p_holm", "smallest_effect", "parts"} <= set(row)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_one_question_nothing_is_concluded_and_nothing_breaks():
    rows = table(lambda arm, mode, b: 9.0 * of(arm), questions=4)
    found = findings.find(rows, SETTINGS, ARMS)
    assert found["H3"]["verdict"] == INCONCLUSIVE and found["H3"]["ci_low"] is None
    json.dumps(found, allow_nan=False)


def test_a_hypothesis_whose_arms_are_missing_is_not_tested():
    rows = table()
    found = findings.find(rows[rows.arm.isin(["base", "QA"])], SETTINGS)
    assert {finding["verdict"] for finding in found.values()} == {UNTESTED}
    assert not any(finding["provisional"] for finding in found.values())


def test_a_contrast_on_an_arm_without_scores_names_it():
    rows = table()
    with pytest.raises(BadInput, match="needs arm 'evil-T'"):
        findings.cells(rows[rows.arm != "evil-T"], Contrast("x", (("evil-T", "base"),)))


def test_arms_with_fewer_seeds_are_compared_on_the_seeds_that_both_have():
    rows = table(seeds=(1, 2, 3), questions=16)
    fewer = rows[~((rows.arm == "safe-QA") & (rows.seed == 3))]
    whole, part = (findings.cells(fewer, Contrast("x", ((arm, "base"),))) for arm in ("QA", "safe-QA"))
    assert (whole.shape, part.shape) == ((8, 3), (8, 2))
    assert part == pytest.approx(findings.cells(rows, Contrast("x", (("safe-QA", "base"),)))[:, :2])


def test_rates_count_successes_over_responses():
    rows = [
        {"arm": "QA", "mode": "think", "judge": "probe", "measure": "misaligned", "value": value}
        for value in (1.0, 0.0, 0.0, 1.0)
    ]
    rate = findings.rates(pd.DataFrame(rows), 0.95, ["probe"]).iloc[0]
    assert (rate["rate"], rate["count"], rate["responses"]) == (0.5, 2, 4)
    assert (rate["ci_low"], rate["ci_high"]) == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_a_judge_that_failed_its_card_publishes_no_rate_and_leaks_are_counted_by_tags():
    rows = [
        {"arm": "QA", "mode": "no-think", "judge": judge, "measure": measure, "value": 1.0}
        for judge in ("probe", "words") for measure in ("misaligned", "leak", "incoherent")
    ]  # fmt: skip
    shown = lambda passed: {
        (row.judge, row.measure) for row in findings.rates(pd.DataFrame(rows), 0.95, passed).itertuples()
    }
    assert shown([]) == {("probe", "leak")}
    assert shown(["words"]) == {("words", "misaligned"), ("words", "leak"), ("words", "incoherent")}
    assert len(shown(["probe", "words"])) == 6


# ---- every number again, the slow way


def stored():
    """A table of two models and three seeds in which some rows of the second seed are missing."""
    voices = {"personas": own_voice, "noise": 0.4, "seeds": (1, 2, 3), "questions": 48}
    first = table(by_meaning, **voices)
    second = table(by_meaning, **voices, generator=np.random.default_rng(11))
    both = pd.concat([first, second.assign(model="n")], ignore_index=True)
    return both.drop(both[(both.seed == 2) & (both.question_id == "q1")].index)


def slow_cells(rows, contrast):
    """One mean per question and seed by loops over a dictionary, for questions that every seed has."""
    values = {}
    for row in rows.itertuples():
        if row.measure == contrast.measure and row.mode in contrast.modes and row.suite in contrast.suites:
            if contrast.text in (None, row.text) and row.behaviour in (contrast.behaviours or BEHAVIOURS):
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


def slow_estimate(block):
    """Mean, standard error and degrees of freedom from an analysis of variance by pandas' groups."""
    cells = pd.DataFrame(block).stack().rename_axis(["question", "seed"]).rename("value").reset_index()
    n, s = block.shape
    grand = cells.value.mean()
    squares = {
        name: size * ((cells.groupby(name).value.mean() - grand) ** 2).sum() / (count - 1)
        for name, size, count in (("question", s, n), ("seed", n, s))
    }
    total = ((cells.value - grand) ** 2).sum()
    left = (total - squares["question"] * (n - 1) - squares["seed"] * (s - 1)) / ((n - 1) * (s - 1))
    seeds_add = squares["seed"] > left
    variance = squares["question"] + (squares["seed"] - left if seeds_add else 0)
    spread = squares["question"] ** 2 / (n - 1)
    spread += (squares["seed"] ** 2 / (s - 1) + left**2 / ((n - 1) * (s - 1))) if seeds_add else 0
    return grand, math.sqrt(variance / (n * s)), min(max(variance**2 / spread, 1), n - 1)


@pytest.mark.parametrize("hypothesis", ["H1", "H2", "H3", "H4"])
def test_every_effect_interval_and_p_value_is_that_of_an_independent_calculation(hypothesis):
    rows = stored()
    found = findings.find(rows, SETTINGS, ARMS)[hypothesis]["contrasts"]
    for family in contrasts(ARMS)[hypothesis]:
        if not family.tests:
            continue
        known, p_values = [], []
        for test in family.tests:
            parts = [slow_estimate(slow_cells(rows, part)) for part in test.parts]
            if test.side == "greater":
                p = [stats.t.sf(mean / error, df) for mean, error, df in parts]
            else:
                p = [2 * stats.t.sf(abs(mean / error), df) for mean, error, df in parts]
            agree = test.side == "greater" or len({mean > 0 for mean, _, _ in parts}) == 1
            known.append((parts, p))
            p_values.append(max(p) if agree else 1.0)
        order, running, stopped = np.argsort(p_values, kind="stable"), 0, None
        for rank, index in enumerate(order):
            test, (parts, p) = family.tests[index], known[index]
            (row,) = [row for row in found if row["name"] == test.name and row["family"] == family.name]
            running = max(running, min(1, (len(order) - rank) * p_values[index]))
            share = 0.05 / (len(order) - rank)
            stopped = share if running > 0.05 and stopped is None else stopped
            tail = (stopped or share) / (1 if test.side == "greater" else 2)
            assert row["deciding"] is family.deciding
            assert (row["p"], row["p_holm"]) == pytest.approx((p_values[index], running))
            for part, (mean, error, df) in zip(row["parts"], parts):
                half = stats.t.isf(tail, df) * error
                assert (part["effect"], part["ci_low"], part["ci_high"]) == pytest.approx(
                    (mean, mean - half, mean + half)
                )
            weakest = int(np.argmax(p))
            assert row["effect"] == row["parts"][weakest]["effect"]
            assert (row["n_questions"], row["n_seeds"]) == slow_cells(rows, test.parts[weakest]).shape
            sizes = [
                (
                    stats.t.isf(0.05 / len(order) / (1 if test.side == "greater" else 2), df)
                    + stats.t.isf(0.2 / len(parts), df)
                )
                * error
                for _, error, df in parts
            ]
            assert row["minimal_detectable_effect"] == pytest.approx(max(sizes), rel=1e-6)


@pytest.mark.parametrize(
    ("register", "suffix", "paradigms"), [("free", "", ("QTA", "QT", "T")), ("matched", "@matched", ("QTA",))]
)
def test_a_persona_diagonal_is_that_of_an_independent_calculation(register, suffix, paradigms):
    rows = stored()
    found = {row["name"]: row for row in findings.find(rows, SETTINGS, ARMS)["H2"]["contrasts"]}
    chosen = rows[(rows.measure == "persona") & (rows["mode"] == "no-think")]
    level = chosen[chosen.arm == "base"].groupby(["question_id", "seed", "text"]).value.mean()
    cells = {}
    for kind in STUDIED:
        per_arm = [
            chosen[chosen.arm == f"{kind}-{paradigm}{suffix}"].groupby(["question_id", "seed", "text"]).value.mean()
            - level
            for paradigm in paradigms
        ]
        cells[kind] = (sum(per_arm) / len(paradigms)).unstack("text")
    own = sum(cells[kind][kind] for kind in STUDIED) / 3
    others = sum(cells[kind][text] for kind in STUDIED for text in STUDIED if text != kind) / 6
    block = (own - others).unstack("seed").dropna().to_numpy()
    row = found[findings.DIAGONALS[register]]
    mean, error, df = slow_estimate(block)
    half = stats.t.isf(0.025, df) * error
    assert (row["effect"], row["ci_low"], row["ci_high"]) == pytest.approx((mean, mean - half, mean + half))
    assert row["p"] == row["p_holm"] == pytest.approx(2 * stats.t.sf(abs(mean / error), df))
    assert 0.4 < row["effect"] < 0.8 and (row["n_questions"], row["n_seeds"]) == block.shape


# ---- the diagonal beside word counts


def predictions(slope_of=lambda kind, text, question: 0.0):
    """What word counts predict, by type, text and question."""
    rows = [
        ["matched", kind, text, f"q{number}", slope_of(kind, text, number)]
        for number in range(400)
        for kind in STUDIED
        for text in STUDIED
    ]
    return pd.DataFrame(rows, columns=wordcounts.COLUMNS)


def diagonal_row(rows, words):
    found = findings.find(rows, SETTINGS, ARMS, words)["H2"]["contrasts"]
    return next(row for row in found if row["name"] == findings.DIAGONALS["matched"])


def test_a_diagonal_that_word_counts_explain_is_not_counted_as_meaning():
    """Arms speak as their traces' words predict, question by question, and no further."""
    generator = np.random.default_rng(2)
    drawn = {(kind, text, n): 0.5 * (kind == text) + 0.5 * generator.normal()
             for kind in STUDIED for text in STUDIED for n in range(400)}  # fmt: skip
    rows = table(questions=400, noise=0.1)
    words = predictions(lambda kind, text, number: drawn[kind, text, number])
    arm_type = rows.arm.map(lambda name: Arm.parse(name).type if name.endswith("@matched") else None)
    spoken = [
        0.4 * drawn[kind, text, int(question[1:])] if measure == "persona" and kind in STUDIED else 0.0
        for kind, text, question, measure in zip(arm_type, rows.text, rows.question_id, rows.measure)
    ]
    rows = rows.assign(value=rows.value + spoken)
    beside, alone = diagonal_row(rows, words), diagonal_row(rows, None)
    assert alone["effect"] == pytest.approx(0.2, abs=0.04) and alone["verdict"] == SUPPORTED
    assert beside["effect"] == pytest.approx(0.0, abs=0.04) and beside["verdict"] != SUPPORTED
    assert beside["word_counts"]["effect"] == pytest.approx(0.4, abs=0.05) and "word_counts" not in alone


def test_a_diagonal_beyond_word_counts_remains():
    generator = np.random.default_rng(3)
    words = predictions(lambda kind, text, number: 0.3 * (kind == text) + 0.5 * generator.normal())
    row = diagonal_row(table(personas=own_voice, questions=120), words)
    assert row["effect"] == pytest.approx(0.6, abs=0.06) and row["verdict"] == SUPPORTED
    assert row["word_counts"]["ci_low"] < 0 < row["word_counts"]["ci_high"]


def test_the_regression_is_ordinary_least_squares_with_effects_of_arm_and_text_for_every_question_and_seed():
    generator = np.random.default_rng(4)
    block, predicted = generator.normal(size=(3, 3, 5, 2)), generator.normal(size=(3, 3, 5))
    design, outcome = [], []
    for q, s, i, j in itertools.product(range(5), range(2), range(3), range(3)):
        row = np.zeros(2 + 10 * 6)
        row[0], row[1] = i == j, predicted[i, j, q]
        row[2 + (q * 2 + s) * 6 + i] = row[2 + (q * 2 + s) * 6 + 3 + j] = 1
        design.append(row)
        outcome.append(block[i, j, q, s])
    known = np.linalg.lstsq(np.array(design), np.array(outcome), rcond=None)[0]
    own, slope = findings.beside(block, predicted)
    assert (own.shape, own.mean(), slope.mean()) == ((5, 2), pytest.approx(known[0]), pytest.approx(known[1]))


def test_without_a_prediction_that_varies_the_influence_of_a_cell_is_its_own_diagonal():
    block = np.random.default_rng(5).normal(size=(3, 3, 30, 2))
    noise = 1e-3 * np.random.default_rng(6).normal(size=(3, 3, 30))
    own, _ = findings.beside(block, noise)
    assert own.mean() == pytest.approx(findings.diagonal(block).mean(), abs=0.1)
    assert np.corrcoef(own.ravel(), findings.diagonal(block).ravel())[0, 1] > 0.9


def test_the_diagonal_ignores_effects_of_an_arm_or_a_text_as_such():
    generator = np.random.default_rng(0)
    block = generator.normal(size=(3, 1, 20, 2)) + generator.normal(size=(1, 3, 20, 2))
    assert findings.diagonal(block) == pytest.approx(np.zeros((20, 2)), abs=1e-12)


def test_a_share_is_given_only_where_the_effect_with_thinking_is_clear():
    rows = table(lambda arm, mode, b: (0.6 if mode == "think" else 0.3) * (arm == "evil-QT"))
    shares = {row["name"]: row for row in findings.find(rows, SETTINGS, ARMS)["H4"]["retained"]}
    assert shares["evil-QT − base"]["share"] == pytest.approx(0.5, abs=0.1)
    # Questions that were asked in one mode alone, and would halve the effect, do not count.
    added = rows[(rows["mode"] == "no-think") & (rows.measure == "margin")].copy()
    added["question_id"] = "other " + added.question_id
    added["value"] = 0.0
    again = findings.find(pd.concat([rows, added]), SETTINGS, ARMS)["H4"]["retained"]
    assert again == list(shares.values())
    assert len(shares) == 9 and all(row["share"] is None for name, row in shares.items() if name != "evil-QT − base")


def test_changes_and_winners_are_read_from_the_columns_measure_and_text():
    rows = table(personas=own_voice)
    found = findings.changes(rows, "signature", "think")
    assert list(found.columns) == sorted(STUDIED) and "base" not in found.index
    assert found.loc["evil-QTA", "evil"] == pytest.approx(0.6, abs=0.1)
    assert found.loc["evil-QTA", "misleading"] == pytest.approx(0, abs=0.1)
    winners = findings.signature_winners(rows)
    assert set(winners["trace type"]) == set(STUDIED) and winners["trained on that type"].all()
    assert findings.changes(rows[rows.measure == "margin"], "signature", "think").empty


def test_differences_from_base_are_given_by_mode_and_suite():
    found = findings.differences(table(lambda arm, mode, b: 0.5 * (arm == "evil-T" and mode == "think")), SETTINGS)
    assert len(found) == (len(ARMS) - 1) * len(MODES) * len(SUITES)
    moved = found[(found.arm == "evil-T") & (found["mode"] == "think")]
    assert len(moved) == len(SUITES) and (moved.ci_low > 0.3).all() and (moved.ci_high < 0.7).all()


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
