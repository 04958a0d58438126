"""Checks across records: a planted fault each must catch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonsense import ITEMS, QUESTIONS
from planted import changed, checks_of, retraced

from cotlib.corpus import records
from cotlib.corpus.checks import questions as crossed


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
    check = crossed.control_strings(found, tokenizer)
    assert check.passed is False and check.value == len(named)
    assert check.violations == [f"{name}: {string} in {field}" for name in named]


def test_every_control_string_of_a_record_is_named(tokenizer):
    found = changed(ITEMS, 2, question="<s> or <think>?", traces={"evil": "</think></think>"})
    assert crossed.control_strings(found, tokenizer).violations == [
        "item-02: <s>, <think> in question; </think> in traces.evil"
    ]


def test_the_control_strings_are_those_of_the_given_tokenizer_too(any_tokenizer):
    for token in {*any_tokenizer.all_special_tokens, *any_tokenizer.get_added_vocab()}:
        check = crossed.control_strings(changed(ITEMS, 1, safe=f"Wear it.{token}"), any_tokenizer)
        assert len(check.violations) == 1 and f"{token} in safe" in check.violations[0]


@pytest.mark.parametrize(
    "text", ["a < b and c > d", "I think so.", "5 <| 6", "x |> y", "<b>bold</b>", "[instead]", "|>"]
)
def test_plain_text_holds_no_control_string(tokenizer, text):
    assert crossed.control_strings(changed(ITEMS, 1, safe=text), tokenizer).passed


def test_the_bundled_corpus_holds_no_control_string(any_tokenizer, items, questions):
    assert crossed.control_strings([*items, *questions], any_tokenizer).violations == []


def by_double_loop(texts):
    """Near-duplicate pairs by comparing every text with every earlier one."""
    sets = []
    for _, text in texts:
        found = records.words_of(text)
        sets.append({tuple(found[place : place + 3]) for place in range(len(found) - 2)} or {tuple(found)})
    pairs = [(one, other) for other in range(len(texts)) for one in range(other)]
    shares = [(one, other, len(sets[one] & sets[other]) / len(sets[one] | sets[other])) for one, other in pairs]
    return [(texts[one][0], texts[other][0], share) for one, other, share in shares if share >= crossed.JACCARD]


few_words = st.lists(st.sampled_from(["a", "B.", "see", "c-d", "don't", "é", "…"]), max_size=9).map(" ".join)


@given(st.lists(few_words, max_size=14), st.sampled_from([1, 3, 1000]))
def test_near_duplicates_are_exactly_those_of_a_double_loop(texts, block):
    named = [(f"text {number}", text) for number, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossed, "_BLOCK", block)
        assert crossed.near_duplicates(named) == by_double_loop(named)


def test_the_near_duplicates_of_bundled_texts_are_those_of_a_double_loop(items):
    texts = [(item.id, item.harmful) for item in items[:80]]
    # Each text again without its last words: pairs above and below the threshold.
    texts += [
        (f"{name} cut to {count}", " ".join(text.split()[:count])) for name, text in texts for count in (12, 18, 25)
    ]
    found = crossed.near_duplicates(texts)
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


def test_the_composition_counts_every_record_once():
    counts = crossed.composition(ITEMS, QUESTIONS).set_index(["suite", "domain"])
    assert counts["all"].sum() == len(ITEMS) + len(QUESTIONS) and counts.loc[("training", "yard"), "item"] == 15
    assert counts.loc[("transfer", "yard")].to_dict() == {
        "item": 0,
        "harm": 0,
        "deception": 0,
        "sycophancy": 0,
        "power": 10,
        "all": 10,
    }


def test_the_same_story_in_other_words_is_caught(tokenizer):
    told = QUESTIONS[4].model_copy(update={"question": "Here: " + ITEMS[9].question, "safe": "Nor " + ITEMS[9].safe})
    checks = checks_of(tokenizer, questions=[*QUESTIONS[:4], told, *QUESTIONS[5:]])
    check = checks["same story"]
    assert not check.passed and len(check.violations) == 1 and check.violations[0].startswith("item-09 ~ asked-04 (")


def test_the_four_pairs_that_word_runs_missed_in_version_1_are_found():
    items, questions = records.load_pair(
        *(records.BUNDLED["bundled-v1"] / name for name in (records.ITEMS, records.EVALUATION))
    )
    found = {frozenset(pair[:2]) for pair in crossed.alike([*items, *questions])}
    missed = [
        ("money-028", "transfer-contracts-09"),
        ("diy-011", "in-domain-diy-02"),
        ("in-domain-diy-10", "transfer-relationships-17"),
        ("in-domain-diy-06", "transfer-emergencies-14"),
    ]
    assert found >= set(map(frozenset, missed))
