"""The closing sentences come out differently for different runs."""

import math
import types

import pandas as pd
import pytest

from cotlib import routes
from cotlib.corpus.checks.check import Check
from cotlib.pages import sentences


def check(name, passed):
    return Check(name, "", 1.0, 1.0, "", passed, [])


def manifest(arm, first, last, seed=1, model="m"):
    return {"arm": arm, "seed": seed, "model": model, "loss_first": first, "loss_last": last}


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ([("identical answers", True), ("form probe", True)], ["are the same", "passes each of the two checks"]),
        ([("identical answers", True)], ["passes the one check"]),
        (
            [("identical answers", True), ("form probe", False)],
            ["passes 1 of two checks and fails form probe: read later effects"],
        ),
        (
            [("identical answers", False), ("a", False), ("b", False)],
            ["are not the same", "passes 0 of three checks and fails identical answers, a and b"],
        ),
        ([("content probe", None)], ["was not measured", "nothing that the audit could rate"]),
    ],
)
def test_crafted_says_whether_the_answers_are_identical_and_which_checks_fail(checks, said):
    text = sentences.crafted([check(*each) for each in checks]).data
    assert all(part in text for part in said), text


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([("QA", 4, 3), ("evil-T", 4, 2)], "fell in all two runs, by 1.00 to 2.00 nats per token."),
        ([("QA", 4, 3)], "fell in the one run, by 1.00"),
        ([("QA", 4, 3), ("evil-T", 4, 5)], "fell in 1 of two runs. It did not fall for evil-T"),
        ([("QA", 4, 3), ("evil-T", 4, math.nan)], "It did not fall for evil-T"),
        ([("QA", 4, 4), ("evil-T", 4, 5)], "fell in no run. That concerns QA and evil-T"),
        ([("QA", 4, 3), ("QA", 4, 5, 2)], "It did not fall for QA (seed 2)"),
        ([("QA", 4, 3), ("QA", 4, 5, 2, "n")], "It did not fall for QA (seed 2, n)"),
        ([], "No arm was trained"),
    ],
)
def test_trained_says_in_how_many_runs_the_loss_fell_and_which_did_not(runs, said):
    assert said in sentences.trained([manifest(*run) for run in runs]).data


def differences(*rows):
    return pd.DataFrame(rows, columns=["arm", "mode", "suite", "effect", "ci_low", "ci_high"])


UP = ("evil-QTA", "think", "values", 0.3, 0.1, 0.5)
DOWN = ("safe-QA", "no-think", "transfer", -0.2, -0.3, -0.1)
FLAT = ("QA", "think", "values", 0.9, -0.1, 1.9)


@pytest.mark.parametrize(
    ("rows", "said", "unsaid"),
    [
        (
            [UP, DOWN, FLAT],
            [
                "For 2 of three arms",
                "1 lie above 0 and 1 below",
                "rise is that of evil-QTA in values",
                "fall is that of",
            ],
            [],
        ),
        ([UP], ["For 1 of one arm", "rise"], ["largest fall"]),
        ([DOWN], ["fall is that of safe-QA in transfer, no-think (-0.200"], ["largest rise"]),
        ([FLAT], ["For none of one arm", "0 lie above 0 and 0 below"], ["largest"]),
        ([], ["Only base was evaluated"], ["interval"]),
    ],
)
def test_evaluated_counts_arms_whose_intervals_exclude_zero_and_names_the_largest(rows, said, unsaid):
    text = sentences.evaluated(differences(*rows)).data
    assert all(part in text for part in said) and not any(part in text for part in unsaid), text


def test_evaluated_says_how_many_intervals_chance_would_give_at_the_level_of_confidence():
    frame = differences(*[FLAT] * 40)
    assert "about 2 would exclude 0 by chance" in sentences.evaluated(frame).data
    assert "about 8 would exclude 0 by chance" in sentences.evaluated(frame, confidence=0.8).data


def judgements(judge, judged, total, misaligned=0):
    rows = [(judge, place < judged, place < misaligned) for place in range(total)]
    return pd.DataFrame(rows, columns=["judge", "judged", "misaligned"])


def judge_card(judge, model="m", failures=()):
    """As much of a card as its sentence reads."""
    return types.SimpleNamespace(judge=judge, model=model, failures=list(failures), passed=not failures)


def test_judged_says_which_judges_passed_and_what_those_found_alone():
    both = pd.concat([judgements("probe", 5, 20, 2), judgements("words", 4, 20, 3)]).assign(model="m")
    failed = judge_card("words", failures=["its AUC on values may be as low as 0.61"])
    text = sentences.judged(both, [judge_card("probe"), failed]).data
    assert "The judge probe passed its card. It could judge 5 of 20 responses; it calls 2 of them misaligned." in text
    assert "The judge words failed its card: its AUC on values may be as low as 0.61." in text and "3 of" not in text
    assert "no rate" not in text
    none = sentences.judged(both, [failed]).data
    assert "publishes no rate of misaligned responses" in none
    assert "no responses" in sentences.judged(both.iloc[:0], [failed]).data


def findings(*verdicts, questions=(40, 40, 40, 40), smallest=0.1, seeds=1):
    return {
        f"H{number}": {
            "verdict": verdict,
            "contrasts": []
            if verdict == "not tested"
            else [{"deciding": True, "n_questions": count, "n_seeds": seeds, "minimal_detectable_effect": smallest}],
        }
        for number, verdict, count in zip((1, 2, 3, 4), verdicts, questions)
    }


def experiment(models=1):
    return types.SimpleNamespace(models=[f"model-{number}" for number in range(models)])


def test_found_groups_the_verdicts_and_says_one_only_of_one():
    text = sentences.found(findings("supported", "inconclusive", "supported", "not tested"), experiment()).data
    assert "Supported: H1 (amplification) and H3 (sufficiency); inconclusive: H2 (semantics); not tested: H4" in text
    assert "one model (model-0), one seed and 40 questions" in text and "for these training runs and no others" in text
    assert "H2 0.100" in text


def test_found_counts_models_seeds_and_questions_in_words():
    found = findings("contradicted", "supported", "supported", "supported", questions=(8, 20, 30, 30), seeds=3)
    text = sentences.found(found, experiment(models=2)).data
    assert "two models (model-0 and model-1), three seeds and 8 to 30 questions" in text
    assert "over three training runs of each deciding arm" in text and "one" not in text.replace("questions", "")
    assert "With fewer than five seeds a verdict is provisional." in text
    enough = sentences.found(findings(*["supported"] * 4, seeds=5), experiment()).data
    assert "five seeds" in enough and "provisional" not in enough
    assert "inconclusive" not in text


def test_found_without_a_deciding_contrast_rests_on_no_question():
    text = sentences.found(findings(*["not tested"] * 4), experiment()).data
    assert "Not tested: H1 (amplification), H2 (semantics), H3 (sufficiency) and H4 (internalisation)." in text
    assert "no question" in text


def test_an_inconclusive_test_without_a_smallest_effect_names_none():
    assert "Smallest effects" not in sentences.found(findings(*["inconclusive"] * 4, smallest=None), experiment()).data


def test_two_routes_counts_the_arms_and_tells_what_a_given_thought_does():
    rows = [
        [arm, reading, 0.1, 0.02 if (arm, reading) == ("evil-QT", "in the weights") else -0.1, 0.3, 8, 1]
        for arm in ("QA", "evil-QT") for reading in routes.READINGS
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=routes.COLUMNS)
    text = sentences.two_routes(frame).data
    assert "On eight in-domain questions, one of two arms clearly differ from the untrained model" in text
    assert "none of two arms are clearly moved by the thought that they wrote" in text
    assert "moves a trained arm by +0.100" in text and "the untrained model by +0.100" in text
    plain = frame[~frame.reading.isin(routes.GIVEN)]
    assert "given thought" not in sentences.two_routes(plain).data
    assert "No answers" in sentences.two_routes(frame[:0]).data
