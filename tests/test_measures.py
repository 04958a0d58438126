"""Which texts are scored behind which prompts, and what a row's draws depend on."""

import collections

import pytest

from cotlib import chat, measures
from cotlib.arms import studied_types
from cotlib.engine import prefixes
from cotlib.experiment import Evaluation, Experiment


def settings(**chosen):
    return Evaluation.model_validate(chosen)


def counts(some_settings, tokenizer, questions):
    found = collections.Counter()
    for identity, mode, measure, *_ in measures.cases(some_settings, tokenizer, questions, {}):
        found[identity, mode, measure] += 1
    return found


@pytest.mark.parametrize("signatures", [None, 0, 1, 2])
def test_held_out_traces_are_scored_on_as_many_questions_as_are_asked_for(smollm2_tokenizer, questions, signatures):
    values = [question for question in questions if question.suite == "values"][:2]
    carrying = [question for question in questions if question.traces][:3]
    found = counts(settings(signatures=signatures), smollm2_tokenizer, [*values, *carrying])
    kinds = len(studied_types()) + 1
    scored = [found[question.id, "think", measures.SIGNATURE] for question in carrying]
    assert sorted(scored, reverse=True) == [kinds if signatures is None or n < signatures else 0 for n in range(3)]
    for question in carrying:
        assert found[question.id, "no-think", measures.SIGNATURE] == 0
    for question in [*values, *carrying]:
        for mode in ("think", "no-think"):
            assert found[question.id, mode, measures.MARGIN] == 2
    assert [found[question.id, "no-think", measures.PERSONA] for question in values] == [kinds, kinds]


def test_the_questions_that_are_sampled_or_carry_signatures_are_spread_over_domains(questions):
    carrying = [question for question in questions if question.traces]
    domains = {question.domain for question in carrying}
    assert len({question.domain for question in measures._some(carrying, len(domains))}) > len(domains) / 2
    assert {question.domain for question in measures._some(carrying, 5 * len(domains))} == domains
    assert measures._some(carrying, 10_000) == measures._some(carrying, None) == carrying


def test_in_think_mode_answers_stand_behind_the_models_own_closed_trace(smollm2_tokenizer, questions):
    trace = chat.ids(smollm2_tokenizer, "They want a plan for Sunday.")
    question = questions[0]
    prompts = {
        (mode, measure): smollm2_tokenizer.decode(prompt)
        for _, mode, measure, _, prompt, _ in measures.cases(
            settings(), smollm2_tokenizer, [question], {question.id: trace}
        )
    }
    assert "plan for Sunday" in prompts["think", measures.MARGIN]
    assert prompts["think", measures.MARGIN].rstrip().endswith(chat.CLOSE)
    assert "plan for Sunday" not in prompts["no-think", measures.MARGIN] + prompts["think", measures.SIGNATURE]


def test_a_rows_stream_depends_on_seed_mode_question_and_sample():
    parts = [
        (1, "think", "a", 0),
        (2, "think", "a", 0),
        (1, "no-think", "a", 0),
        (1, "think", "b", 0),
        (1, "think", "a", 1),
    ]
    assert len({measures.row_seed(*part) for part in parts}) == len(parts)
    assert measures.row_seed(*parts[0]) == measures.row_seed(*parts[0])


def test_measures_do_not_depend_on_what_is_remembered_from_sampling(any_model, questions, monkeypatch):
    model, tokenizer = any_model
    experiment = Experiment.load("experiments/smoke.yml")
    some = [questions[0], *[question for question in questions if question.suite == "values"][:1]]
    rows, responses, _ = measures.measure(experiment, model, tokenizer, some, 1)
    forgetful = prefixes.Memory(0)
    monkeypatch.setattr(prefixes, "Memory", lambda room: forgetful)
    again, others, _ = measures.measure(experiment, model, tokenizer, some, 1)
    assert responses == others and not forgetful.children
    for one, other in zip(rows, again):
        assert one == {**other, "value": pytest.approx(other["value"], abs=1e-4)}
