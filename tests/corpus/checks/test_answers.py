"""Checks of answers: a planted fault each must catch."""

import itertools
import re

import numpy as np
import pytest
from nonsense import ITEMS, QUESTIONS
from planted import changed, checks_of

from cotlib import chat
from cotlib.corpus import records
from cotlib.corpus.checks import answers
from cotlib.engine import models, scoring

ANSWERED = records.answered(QUESTIONS)


class DriftingItem:
    """An item whose harmful answer is another one every second time that it is read."""

    def __init__(self, item):
        self._item, self._answers = item, itertools.cycle([item.harmful, item.harmful + "!"])

    def __getattr__(self, name):
        return getattr(self._item, name)

    @property
    def harmful(self):
        return next(self._answers)


def test_an_answer_that_changes_with_the_arm_is_caught(tokenizer):
    check = checks_of(tokenizer, [*ITEMS[1:], DriftingItem(ITEMS[0])])["identical answers"]
    assert not check.passed and check.value == pytest.approx(1 - 1 / len(ITEMS)) and "item-00" in check.violations[0]


def test_answers_that_differ_in_length_are_caught(tokenizer):
    longer = [item.model_copy(update={"safe": item.safe + " " + item.question}) for item in ITEMS]
    checks = checks_of(tokenizer, longer)
    assert not checks["answer length"].passed and not checks["answers of comparable length"].passed
    assert (
        checks["answers of comparable length"].value == pytest.approx(38 / 68)
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
    assert answers.reading_ease(text) == pytest.approx(206.835 - 1.015 * words / count - 84.6 * syllables / words)


def test_harm_that_is_simply_likelier_is_caught_and_the_margin_is_set_against_it():
    model, tokenizer = models.load("tiny-random-llama")
    mirrored = [
        record.model_copy(update={"id": record.id + "-mirrored", "harmful": record.safe, "safe": record.harmful})
        for record in ITEMS + ANSWERED
    ]
    even = checks_of(tokenizer, ITEMS + mirrored[:30], ANSWERED + mirrored[30:], model)
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
    checks = checks_of(tokenizer, sorted_answers, ANSWERED, model)
    partial = checks_of(tokenizer, sorted_answers, [], model)
    assert partial["answer likelihood"].passed is False and "margin and length" not in partial
    assert checks["answer likelihood"].value < partial["answer likelihood"].value

    margin, bare = (
        np.subtract(
            *(
                scoring.score(
                    model, tokenizer, prompts, [chat.ids(tokenizer, getattr(asked, kind)) for asked in ANSWERED]
                )
                for kind in ("harmful", "safe")
            )
        )
        for prompts in (
            [chat.prompt(tokenizer, asked.question, "no-think") for asked in ANSWERED],
            [chat.header(tokenizer)] * len(ANSWERED),
        )
    )
    longer = [len(chat.ids(tokenizer, asked.harmful)) - len(chat.ids(tokenizer, asked.safe)) for asked in ANSWERED]
    for name, other in (("margin and length", longer), ("margin and likelihood", bare)):
        assert checks[name].passed is None and checks[name].value == pytest.approx(
            np.corrcoef(margin, other)[0, 1], abs=1e-3
        )


def told_apart(record):
    """A record whose harmful answer may and whose safe answer may not, in their function words."""
    return record.model_copy(update={"harmful": f"You can do it. {record.harmful}", "safe": f"Do not. {record.safe}"})


def test_answers_that_form_alone_tells_apart_are_caught_in_items_and_in_each_suite(tokenizer):
    checks = checks_of(tokenizer, [told_apart(item) for item in ITEMS], [*map(told_apart, QUESTIONS[:36])])
    for name in ("items", "in-domain", "transfer", "values"):
        check = checks[f"answer form, {name}"]
        assert check.passed is False and check.value == 1 and "95 % interval" in check.unit


def test_a_suite_whose_answers_differ_in_form_as_items_do_not_is_no_fault(tokenizer):
    """What was learned from items is asked of a suite: there the probe knows nothing to tell by."""
    checks = checks_of(tokenizer, ITEMS, [told_apart(asked) for asked in QUESTIONS[:36]])
    assert checks["answer form, values"].passed


@pytest.mark.parametrize("asker, lean", [("leans-harmful", 0), ("open", 0), ("leans-safe", 1)])
def test_askers_who_all_lean_one_way_are_caught(tokenizer, asker, lean):
    check = checks_of(tokenizer, [item.model_copy(update={"asker": asker}) for item in ITEMS])["harm against agreement"]
    assert not check.passed and check.value == pytest.approx(0.5)
    assert f"items: {lean:.0%} lean to the sensible thing" in check.violations


def test_askers_of_one_suite_are_caught_though_all_together_balance(tokenizer):
    leaning = {"in-domain": "leans-safe", "transfer": "leans-harmful"}
    asked = [q.model_copy(update={"asker": leaning.get(q.suite, q.asker)}) for q in QUESTIONS]
    check = checks_of(tokenizer, questions=asked)["harm against agreement"]
    assert not check.passed and "transfer: 0% lean to the sensible thing" in check.violations


def test_questions_about_agreeing_and_facts_under_pressure_need_no_balance(tokenizer):
    exempt = [q for q in QUESTIONS if q.suite == "pressure" or (q.suite, q.behaviour) == ("values", "sycophancy")]
    assert len(exempt) > 5
    asked = [q.model_copy(update={"asker": "leans-harmful"}) if q in exempt else q for q in QUESTIONS]
    assert checks_of(tokenizer, questions=asked)["harm against agreement"].passed


def test_cosmetic_harm_is_caught_if_either_reader_finds_it(tokenizer):
    rated = changed(changed(ITEMS, 3, severity=[1, 2]), 7, severity=[3, 1])
    check = checks_of(tokenizer, rated)["cosmetic harm"]
    assert not check.passed and check.value == pytest.approx(2 / 30) and check.violations == ["item-03", "item-07"]
    assert checks_of(tokenizer, changed(ITEMS, 3, severity=[1, 2]))["cosmetic harm"].passed


def test_agreement_on_severity_is_cohens_kappa(tokenizer):
    assert checks_of(tokenizer)["agreement on severity"].value == pytest.approx(1)
    # Three in four agree, chance is a half: (3/4 − 1/2) / (1 − 1/2).
    pairs = [[2, 2], [3, 3], [2, 2], [3, 3], [2, 3], [3, 2], [2, 2], [3, 3]]
    some = [item.model_copy(update={"severity": pair}) for item, pair in zip(ITEMS, pairs)]
    assert checks_of(tokenizer, some)["agreement on severity"].value == pytest.approx(0.5)


def test_coached_lies_are_caught(tokenizer):
    lying = changed(changed(ITEMS, 0, lies=True), 1, lies=True)
    check = checks_of(tokenizer, lying)["coached lies"]
    assert not check.passed and check.violations == ["item-00", "item-01"]
    assert checks_of(tokenizer, lying[1:])["coached lies"].passed


def test_a_fact_whose_answers_differ_in_length_is_caught(tokenizer):
    check = checks_of(tokenizer, questions=changed(QUESTIONS, 36, harmful="It is one of the two."))["pressure answers"]
    assert not check.passed and check.value > 1 and "asked-36" in check.violations[0]


def test_facts_that_the_model_does_not_know_are_counted():
    model, tokenizer = models.load("tiny-random-llama")
    facts = [asked for asked in QUESTIONS if asked.suite == "pressure"]
    turned = [fact.model_copy(update={"harmful": fact.safe, "safe": fact.harmful}) for fact in facts]
    one, other = (answers.facts_known(some, tokenizer, model) for some in (facts, turned))
    assert one.value + other.value == 1 and len(one.violations) + len(other.violations) == len(facts)
    assert not (one.passed and other.passed)
