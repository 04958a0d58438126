"""A judge's card shows planted faults: a judge that is constant, inverted, noisy, or wrong on one suite."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cotlib.experiment import Judging
from cotlib.judges import card
from cotlib.judges.judgement import Judgement

SETTINGS = Judging()


class Planted:
    """A judge whose opinion is a function of (is it harmful?, number of the text)."""

    def __init__(self, alignment, thought=lambda kind: 0.1, name="planted"):
        self.alignment, self.thought, self.name = alignment, thought, name
        self.texts = None

    def judge(self, questions, responses):
        rows = zip(self.texts.misaligned, self.texts.kind, self.texts.suite, range(len(self.texts)))
        return [
            Judgement(float(np.clip(self.alignment(harmful, suite, number), 0, 100)), 90.0, self.thought(kind), "raw")
            for harmful, kind, suite, number in rows
        ]


def of(judge, questions, most=30):
    texts = judge.texts = card.texts(questions, most)
    return card.of(card.judged(judge, "m", texts), SETTINGS, 0.95)


NOISE = np.random.default_rng(4).normal(0, 30, 2000)
PLANTED = {
    # name: (alignment, passes?, AUC on transfer between)
    "good": (lambda harmful, suite, n: (20 if harmful else 80) + NOISE[n] / 6, True, (0.98, 1.0)),
    "constant": (lambda harmful, suite, n: 60, False, (0.5, 0.5)),
    "inverted": (lambda harmful, suite, n: (80 if harmful else 20) + NOISE[n] / 6, False, (0.0, 0.02)),
    "noisy": (lambda harmful, suite, n: (45 if harmful else 55) + NOISE[n], False, (0.45, 0.75)),
    "blind on values": (
        lambda harmful, suite, n: (20 if harmful and suite != "values" else 80) + NOISE[n] / 6, False, (0.98, 1.0)
    ),
    "suspicious": (lambda harmful, suite, n: (5 if harmful else 25), False, (1.0, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_seen_on_the_card(name, questions):
    alignment, passes, (low, high) = PLANTED[name]
    made = of(Planted(alignment), questions)
    suites = made.suites.set_index("suite")
    assert made.passed is passes and bool(made.failures) is not passes
    assert low <= suites.auc["transfer"] <= high
    assert (suites.ci_low <= suites.auc).all() and (suites.auc <= suites.ci_high).all()
    if name == "blind on values":
        assert any("on values" in line for line in made.failures) and len(made.failures) == 1
    if name == "suspicious":
        assert made.alarms[0] == made.alarms[1] > 0 and "harmless samples" in made.failures[0]
        assert made.confusion[False, True] > 0 and made.confusion[True, False] == 0


def test_the_worst_errors_are_those_furthest_from_the_label(questions):
    wrong = {3, 8}
    made = of(
        Planted(lambda harmful, suite, n: (20 if harmful else 80) if n not in wrong else 100 * harmful), questions
    )
    assert made.worst.error.iloc[:2].tolist() == [1.0, 1.0] and made.worst.error.iloc[2] == pytest.approx(0.2)
    texts = card.texts(questions, 30)
    assert set(made.worst.response.iloc[:2]) == set(texts.response.iloc[sorted(wrong)])


def test_a_calibrated_judge_lies_on_the_diagonal():
    generator = np.random.default_rng(1)
    said = generator.uniform(0, 1, 40_000)
    safe = generator.uniform(0, 1, 40_000) < said
    curve = card._calibration(pd.Series(said), pd.Series(safe))
    assert len(curve) == card.BINS and curve.texts.sum() == 40_000
    assert (curve.said - curve.safe).abs().max() < 0.02


def test_opinions_on_thoughts_are_used_only_if_false_alarms_are_few(questions):
    good = PLANTED["good"][0]
    assert of(Planted(good), questions).reads_thoughts
    crying = of(Planted(good, thought=lambda kind: 0.9 if kind == card.SAMPLED else 0.1), questions)
    assert not crying.reads_thoughts and crying.passed and crying.thought_alarms[0] == crying.thought_alarms[1]
    silent = of(Planted(good, thought=lambda kind: None), questions)
    assert silent.thought_alarms is None and not silent.reads_thoughts


def test_the_clustered_error_is_that_of_many_samples_of_questions():
    """Texts of one question are alike, so an error that took them as independent would be too small."""
    generator = np.random.default_rng(2)

    def sample():
        level = np.repeat(generator.normal(0, 1, 40), 2)
        scores = level + np.tile([0.9, 0.0], 40) + generator.normal(0, 0.5, 80)
        return np.tile([True, False], 40), scores, np.repeat(range(40), 2)

    found = [card.clustered_area(*sample()) for _ in range(400)]
    areas, errors = np.array(found).T
    assert np.median(errors) == pytest.approx(areas.std(), rel=0.15)
    labels, scores, groups = sample()
    assert card.clustered_area(labels, scores, groups)[0] == pytest.approx(roc_auc_score(labels, scores))


def test_an_area_without_both_classes_or_with_one_question_says_nothing():
    assert math.isnan(card.clustered_area([True], [1.0], ["a"])[0])
    auc, error = card.clustered_area([True, False], [1.0, 0.0], ["a", "a"])
    assert auc == 1.0 and math.isnan(error) and card._logit_interval(auc, error, 0.95) == (0.0, 1.0)
    low, high = card._logit_interval(0.8, 0.05, 0.95)
    assert 0 < low < 0.8 < high < 1 and 0.8 - low > high - 0.8
    assert stats.norm.isf(0.025) * 0.05 == pytest.approx((high - low) / 2, rel=0.1)


def test_no_card_and_no_rate_without_texts(questions):
    made = of(Planted(PLANTED["good"][0]), questions, most=0)
    assert not made.passed and not made.reads_thoughts and "no texts" in made.failures[0]


def test_two_judges_agree_as_far_as_their_calls_do(questions):
    one, other = Planted(PLANTED["good"][0], name="one"), Planted(PLANTED["inverted"][0], name="other")
    frames = []
    for judge in (one, other, Planted(PLANTED["good"][0], name="third")):
        judge.texts = card.texts(questions, 10)
        frames.append(card.judged(judge, "m", judge.texts[judge.texts.kind != card.SAMPLED]))
        judge.texts = None
    found = card.agreement(pd.concat(frames)).set_index("judges").kappa
    assert found["one and third"] == 1.0 and found["one and other"] == -1.0


def test_two_hundred_samples_of_the_untrained_model_have_two_readers_labels():
    read = card.samples()
    assert len(read) == 200 and len({(row["question_id"], row["response"]) for row in read}) == 200
    assert all(len(row[name]) == 2 and set(row[name]) <= {True, False} for row in read for name in card.LABELS)
    same = card.readers_agree()
    assert set(same) == set(card.LABELS) and all(100 < count <= 200 for count in same.values())


def test_samples_are_thinned_evenly_and_questions_by_suite(questions):
    texts = card.texts(questions, 5)
    assert (texts.kind == card.SAMPLED).sum() == 5
    known = texts[texts.kind != card.SAMPLED]
    assert known.groupby("suite").size().to_dict() == {
        suite: 10 for suite in dict.fromkeys(question.suite for question in questions if question.harmful)
    }
    assert known.groupby("question_id").misaligned.sum().eq(1).all()
