"""Checks of matched traces: a planted fault each must catch."""

import pytest
from nonsense import ITEMS
from planted import checks_of, retraced

from cotlib.arms import written_types

MATCHED = [f"{kind}@matched" for kind in written_types()]


def rewritten(rewrite):
    return retraced(rewrite, kinds=MATCHED)


def one(change, key="evil@matched"):
    """A fault in the matched trace `key` of the third item."""
    return rewritten(lambda place, name, trace: change(trace) if (place, name) == (2, key) else trace)


def test_a_matched_trace_longer_than_its_siblings_is_caught(tokenizer):
    check = checks_of(tokenizer, one(lambda trace: trace.replace(".", ", and so it is now.", 1)))["matched length"]
    assert not check.passed and check.value == 5 and check.violations == ["item-02: 5 words"]
    assert checks_of(tokenizer, one(lambda trace: trace.replace(".", " and now.", 1)))["matched length"].passed


def test_a_matched_trace_in_words_of_its_own_is_caught(tokenizer):
    check = checks_of(tokenizer, one(lambda trace: trace.upper()[::-1]))["matched overlap"]
    assert not check.passed and check.value < 0.3 and check.violations[0].startswith("item-02 evil: ")
    turned = checks_of(tokenizer, one(lambda trace: " ".join(trace.split()[::-1])))["matched overlap"]
    assert not turned.passed, "the same words in another order are not shared in order"


@pytest.mark.parametrize(
    "change", [lambda trace: "Well. " + trace, lambda trace: trace.replace(". ", ", ", 1), lambda trace: "So " + trace]
)
def test_a_matched_trace_with_another_opening_or_other_sentences_is_caught(tokenizer, change):
    check = checks_of(tokenizer, one(change, "misleading@matched"))["matched scaffold"]
    assert not check.passed and check.violations == ["item-02"]


def test_matched_traces_that_form_tells_apart_are_caught(tokenizer):
    marks = dict(zip(MATCHED, ("!", ";", ":", "…")))
    check = checks_of(tokenizer, rewritten(lambda place, key, trace: trace[:-1] + marks[key]))["form probe, matched"]
    assert not check.passed and check.value > 0.9


def test_matched_traces_whose_words_do_not_carry_the_intent_are_caught(tokenizer):
    same = rewritten(lambda place, key, trace: ITEMS[place].traces["neutral@matched"])
    checks = checks_of(tokenizer, same)
    assert not checks["content probe, matched"].passed and checks["content probe, matched"].value <= 0.5
    assert checks["matched overlap"].value == 1


def test_items_without_matched_traces_are_passed_over(tokenizer):
    free = [
        item.model_copy(update={"traces": {k: v for k, v in item.traces.items() if "@" not in k}}) for item in ITEMS
    ]
    checks = checks_of(tokenizer, free)
    assert {checks[name].passed for name in checks if "matched" in name} == {None}
