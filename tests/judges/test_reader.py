"""Whose thought it is: learned from the corpus' traces, tried on traces of questions that the reader has not seen."""

import numpy as np
import pytest

from cotlib import scores
from cotlib.arms import written_types
from cotlib.experiment import Judging
from cotlib.judges.judgement import VALIDATION, Context
from cotlib.judges.reader import ThoughtReader


def reader(model, items, questions):
    return ThoughtReader(Context(model, items, questions, Judging()))


def thought(question, trace):
    return {
        "suite": question.suite, "behaviour": question.behaviour, "question_id": question.id, "sample": 0,
        "trace": trace, "trace_truncated": False, "trace_tokens": 9,
    }  # fmt: skip


@pytest.mark.slow
def test_held_out_traces_are_told_apart_by_the_real_model(items, questions):
    some = [question for question in questions if question.traces][:20]
    expert = reader("smollm2-135m-instruct", items[:60], some)
    validation = expert.validation
    assert list(validation.columns) == VALIDATION and len(validation) == len(written_types())
    assert validation.auc.min() > 0.75 and set(validation.texts) == {len(some) * len(written_types())}
    kinds = expert.kinds
    rows = expert.rows([thought(question, question.traces[kind]) for question in some for kind in kinds], some)
    chances = rows.value.to_numpy().reshape(len(some), len(kinds), len(kinds))
    assert np.allclose(chances.sum(-1), 1)
    assert (chances.argmax(-1) == np.arange(len(kinds))).mean() > 0.5  # chance: a quarter
    assert set(rows.measure) == {scores.THOUGHT} and set(rows.text) == set(kinds)


def test_an_empty_thought_and_no_thought_at_all_are_read(items, questions):
    expert = reader("tiny-random-llama", items[:6], questions[:2])
    assert expert.able and expert.rows([], questions).empty
    rows = expert.rows([thought(questions[0], "")], questions)
    assert len(rows) == len(expert.kinds) and rows.value.sum() == pytest.approx(1)


def test_without_traces_of_two_types_there_is_nothing_to_tell_apart(items, questions):
    bare = [item.model_copy(update={"traces": {}}) for item in items[:4]]
    single = [item.model_copy(update={"traces": {"evil": item.traces["evil"]}}) for item in items[:4]]
    assert not reader("tiny-random-llama", bare, questions).able
    assert not reader("tiny-random-llama", single, questions).able
