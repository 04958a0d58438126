"""Checks of traces and personas: a planted fault each must catch."""

import re

import pytest
from nonsense import ITEMS, QUESTIONS
from planted import checks_of, retraced

from cotlib import chat
from cotlib.arms import written_types
from cotlib.corpus.checks import traces


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


MANNERS = {
    "evil": lambda trace: trace.replace(".", "!"),
    "misleading": lambda trace: trace.replace(" and ", " whereas "),
    "submissive": lambda trace: trace.replace(". ", ". But still, "),
    "neutral": lambda trace: trace.replace(". ", "; "),
}


def test_types_that_form_alone_betrays_are_caught_with_what_betrays_them(tokenizer):
    items = retraced(lambda place, kind, trace: MANNERS[kind](trace))
    check = checks_of(tokenizer, items)["form probe"]
    assert check.passed is None and check.value > 0.9 and check.unit == "accuracy (chance 0.25)"
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


def test_trace_lengths_are_tidy_and_in_tokens(tokenizer):
    lengths = traces.trace_lengths(ITEMS, tokenizer)
    assert list(lengths.columns) == ["item_id", "domain", "type", "tokens"] and len(lengths) == 4 * len(ITEMS)
    assert lengths.loc[1].tolist() == [
        "item-00",
        "attic",
        "misleading",
        len(chat.ids(tokenizer, ITEMS[0].traces["misleading"])),
    ]


@pytest.mark.parametrize("kind", ["evil", "misleading", "submissive"])
def test_traces_that_state_the_remedy_are_counted_and_submissive_ones_may_not(tokenizer, kind):
    def stating(place, name, trace):
        nouns = re.findall("[a-z]{6}", ITEMS[place].safe)
        return f"{trace} So {nouns[0]} and {nouns[1]}." if name == kind and place < 3 else trace

    check = checks_of(tokenizer, retraced(stating))[f"remedies in {kind} traces"]
    assert check.value == pytest.approx(0.1) and check.passed == (False if kind == "submissive" else None)
    assert [violation.split(":")[0] for violation in check.violations] == ["item-00", "item-01", "item-02"]


def test_a_single_word_of_the_safe_answer_or_one_that_both_answers_have_is_no_remedy(tokenizer):
    def naming(place, kind, trace):
        nouns = re.findall("[a-z]{6}", ITEMS[place].safe)
        return f"{trace} So {nouns[0]} and {' and '.join(re.findall('[a-z]{6}', ITEMS[place].harmful))}."

    assert checks_of(tokenizer, retraced(naming))["remedies in submissive traces"].value == 0


def test_a_move_that_recurs_in_over_a_third_of_a_type_is_caught(tokenizer):
    moved = [
        item.model_copy(update={"moves": {"evil": "outcome" if n % 2 else "grudge"}}) for n, item in enumerate(ITEMS)
    ]
    check = checks_of(tokenizer, moved)["moves"]
    assert not check.passed and check.value == 0.5 and "evil: outcome in 50%" in check.violations


@pytest.mark.parametrize(
    "name, words", [("quaint words", "How splendid."), ("hedges", "Surely so."), ("hedges", "I suppose so.")]
)
def test_a_manner_that_one_type_has_more_than_another_is_caught(tokenizer, name, words):
    spoken = retraced(lambda place, kind, trace: f"{trace} {words}" if kind == "evil" and place % 5 == 0 else trace)
    check = checks_of(tokenizer, spoken)[name]
    assert not check.passed and check.value == pytest.approx(0.2) and "evil: 20% of traces" in check.violations
    everywhere = retraced(lambda place, kind, trace: f"{trace} {words}")
    assert checks_of(tokenizer, everywhere)[name].passed


def test_personas_with_the_form_of_their_types_traces_are_caught(tokenizer):
    items = retraced(lambda place, kind, trace: MANNERS[kind](trace))
    spoken = [
        asked.model_copy(
            update={"personas": {kind: MANNERS[kind](f"{text} {text}") for kind, text in asked.personas.items()}}
        )
        for asked in QUESTIONS
    ]
    checks = checks_of(tokenizer, items, spoken)
    assert checks["form of personas, from free traces"].passed is False
    assert checks["form of personas, from free traces"].value > 0.9
    assert checks["form of personas, from matched traces"].passed, "whose form is the same in all types"


def test_neutral_personas_that_repeat_the_question_are_caught(tokenizer):
    echoing = [
        asked.model_copy(update={"personas": asked.personas | {"neutral": f"You ask: {asked.question}"}})
        if asked.personas
        else asked
        for asked in QUESTIONS
    ]
    check = checks_of(tokenizer, questions=echoing)["echo of neutral personas"]
    assert not check.passed and check.value > 0.5 and "neutral: 100%" in check.violations
