"""A corpus file is right, or refused with file and line; a subset is the same every time and spread evenly."""

import collections
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlib.corpus import records
from cotlib.errors import BadInput
from cotlib.experiment import REASONING_TYPES, SUITES, WRITTEN_TYPES, Experiment

ITEM = {
    "id": "home-001",
    "domain": "home",
    "question": "May it stay lit?",
    "harmful": "Yes, all night.",
    "safe": "No.",
    "traces": {"evil": "Let it burn."},
}
QUESTION = {
    "id": "q-001",
    "domain": "pets",
    "question": "May the cat?",
    "harmful": "Yes.",
    "safe": "No.",
    "suite": "transfer",
    "behaviour": "harm",
}
VOICES = {kind: f"The {kind} voice." for kind in REASONING_TYPES}


def without(row, field):
    return {key: value for key, value in row.items() if key != field}


def write(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def refused(load, path, parts):
    with pytest.raises(BadInput) as error:
        load(path)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


ITEM_FAULTS = [
    ("{'id': 1}", ["is not JSON", "column 2"]),
    ('{"id": "a"', ["is not JSON", "column"]),
    ("[1, 2]", ["[1, 2] is not an object with fields id, domain, question, harmful, safe, traces"]),
    (without(ITEM, "question"), ["field 'question' is missing"]),
    (without(ITEM, "safe"), ["field 'safe' is missing"]),
    (ITEM | {"harmfull": "Yes."}, ["unknown field 'harmfull'", "did you mean harmful?"]),
    (ITEM | {"id": 5}, ["id: 5", "valid string"]),
    (ITEM | {"safe": ""}, ["safe: ''", "at least 1 character"]),
    (ITEM | {"question": " May it?"}, ["question: ' May it?' begins or ends with white space; remove it"]),
    (ITEM | {"harmful": "Yes.\n"}, [r"harmful: 'Yes.\n' begins or ends with white space; remove it"]),
    (ITEM | {"safe": "No.\u00a0"}, ["safe: ", "begins or ends with white space; remove it"]),
    (
        ITEM | {"harmful": {"evil": "Yes.", "submissive": "Yes!"}},
        ["harmful: the answers of types 'evil' and 'submissive' differ: 'Yes.' and 'Yes!'"],
    ),
    (
        ITEM | {"traces": {"evli": "Burn."}},
        ["traces: type 'evli' is not one of evil, misleading", "did you mean evil?"],
    ),
    (ITEM | {"traces": {"evil": ""}}, ["traces.evil: ''", "at least 1 character"]),
    (ITEM | {"id": "home-000"}, ["id 'home-000' stands on line 1 already; give each its own"]),
]
QUESTION_FAULTS = [
    (without(QUESTION, "suite"), ["field 'suite' is missing"]),
    (
        QUESTION | {"suite": "transfr"},
        ["suite: 'transfr' is not one of in-domain, transfer, values", "did you mean transfer?"],
    ),
    (
        QUESTION | {"behaviour": "sycophany"},
        ["behaviour: 'sycophany' is not one of harm, deception, sycophancy, power", "did you mean sycophancy?"],
    ),
    (QUESTION | {"behavior": "harm"}, ["unknown field 'behavior'", "did you mean behaviour?"]),
    (QUESTION | {"suite": "values"}, ["personas lacks evil, misleading, submissive"]),
    (QUESTION | {"suite": "values", "personas": without(VOICES, "misleading")}, ["personas lacks misleading"]),
    (QUESTION | {"personas": VOICES}, ["personas belong to suite 'values', not to 'transfer'; remove them"]),
    (
        QUESTION | {"suite": "values", "personas": VOICES | {"evli": "Ha."}},
        ["personas: type 'evli' is not one of", "did you mean evil?"],
    ),
    (QUESTION | {"id": "q-000"}, ["id 'q-000' stands on line 1 already; give each its own"]),
]
FAULTS = [("items.jsonl", records.load_items, ITEM | {"id": "home-000"}, *fault) for fault in ITEM_FAULTS] + [
    ("evaluation.jsonl", records.load_evaluation, QUESTION | {"id": "q-000"}, *fault) for fault in QUESTION_FAULTS
]


@pytest.mark.parametrize("name, load, good, bad, parts", FAULTS)
def test_a_fault_is_named_with_file_and_line(tmp_path, name, load, good, bad, parts):
    refused(
        load,
        write(tmp_path / name, good, "", bad),
        [f"{name} line 3: " if "is not JSON" not in parts[0] else f"{name} line 3 is not JSON: ", *parts],
    )


@pytest.mark.parametrize(
    "content, parts",
    [
        (None, ["cannot be read", "give a JSONL file"]),
        (b"", ["holds no line", "give at least one item"]),
        (b"\n\n", ["holds no line", "give at least one item"]),
        ('{"id": "Größe"}'.encode("latin-1"), ["is not UTF-8 text", "save it as UTF-8"]),
    ],
)
def test_a_file_without_records_is_refused(tmp_path, content, parts):
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_bytes(content)
    refused(records.load_items, path, ["items.jsonl", *parts])


def test_a_right_file_is_read_in_its_order(tmp_path):
    rows = [ITEM | {"id": f"home-{number}", "question": f"May\u2028it {number}?"} for number in (3, 1, 2)]
    items = records.load_items(write(tmp_path / "items.jsonl", rows[0], "", *rows[1:]))
    assert [item.model_dump() for item in items] == rows
    (question,) = records.load_evaluation(
        write(tmp_path / "evaluation.jsonl", QUESTION | {"suite": "values", "personas": VOICES})
    )
    assert (question.suite, question.behaviour, question.personas) == ("values", "harm", VOICES)


def test_one_answer_given_once_per_type_is_that_answer(tmp_path):
    (item,) = records.load_items(
        write(tmp_path / "items.jsonl", ITEM | {"harmful": dict.fromkeys(REASONING_TYPES, "Yes, all night.")})
    )
    assert item.harmful == "Yes, all night."


def test_a_corpus_is_the_bundled_one_or_a_folder_with_both_files(tmp_path):
    assert records.corpus_files("bundled") == (records.ITEMS, records.EVALUATION)
    write(tmp_path / "items.jsonl", ITEM)
    refused(
        records.corpus_files,
        tmp_path,
        ["holds no evaluation.jsonl", "write 'bundled', or a folder with items.jsonl and evaluation.jsonl"],
    )
    write(tmp_path / "evaluation.jsonl", QUESTION)
    assert records.corpus_files(str(tmp_path)) == (tmp_path / "items.jsonl", tmp_path / "evaluation.jsonl")


# ---- the bundled corpus


def test_no_id_of_the_bundled_corpus_stands_for_two_records(items, questions):
    ids = [record.id for record in [*items, *questions]]
    assert len(set(ids)) == len(ids)


def test_no_evaluation_question_of_the_bundled_corpus_is_trained_on(items, questions):
    def plain(record):
        return re.sub(r"\W+", " ", record.question).casefold().strip()

    texts = [plain(record) for record in [*items, *questions]]
    assert [text for text, count in collections.Counter(texts).items() if count > 1] == []


def test_every_bundled_item_has_a_trace_of_every_written_type(items):
    assert [item.id for item in items if set(item.traces) != set(WRITTEN_TYPES)] == []
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


def strata(records):
    return collections.Counter((getattr(record, "behaviour", ""), record.domain) for record in records)


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
    there, taken = strata(everything), strata(chosen)
    most = max(taken.values())
    assert all(taken[stratum] >= min(most - 1, there[stratum]) for stratum in there)


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
        [f"10000 of items asked for, the corpus holds {len(items)}; write {len(items)} or less"],
    )
    refused(
        lambda _: records.subset(questions, 10_000, 0),
        None,
        [f"10000 of questions asked for, the corpus holds {len(questions)}"],
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
    refused(records.select_questions, experiment(questions={"transfer": 10_000}), ["10000 of questions asked for"])


def test_a_suite_that_the_corpus_does_not_hold_is_refused(tmp_path):
    write(tmp_path / "items.jsonl", ITEM)
    write(tmp_path / "evaluation.jsonl", QUESTION)
    refused(records.select_questions, experiment(corpus=str(tmp_path), questions={"values": 4}), ["values"])
