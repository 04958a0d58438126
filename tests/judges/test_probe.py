"""The probe on real models."""

import math

import pytest

from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import Judging
from cotlib.judges import learned, probe
from cotlib.judges.judgement import VALIDATION, Context, Judgement

TINY = "tiny-random-llama"


def judge_on(items, questions, model=TINY, **settings):
    return probe.ProbeJudge(Context(model, items, questions, Judging(**settings)))


def without_traces(records):
    return [record.model_copy(update={"traces": {}}) for record in records]


@pytest.mark.slow
def test_the_probe_tells_smollm2_safe_from_harmful_and_broken_from_real(items, questions):
    judge = judge_on(items[::5], questions[::12], models.SMOLLM2)
    auc = judge.validation.set_index(["measure", "data"]).auc
    assert auc["alignment", "training items, cross-validated"] > 0.7
    assert auc["coherence", "training items, cross-validated"] > 0.7
    assert auc["thought_probability", "training items, cross-validated"] > 0.9
    texts = [
        "Hold it under cool running water for ten minutes, then cover it loosely.",
        "water water the the burn of of burn water water the the of",
    ]
    good, broken = judge.judge(["How do I treat a small burn on my hand?"] * 2, texts)
    assert good.coherence > broken.coherence


def test_a_judgement_holds_two_scores_from_0_to_100_and_a_probability(items, questions):
    judge = judge_on(items[:8], questions[:4])
    judgements = judge.judge([item.question for item in items[:5]], [item.safe for item in items[:5]])
    assert len(judgements) == 5 and all(isinstance(judgement, Judgement) for judgement in judgements)
    for judgement in judgements:
        assert 0 <= judgement.alignment <= 100 and 0 <= judgement.coherence <= 100
        assert 0 <= judgement.thought_probability <= 1
        assert "thought_probability" in judgement.raw and not judgement.note


def test_nothing_is_loaded_before_a_judgement_or_the_validation_is_asked_for(items):
    judge = judge_on(items[:8], [], "there-is-no-such-model")
    assert judge.judge([], []) == []
    with pytest.raises(BadInput, match="there-is-no-such-model"):
        judge.judge(["q"], ["r"])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_items_for_cross_validation_are_refused_before_any_work(items, count):
    with pytest.raises(BadInput, match=f"judging.probe_items: 1 .*write {learned.FEWEST_ITEMS} or more"):
        judge_on(items[:count], [], probe_items=1)


def test_a_corpus_of_one_item_is_refused_with_another_remedy(items):
    with pytest.raises(BadInput, match="data.corpus holds 1 item.* add items, or write judges:"):
        judge_on(items[:1], [])


def test_items_without_traces_are_refused_since_the_probe_learns_from_them(items):
    with pytest.raises(BadInput, match="1 of the 5 items .* have one; add traces to at least 2"):
        judge_on([*items[:1], *without_traces(items[1:5])], [])


@pytest.mark.parametrize("with_traces", [2, 5])
def test_the_fewest_items_are_enough_for_every_probe(items, questions, with_traces):
    some = items[: learned.FEWEST_ITEMS] + without_traces(items[5 : 5 + with_traces - 2])
    validation = judge_on(some, questions[:3]).validation
    trained = validation[validation.data == "training items, cross-validated"]
    assert trained.measure.tolist() == list(learned.MEASURES) and not trained.auc.isna().any()


def test_a_suite_with_texts_of_one_class_has_no_auc_and_says_so(items, questions):
    some = without_traces([question for question in questions if question.suite == "transfer"][:3])
    auc = judge_on(items[:6], some).validation.set_index(["measure", "data"]).auc
    assert math.isnan(auc["thought_probability", "held out: transfer"])
    assert 0 <= auc["alignment", "held out: transfer"] <= 1
    assert not any("values" in data for _, data in auc.index)


def test_without_evaluation_questions_only_the_training_items_validate(items):
    validation = judge_on(items[:6], []).validation
    assert list(validation.columns) == VALIDATION and len(validation) == 3


def test_constant_features_leave_the_auc_at_chance(items):
    import numpy as np

    inputs, labels = np.ones((12, 4), dtype=np.float32), np.array([True, False] * 6)
    fitted, auc = learned.fit(probe.regression(), inputs, labels, np.repeat(range(6), 2))
    assert auc == 0.5 and learned.area(labels, learned.probability(fitted, inputs)) == 0.5
