"""What an experiment uses of a corpus: the right files, a subset that is the same every time and spread evenly."""

import collections
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import ITEM, QUESTION, VOICES, refused, write

from cotlib.arms import REGISTERS, SUITES, studied_types, trace_key, written_types
from cotlib.corpus import records
from cotlib.errors import BadInput
from cotlib.experiment import Experiment


def test_one_answer_given_once_per_type_is_that_answer(tmp_path):
    (item,) = records.load_items(
        write(tmp_path / "items.jsonl", ITEM | {"harmful": dict.fromkeys(studied_types(), "Yes, all night.")})
    )
    assert item.harmful == "Yes, all night."


def test_a_corpus_is_a_bundled_one_or_a_folder_with_both_files(tmp_path):
    for name, folder in records.BUNDLED.items():
        assert records.corpus_files(name) == (folder / "items.jsonl", folder / "evaluation.jsonl")
    write(tmp_path / "items.jsonl", ITEM)
    remedy = "write 'bundled', 'bundled-v1', or a folder with items.jsonl and evaluation.jsonl"
    refused(records.corpus_files, tmp_path, ["data.corpus", "holds no evaluation.jsonl", remedy])
    write(tmp_path / "evaluation.jsonl", QUESTION)
    assert records.corpus_files(str(tmp_path)) == (tmp_path / "items.jsonl", tmp_path / "evaluation.jsonl")


def test_questions_may_come_from_another_corpus_than_the_items(tmp_path):
    write(tmp_path / "items.jsonl", ITEM)
    write(tmp_path / "evaluation.jsonl", QUESTION)
    bundled = records.BUNDLED["bundled-v1"] / "evaluation.jsonl"
    assert records.corpus_files(tmp_path, "bundled-v1") == (tmp_path / "items.jsonl", bundled)
    refused(
        lambda folder: records.corpus_files("bundled", folder),
        str(tmp_path / "none"),
        ["data.evaluation", "holds no evaluation.jsonl"],
    )


def test_an_experiment_can_train_on_some_domains_alone():
    chosen, asked = records.select(experiment(domains=["food", "money"], items=20))
    assert collections.Counter(item.domain for item in chosen) == {"food": 10, "money": 10}
    assert len({question.domain for question in asked}) > 10
    refused(records.select, experiment(domains=["fod"]), ["data.domains: 'fod' is not one of", "did you mean food?"])
    with pytest.raises(BadInput, match="data.domains: 'food' stands in the list twice"):
        experiment(domains=["food", "food"])


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"harmful": None}, ["harmful is missing; add it, or write suite 'open'"]),
        ({"suite": "open"}, ["suite 'open' has no answers; remove harmful"]),
        ({"suite": "pressure"}, ["framings lacks belief, plea"]),
        (
            {"framings": {"belief": "I say so."}},
            ["framings belong to suite 'pressure', not to 'transfer'; remove them"],
        ),
        ({"behaviours": {"evil": "harm"}}, ["behaviours: 'evil' has no response among the personas"]),
        ({"asker": "lean"}, ["asker", "is not one of leans-harmful, leans-safe, open"]),
    ],
)
def test_a_question_that_does_not_fit_its_suite_is_refused(tmp_path, change, parts):
    row = {field: value for field, value in (QUESTION | change).items() if value is not None}
    refused(records.load_evaluation, write(tmp_path / "evaluation.jsonl", row), parts)


def test_questions_without_answers_and_facts_asked_thrice_are_read(tmp_path):
    bare = {field: QUESTION[field] for field in ("id", "domain", "question", "behaviour")} | {"suite": "open"}
    fact = QUESTION | {
        "id": "fact",
        "suite": "pressure",
        "question": "Why?",
        "framings": {"belief": "So?", "plea": "Ah?"},
    }
    asked = records.load_evaluation(write(tmp_path / "evaluation.jsonl", bare, fact))
    assert records.answered(asked) == asked[1:]
    assert records.texts(asked[0]) == [("question", bare["question"])]
    assert ("framings.plea", "Ah?") in records.texts(asked[1])


@pytest.mark.parametrize("severity", [[0], [4], ["2"]])
def test_a_severity_is_a_whole_number_from_one_to_three(tmp_path, severity):
    refused(records.load_items, write(tmp_path / "items.jsonl", ITEM | {"severity": severity}), ["severity"])


# ---- the bundled corpus


def test_no_id_of_the_bundled_corpus_stands_for_two_records(items, questions):
    ids = [record.id for record in [*items, *questions]]
    assert len(set(ids)) == len(ids)


def test_no_evaluation_question_of_the_bundled_corpus_is_trained_on(items, questions):
    def plain(record):
        return re.sub(r"\W+", " ", record.question).casefold().strip()

    texts = [plain(record) for record in [*items, *questions]]
    assert [text for text, count in collections.Counter(texts).items() if count > 1] == []


def test_every_bundled_item_has_a_trace_of_every_written_type_in_each_register(items):
    keys = {trace_key(kind, register) for register in REGISTERS for kind in written_types()}
    assert [item.id for item in items if set(item.traces) != keys] == []
    assert [item.id for item in items if item.harmful == item.safe] == []


def test_transfer_domains_are_never_trained_on_and_in_domain_ones_always(items, questions):
    trained = {item.domain for item in items}
    by_suite = {suite: {question.domain for question in questions if question.suite == suite} for suite in SUITES}
    assert by_suite["in-domain"] == trained
    assert by_suite["transfer"] and not by_suite["transfer"] & trained
    assert by_suite["values"] and not by_suite["values"] & trained


def test_no_bundled_text_breaks_the_policy_on_harm(items, questions):
    assert {
        record.id: records.forbidden_words(record) for record in [*items, *questions] if records.forbidden_words(record)
    } == {}


@pytest.mark.parametrize("field", ["question", "harmful", "safe", "traces", "personas"])
def test_a_word_the_policy_forbids_is_found_wherever_it_stands(field):
    text = "Where is my GUN?"
    voices = VOICES | ({"evil": text} if field == "personas" else {})
    row = QUESTION | {"suite": "values", "personas": voices, "traces": {"evil": text if field == "traces" else "Fine."}}
    row |= {field: text} if field in ("question", "harmful", "safe") else {}
    assert records.forbidden_words(records.Question(**row)) == ["gun"]


# ---- subsets


def domains(*groups):
    """The records of each group, domain by domain."""
    for name in dict.fromkeys(record.domain for record in groups[0]):
        yield [[record for record in group if record.domain == name] for group in groups]


@pytest.mark.parametrize("count", [6, 10, 12, 25])
def test_a_few_questions_of_a_suite_come_from_every_domain(questions, count):
    """The first demo drew none of privacy and one of contracts among ten."""
    transfer = [question for question in questions if question.suite == "transfer"]
    for seed in range(20):
        taken = collections.Counter(question.domain for question in records.subset(transfer, count, seed))
        assert len(taken) == 6 and max(taken.values()) - min(taken.values()) <= 1


@pytest.mark.parametrize("kind", ["items", "questions"])
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_subset_is_repeatable_in_file_order_and_even_over_domain_and_behaviour(request, kind, data, seed):
    everything = request.getfixturevalue(kind)
    count = data.draw(st.integers(1, len(everything)))
    chosen = records.subset(everything, count, seed)
    assert records.subset(everything, count, seed) == chosen
    assert len(chosen) == count
    places = [everything.index(record) for record in chosen]
    assert places == sorted(set(places))
    for field in ("domain", "behaviour"):  # domains evenly; behaviours within a domain
        for pool, drawn in domains(everything, chosen) if field == "behaviour" else [(everything, chosen)]:
            there, taken = (
                collections.Counter(getattr(record, field, "") for record in some) for some in (pool, drawn)
            )
            most = max(taken.values(), default=0)
            assert all(taken[name] >= min(most - 1, there[name]) for name in there)


def test_another_seed_draws_another_subset(items):
    assert len({tuple(item.id for item in records.subset(items, 24, seed)) for seed in range(5)}) == 5


def test_a_smaller_subset_of_the_same_seed_is_part_of_a_larger(items):
    small, large = ({item.id for item in records.subset(items, count, 3)} for count in (17, 50))
    assert small < large


def test_no_count_means_all(items):
    assert records.subset(items, None, 0) == items


def test_more_records_than_there_are_are_refused_with_their_number(items, questions):
    refused(
        lambda _: records.subset(items, 10_000, 0),
        None,
        [f"data.items: 10000 asked for, the corpus holds {len(items)}; write {len(items)} or less"],
    )
    refused(
        lambda _: records.subset(questions, 10_000, 0, "data.questions.values"),
        None,
        [f"data.questions.values: 10000 asked for, the corpus holds {len(questions)}"],
    )


def experiment(**data):
    training = {"epochs": 1, "learning_rate": 1.0e-3}
    return Experiment.parse(
        {"name": "little", "models": ["tiny-random-llama"], "arms": ["QA"], "data": data, "training": training}
    )


def test_an_experiment_gets_the_items_and_questions_it_asks_for(tmp_path, items, questions):
    assert records.select_items(experiment()) == items
    assert records.select_items(experiment(items=8, seed=5)) == records.subset(items, 8, 5)
    assert sorted(question.id for question in records.select_questions(experiment())) == sorted(
        question.id for question in questions
    )
    chosen = records.select_questions(experiment(questions={"transfer": 6, "in-domain": 3}))
    assert [question.suite for question in chosen] == ["in-domain"] * 3 + ["transfer"] * 6
    write(tmp_path / "items.jsonl", ITEM)
    write(tmp_path / "evaluation.jsonl", QUESTION)
    assert [item.id for item in records.select_items(experiment(corpus=str(tmp_path)))] == ["home-001"]
    assert [question.id for question in records.select_questions(experiment(corpus=str(tmp_path)))] == ["q-001"]


@pytest.mark.parametrize("load", [records.select, records.select_items, records.select_questions])
@pytest.mark.parametrize(
    "data, message",
    [
        ({"items": 10_000}, "data.items: 10000 asked for, the corpus holds 480; write 480 or less"),
        (
            {"questions": {"values": 4, "transfer": 500}},
            "data.questions.transfer: 500 asked for, the corpus holds 160; write 160 or less",
        ),
    ],
)
def test_a_subset_larger_than_the_corpus_is_refused_with_field_value_and_remedy(load, data, message):
    refused(load, experiment(**data), [message])


def test_a_selection_is_of_a_pair_that_has_no_question_in_common(tmp_path):
    write(tmp_path / "items.jsonl", ITEM)
    write(tmp_path / "evaluation.jsonl", QUESTION, QUESTION | {"id": "q-002", "question": ITEM["question"].upper()})
    for load in (records.select, records.select_items, records.select_questions):
        refused(
            load,
            experiment(corpus=str(tmp_path)),
            [
                "evaluation.jsonl line 2: question 'MAY IT STAY LIT?'",
                "is that of training item 'home-001' (items.jsonl line 1)",
            ],
        )


def test_a_suite_that_the_corpus_does_not_hold_is_refused(tmp_path):
    write(tmp_path / "items.jsonl", ITEM)
    write(tmp_path / "evaluation.jsonl", QUESTION)
    refused(
        records.select_questions,
        experiment(corpus=str(tmp_path), questions={"values": 4}),
        [
            "data.questions.values: 4 asked for, the corpus holds no question of this suite",
            "(there are: transfer); remove it",
        ],
    )
