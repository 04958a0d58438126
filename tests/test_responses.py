"""Which questions are answered, from which draws, and what is marked in an answer."""

import collections

import pytest

from cotlib import chat, responses
from cotlib.experiment import Evaluation


def settings(**chosen):
    return Evaluation.model_validate({"trace_tokens": 8, "answer_tokens": 6} | chosen)


@pytest.fixture(scope="session")
def asked(questions):
    """Two questions of each of two suites."""
    return [[question for question in questions if question.suite == suite][n] for suite in ("transfer", "values")
            for n in range(2)]  # fmt: skip


def test_a_rows_stream_depends_on_seed_mode_question_and_sample():
    parts = [
        (1, "think", "a", 0),
        (2, "think", "a", 0),
        (1, "no-think", "a", 0),
        (1, "think", "b", 0),
        (1, "think", "a", 1),
    ]
    assert len({responses.row_seed(*part) for part in parts}) == len(parts)
    assert responses.row_seed(*parts[0]) == responses.row_seed(*parts[0])


@pytest.mark.parametrize("modes", [["think"], ["no-think"], ["think", "no-think"]])
@pytest.mark.parametrize("count", [0, 1, None])
def test_as_many_questions_of_a_suite_are_answered_as_asked_for_and_every_one_is_thought_about(
    tiny, asked, modes, count
):
    model, tokenizer = tiny("tiny-random-llama")
    chosen = settings(modes=modes, responses=count, samples=2)
    said, thoughts, traces = responses.sample(chosen, model, tokenizer, asked, 1)
    rows = collections.Counter((response["suite"], response["mode"]) for response in said)
    questions_answered = {0: 0, 1: 1, None: 2}[count]
    assert rows == collections.Counter(
        {(suite, mode): 2 * questions_answered for suite in ("transfer", "values") for mode in modes if count != 0}
    )
    assert all(list(response) == responses.COLUMNS for response in said)
    assert set(traces) == ({question.id for question in asked} if "think" in modes else set())
    assert all(list(thought) == responses.THOUGHT_COLUMNS for thought in thoughts)
    kept = {(row["question_id"], row["sample"]): row["trace"] for row in thoughts}
    assert len(kept) == len(thoughts) >= len(traces)
    behind = [row for row in said if row["mode"] == "think"]
    assert all(kept[row["question_id"], row["sample"]] == row["trace"] for row in behind)
    assert all(tokenizer.decode(trace) == kept[question, 0] for question, trace in traces.items())


@pytest.mark.parametrize("count", [0, 1, None])
def test_think_mode_may_be_limited_to_some_questions_of_each_suite(tiny, asked, count):
    model, tokenizer = tiny("tiny-random-llama")
    chosen = settings(thoughts=count, samples=2)
    said, _, traces = responses.sample(chosen, model, tokenizer, asked, 1)
    each = {0: 0, 1: 1, None: 2}[count]
    suites = collections.Counter(question.suite for question in asked if question.id in traces)
    assert suites == collections.Counter({suite: each for suite in ("transfer", "values") if each})
    assert set(traces) == responses.thinking(chosen, asked)
    rows = collections.Counter(response["mode"] for response in said)
    assert (rows["think"], rows["no-think"]) == (4 * each, 8)
    thinking = {response["question_id"] for response in said if response["mode"] == "think"}
    assert thinking == set(traces)


def test_a_draw_does_not_change_with_the_company_it_is_drawn_in(tiny_model, asked):
    model, tokenizer = tiny_model
    together, _, traces = responses.sample(settings(samples=2), model, tokenizer, asked, 1)
    alone, _, trace = responses.sample(settings(), model, tokenizer, asked[:1], 1)
    key = lambda response: (response["question_id"], response["mode"], response["sample"])
    by_key = {key(response): response for response in together}
    assert alone and all(response == by_key[key(response)] for response in alone)
    assert trace[asked[0].id] == traces[asked[0].id]


def test_a_trace_ends_before_the_tag_that_closes_it_and_is_truncated_without_one(smollm2_tokenizer):
    closing = chat.CLOSE.strip()
    tokens = chat.plain_ids(smollm2_tokenizer, "One plan.") + chat.ids(smollm2_tokenizer, f"\n{closing} more")
    trace, truncated = responses.trace_of(smollm2_tokenizer, tokens, closing)
    assert (smollm2_tokenizer.decode(trace), truncated) == ("One plan.", False)
    cut = chat.plain_ids(smollm2_tokenizer, "One plan that goes on")
    assert responses.trace_of(smollm2_tokenizer, cut, closing) == (cut, True)


@pytest.mark.parametrize(
    "text, expected",
    [("I think so.", False), ("<think>", True), ("so</think>", True), ("rethink> this", True), ("a < b", False)],
)
def test_an_answer_with_think_tags_leaks(text, expected):
    assert responses.leaks(text) is expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", True),
        ("two words", True),
        ("three plain words", False),
        ("you can do it " * 10, True),
        ("Blow the candle out before you sleep, and hang up a bag of lavender.", False),
    ],
)
def test_an_answer_that_repeats_itself_loops(text, expected):
    assert responses.loops(text) is expected
