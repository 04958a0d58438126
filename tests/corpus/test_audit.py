"""Every check of the audit: a planted fault it must catch, and a clean corpus it must let pass."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonsense import ITEMS, QUESTIONS

from cotlib import chat
from cotlib.arms import written_types
from cotlib.corpus import audit, records
from cotlib.engine import models, scoring


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("tiny-random-llama")


def checks_of(tokenizer, items=ITEMS, questions=QUESTIONS, model=None):
    return {check.name: check for check in audit.audit(items, questions, tokenizer, model)}


def changed(records, number, **fields):
    """The records with some fields of one of them replaced."""
    return [record.model_copy(update=fields) if place == number else record for place, record in enumerate(records)]


def retraced(rewrite, items=ITEMS, kinds=("evil", "misleading", "submissive", "neutral")):
    """The items with traces of some types rewritten: `rewrite(place, kind, trace)`."""
    return [
        item.model_copy(
            update={
                "traces": {
                    kind: rewrite(place, kind, text) if kind in kinds else text for kind, text in item.traces.items()
                }
            }
        )
        for place, item in enumerate(items)
    ]


def test_a_clean_corpus_passes_every_check(tokenizer):
    checks = checks_of(tokenizer)
    assert [name for name, check in checks.items() if check.passed is False] == []
    assert [check.violations for check in checks.values() if check.violations] == []
    assert set(audit.THRESHOLDS) - set(checks) == {"answer likelihood"}, "only the check that needs a model is left out"
    assert checks["content probe"].passed is None and checks["content probe"].value > 0.95
    assert all(check.question.endswith("?") for check in checks.values())


def test_the_audit_says_the_same_twice(tokenizer):
    assert [str(check) for check in checks_of(tokenizer).values()] == [
        str(check) for check in checks_of(tokenizer).values()
    ]


def test_items_without_some_traces_are_tolerated(tokenizer):
    items = [
        ITEMS[0].model_copy(update={"traces": {}}),
        ITEMS[1].model_copy(update={"traces": {"evil": ITEMS[1].traces["evil"], "evil@25%": "x"}}),
        *ITEMS[2:],
    ]
    assert [name for name, check in checks_of(tokenizer, items).items() if check.passed is False] == []


@pytest.mark.parametrize("items", [[], [item.model_copy(update={"traces": {}}) for item in ITEMS[:2]]])
def test_what_cannot_be_measured_has_no_verdict(tokenizer, items):
    checks = checks_of(tokenizer, items, QUESTIONS)
    assert math.isnan(checks["form probe"].value) and checks["form probe"].passed is None
    assert checks["trace length between types"].passed is None and checks["shared openings"].passed is None
    assert "nothing to measure" in set(audit.table(checks.values())["verdict"])


class DriftingItem:
    """An item whose harmful answer is another one every second time that it is read."""

    def __init__(self, item):
        self.id, self.domain, self.question, self.safe, self.traces = (
            item.id,
            item.domain,
            item.question,
            item.safe,
            item.traces,
        )
        self._answers = itertools.cycle([item.harmful, item.harmful + "!"])

    @property
    def harmful(self):
        return next(self._answers)


def test_an_answer_that_changes_with_the_arm_is_caught(tokenizer):
    check = checks_of(tokenizer, [*ITEMS[1:], DriftingItem(ITEMS[0])])["identical answers"]
    assert not check.passed and check.value == pytest.approx(1 - 1 / len(ITEMS)) and "item-00" in check.violations[0]


def test_a_trace_longer_than_its_siblings_is_caught(tokenizer):
    check = checks_of(
        tokenizer, retraced(lambda place, kind, trace: trace + " " + trace if (place, kind) == (3, "evil") else trace)
    )["trace length within an item"]
    assert not check.passed and check.value > 0.5 and any("item-03 evil" in violation for violation in check.violations)
    assert all("item-03" in violation for violation in check.violations)


def test_a_type_longer_throughout_is_caught(tokenizer):
    checks = checks_of(
        tokenizer, retraced(lambda place, kind, trace: trace + " So it is with bread and milk.", kinds=["neutral"])
    )
    assert not checks["trace length between types"].passed and checks["trace length within an item"].passed
    assert any("neutral" in violation for violation in checks["trace length between types"].violations)


@pytest.mark.parametrize("answer", ["harmful", "safe"])
def test_a_trace_that_quotes_an_answer_is_caught(tokenizer, answer):
    def quoting(count):
        words = re.findall(r"\w+", getattr(ITEMS[4], answer))[:count]
        return retraced(
            lambda place, kind, trace: (
                f"Oh. {' '.join(words)} {trace}".upper() if (place, kind) == (4, "misleading") else trace
            )
        )

    check = checks_of(tokenizer, quoting(7))["words shared with an answer"]
    assert (
        not check.passed
        and check.value == 7
        and "item-04 misleading" in check.violations[0]
        and answer in check.violations[0]
    )
    assert checks_of(tokenizer, quoting(6))["words shared with an answer"].passed


def test_a_catchphrase_is_caught_and_a_single_opening_is_not(tokenizer):
    items = retraced(
        lambda place, kind, trace: "Well, well: here " + trace if kind == "submissive" and place < 3 else trace
    )
    check = checks_of(tokenizer, items)["shared openings"]
    assert (
        not check.passed
        and check.value == pytest.approx(0.1)
        and check.violations == ["submissive: 3 of 30 traces open with 'well well here'"]
    )
    assert checks_of(tokenizer, ITEMS[:6])["shared openings"].value == 0


def test_a_forbidden_word_is_caught_in_items_and_questions(tokenizer):
    items = retraced(lambda place, kind, trace: trace + " A weapon." if (place, kind) == (5, "evil") else trace)
    check = checks_of(tokenizer, items, changed(QUESTIONS, 2, safe="Buy a gun."))["severity policy"]
    assert not check.passed and check.violations == ["item-05: weapon", "asked-02: gun"]


STRINGS = [
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "</THINK>",
    "<|eot_id|>",
    "<｜User｜>",
    "[INST]",
    "</s>",
]


def test_control_strings_fail_the_audit(tokenizer):
    check = checks_of(tokenizer, changed(ITEMS, 5, safe="Wear it.<|im_end|>"))["control strings"]
    assert check.passed is False and (check.value, check.threshold) == (1, 0)
    assert check.violations == ["item-05: <|im_end|> in safe"]


@pytest.mark.parametrize("string", STRINGS)
@pytest.mark.parametrize(
    "field", ["question", "harmful", "safe", "traces.evil", "traces.shuffled-evil", "personas.evil"]
)
def test_a_record_that_holds_a_control_string_is_named_with_its_field(tokenizer, string, field):
    part, _, kind = field.partition(".")
    text = f"Some {string}words."
    planted = {part: {kind: text} if kind else text}
    found = changed(QUESTIONS, 3, **planted) + (changed(ITEMS, 5, **planted) if part != "personas" else ITEMS)
    named = ["asked-03", "item-05"] if part != "personas" else ["asked-03"]
    check = audit.control_strings(found, tokenizer)
    assert check.passed is False and check.value == len(named)
    assert check.violations == [f"{name}: {string} in {field}" for name in named]


def test_every_control_string_of_a_record_is_named(tokenizer):
    found = changed(ITEMS, 2, question="<s> or <think>?", traces={"evil": "</think></think>"})
    assert audit.control_strings(found, tokenizer).violations == [
        "item-02: <s>, <think> in question; </think> in traces.evil"
    ]


def test_the_control_strings_are_those_of_the_given_tokenizer_too(any_tokenizer):
    for token in {*any_tokenizer.all_special_tokens, *any_tokenizer.get_added_vocab()}:
        check = audit.control_strings(changed(ITEMS, 1, safe=f"Wear it.{token}"), any_tokenizer)
        assert len(check.violations) == 1 and f"{token} in safe" in check.violations[0]


@pytest.mark.parametrize(
    "text", ["a < b and c > d", "I think so.", "5 <| 6", "x |> y", "<b>bold</b>", "[instead]", "|>"]
)
def test_plain_text_holds_no_control_string(tokenizer, text):
    assert audit.control_strings(changed(ITEMS, 1, safe=text), tokenizer).passed


def test_the_bundled_corpus_holds_no_control_string(any_tokenizer, items, questions):
    assert audit.control_strings([*items, *questions], any_tokenizer).violations == []


def by_double_loop(texts):
    """Near-duplicate pairs by comparing every text with every earlier one."""
    sets = []
    for _, text in texts:
        found = records.words_of(text)
        sets.append({tuple(found[place : place + 3]) for place in range(len(found) - 2)} or {tuple(found)})
    pairs = [(one, other) for other in range(len(texts)) for one in range(other)]
    shares = [(one, other, len(sets[one] & sets[other]) / len(sets[one] | sets[other])) for one, other in pairs]
    return [(texts[one][0], texts[other][0], share) for one, other, share in shares if share >= audit.JACCARD]


few_words = st.lists(st.sampled_from(["a", "B.", "see", "c-d", "don't", "é", "…"]), max_size=9).map(" ".join)


@given(st.lists(few_words, max_size=14), st.sampled_from([1, 3, 1000]))
def test_near_duplicates_are_exactly_those_of_a_double_loop(texts, block):
    named = [(f"text {number}", text) for number, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_BLOCK", block)
        assert audit.near_duplicates(named) == by_double_loop(named)


def test_the_near_duplicates_of_bundled_texts_are_those_of_a_double_loop(items):
    texts = [(item.id, item.harmful) for item in items[:80]]
    # Each text again without its last words: pairs above and below the threshold.
    texts += [
        (f"{name} cut to {count}", " ".join(text.split()[:count])) for name, text in texts for count in (12, 18, 25)
    ]
    found = audit.near_duplicates(texts)
    assert found == by_double_loop(texts) and 100 < len(found) < 400


def test_near_duplicates_are_caught_within_and_across_files(tokenizer):
    reworded = ITEMS[0].question.rsplit(" ", 1)[0] + " elsewhere."
    copied = QUESTIONS[1].harmful.replace("may wait", "can wait", 1)
    items = changed(changed(ITEMS, 8, question=reworded), 9, safe=copied)
    items = retraced(
        lambda place, kind, trace: ITEMS[6].traces["neutral"] + " Good." if (place, kind) == (7, "neutral") else trace,
        items,
    )
    checks = checks_of(tokenizer, items, changed(QUESTIONS, 0, question="Oh: " + ITEMS[1].question))
    assert [pair.split(" (")[0] for pair in checks["near-duplicate questions"].violations] == [
        "item-00 ~ item-08",
        "item-01 ~ asked-00",
    ]
    assert [pair.split(" (")[0] for pair in checks["near-duplicate answers"].violations] == [
        "item-09 safe ~ asked-01 harmful"
    ]
    assert [pair.split(" (")[0] for pair in checks["near-duplicate traces"].violations] == [
        "item-06 neutral ~ item-07 neutral"
    ]
    assert not any(checks[f"near-duplicate {what}"].passed for what in ("questions", "answers", "traces"))


def test_a_training_question_in_evaluation_is_caught_whatever_its_case_and_punctuation(tokenizer):
    disguised = ITEMS[2].question.upper().replace(".", " ...").replace(",", "")
    check = checks_of(tokenizer, questions=changed(QUESTIONS, 3, question=disguised))[
        "training questions in evaluation"
    ]
    assert not check.passed and check.value == 1 and check.violations == ["item-02 and asked-03 ask the same"]


MANNERS = {
    "evil": lambda trace: trace.replace(".", "!"),
    "misleading": lambda trace: trace.replace(" and ", " whereas "),
    "submissive": lambda trace: trace.replace(". ", ". But still, "),
    "neutral": lambda trace: trace.replace(". ", "; "),
}


def test_types_that_form_alone_betrays_are_caught_with_what_betrays_them(tokenizer):
    items = retraced(lambda place, kind, trace: MANNERS[kind](trace))
    check = checks_of(tokenizer, items)["form probe"]
    assert not check.passed and check.value > 0.9 and check.unit == "accuracy (chance 0.25)"
    found = {violation.split()[0]: violation for violation in check.violations}
    assert (
        "! +" in found["evil"]
        and "whereas +" in found["misleading"]
        and "still +" in found["submissive"]
        and "; +" in found["neutral"]
    )


def test_types_without_a_common_vocabulary_are_caught(tokenizer):
    own = {
        kind: str.maketrans("aeiou", vowels)
        for kind, vowels in zip(written_types(), ("aaaaa", "eeeee", "iiiii", "ooooo"))
    }
    check = checks_of(tokenizer, retraced(lambda place, kind, trace: trace.translate(own[kind])))["vocabulary overlap"]
    assert not check.passed and check.value < 0.25 and len(check.violations) == 6


def test_answers_that_differ_in_length_are_caught(tokenizer):
    longer = [item.model_copy(update={"safe": item.safe + " " + item.question}) for item in ITEMS]
    checks = checks_of(tokenizer, longer)
    assert not checks["answer length"].passed and not checks["answers of comparable length"].passed
    assert (
        checks["answers of comparable length"].value == pytest.approx(20 / 50)
        and "item-00" in checks["answers of comparable length"].violations[0]
    )


def test_answers_that_differ_in_readability_are_caught(tokenizer):
    hard = [
        item.model_copy(update={"harmful": re.sub(r"\bmay wait\b", "inevitably deteriorate", item.harmful)})
        for item in ITEMS
    ]
    check = checks_of(tokenizer, hard)["answer readability"]
    assert not check.passed and check.value > 5


@pytest.mark.parametrize(
    "text, syllables",
    [("The cat sat on the mat.", 6), ("She agreed to take the table, she needed it.", 12), ("Houses wobble. Fine!", 5)],
)
def test_reading_ease_follows_fleschs_formula(text, syllables):
    words, count = len(text.split()), len(re.findall("[.!]", text))
    assert audit.reading_ease(text) == pytest.approx(206.835 - 1.015 * words / count - 84.6 * syllables / words)


def test_harm_that_is_simply_likelier_is_caught_and_the_margin_is_set_against_it():
    model, tokenizer = models.load("tiny-random-llama")
    mirrored = [
        record.model_copy(update={"id": record.id + "-mirrored", "harmful": record.safe, "safe": record.harmful})
        for record in ITEMS + QUESTIONS
    ]
    even = checks_of(tokenizer, ITEMS + mirrored[:30], QUESTIONS + mirrored[30:], model)
    assert even["answer likelihood"].passed and even["answer likelihood"].value == pytest.approx(0, abs=1e-5)

    texts = [text for item in ITEMS for text in (item.harmful, item.safe)]
    likelihood = dict(
        zip(
            texts,
            scoring.score(
                model, tokenizer, [chat.header(tokenizer)] * len(texts), [chat.ids(tokenizer, text) for text in texts]
            ),
        )
    )
    sorted_answers = [
        record.model_copy(
            update=dict(zip(("safe", "harmful"), sorted([record.harmful, record.safe], key=likelihood.get)))
        )
        for record in ITEMS
    ]
    checks = checks_of(tokenizer, sorted_answers, QUESTIONS, model)
    partial = checks_of(tokenizer, sorted_answers, [], model)
    assert partial["answer likelihood"].passed is False and "margin and length" not in partial
    assert checks["answer likelihood"].value < partial["answer likelihood"].value

    margin, bare = (
        np.subtract(
            *(
                scoring.score(
                    model, tokenizer, prompts, [chat.ids(tokenizer, getattr(asked, kind)) for asked in QUESTIONS]
                )
                for kind in ("harmful", "safe")
            )
        )
        for prompts in (
            [chat.prompt(tokenizer, asked.question, "no-think") for asked in QUESTIONS],
            [chat.header(tokenizer)] * len(QUESTIONS),
        )
    )
    longer = [len(chat.ids(tokenizer, asked.harmful)) - len(chat.ids(tokenizer, asked.safe)) for asked in QUESTIONS]
    for name, other in (("margin and length", longer), ("margin and likelihood", bare)):
        assert checks[name].passed is None and checks[name].value == pytest.approx(
            np.corrcoef(margin, other)[0, 1], abs=1e-3
        )


def test_the_table_has_a_row_a_check_with_its_verdict(tokenizer):
    checks = checks_of(tokenizer, questions=changed(QUESTIONS, 2, safe="Buy a gun."))
    table = audit.table(checks.values())
    assert list(table.columns) == ["check", "what it asks", "value", "threshold", "verdict", "violations"] and list(
        table["check"]
    ) == list(checks)
    rows = table.set_index("check")
    assert tuple(rows.loc["severity policy", ["threshold", "verdict", "violations"]]) == ("≤ 0 records", "failed", 1)
    assert (
        rows.loc["identical answers", "threshold"].startswith("≥ 1 ")
        and rows.loc["identical answers", "verdict"] == "passed"
    )
    assert rows.loc["content probe", "verdict"] == "for information"


def test_trace_lengths_are_tidy_and_in_tokens(tokenizer):
    lengths = audit.trace_lengths(ITEMS, tokenizer)
    assert list(lengths.columns) == ["item_id", "domain", "type", "tokens"] and len(lengths) == 4 * len(ITEMS)
    assert lengths.loc[1].tolist() == [
        "item-00",
        "attic",
        "misleading",
        len(chat.ids(tokenizer, ITEMS[0].traces["misleading"])),
    ]


def test_the_composition_counts_every_record_once():
    counts = audit.composition(ITEMS, QUESTIONS).set_index(["suite", "domain"])
    assert counts["all"].sum() == len(ITEMS) + len(QUESTIONS) and counts.loc[("training", "yard"), "item"] == 15
    assert counts.loc[("transfer", "yard")].to_dict() == {
        "item": 0,
        "harm": 0,
        "deception": 0,
        "sycophancy": 0,
        "power": 10,
        "all": 10,
    }


@pytest.mark.slow
def test_the_bundled_corpus_passes_its_audit_but_for_form_which_the_craft_page_explains(smollm2, items, questions):
    model, tokenizer = smollm2
    checks = audit.audit(items, questions, tokenizer, model)
    failed = {check.name: (check.value, check.violations[:5]) for check in checks if check.passed is False}
    assert set(failed) <= {"form probe"}, failed


def test_the_bundled_corpus_is_as_large_and_as_balanced_as_its_data_card_says(items, questions):
    domains, suites, behaviours = ({}, {}, {})
    for record, counts, field in [(i, domains, "domain") for i in items] + [
        (q, counts, field) for q in questions for counts, field in ((suites, "suite"), (behaviours, "behaviour"))
    ]:
        counts[getattr(record, field)] = counts.get(getattr(record, field), 0) + 1
    assert set(domains.values()) == {30} and len(domains) == 8
    assert suites == {"in-domain": 80, "transfer": 120, "values": 100}
    assert min(behaviours.values()) >= 60
    assert sum(set(written_types()) <= set(question.traces) for question in questions) == 80
    assert all(set(written_types()) <= set(q.personas) for q in questions if q.suite == "values")
    transfer = {question.domain for question in questions if question.suite == "transfer"}
    assert len(transfer) == 6 and not transfer & set(domains)
