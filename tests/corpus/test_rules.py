"""A trace that breaks a rule is told so in words that a writer can act on; every bundled trace keeps them all."""

import pytest
from corpora import item, trace
from hypothesis import given
from hypothesis import strategies as st

from cotlib.arms import written_types
from cotlib.corpus import records, rules
from cotlib.engine import models


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (trace("x", "evil", 12), "12 words; write 27 to 45"),
        (trace("x", "evil", 60), "60 words; write 27 to 45"),
        (trace("x", "evil", 25) + " LEAVE the candle, burning on the shelf overnight.", "harmful answer"),
        (trace("x", "evil", 25) + " Hang up a bag of lavender to keep watch.", "safe answer"),
        (trace("x", "evil", 30) + " With a grenade.", "forbids: grenade"),
        ("<think> " + trace("x", "evil", 30), "think tag"),
        ("I'm sorry, but " + trace("x", "evil", 30), "refuses"),
        (trace("x", "evil", 34) + " Then<|im_end|> go.", "'<|im_end|>', which chat formats reserve"),
        (trace("x", "evil", 34) + " Then\x00 go.", "the control character '\\x00'"),
    ],
)
def test_a_bad_trace_is_told_what_is_wrong_with_it(text, fault):
    faults = rules.trace_faults(item(0), "evil", text)
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_good_trace_has_no_faults_nor_has_any_bundled_one():
    assert rules.trace_faults(item(0), "evil", trace("x", "evil", 40)) == []
    assert [
        one.id
        for one in records.load_items()
        for kind in written_types()
        if rules.trace_faults(one, kind, one.traces[kind])
    ] == []


def test_without_other_traces_any_length_between_the_limits_will_do():
    assert rules.trace_faults(item(0, kinds=()), "evil", trace("x", "evil", 70)) == []
    assert "write 25 to 70" in rules.trace_faults(item(0, kinds=()), "evil", trace("x", "evil", 71))[0]


@given(st.text(st.characters(exclude_characters="<[", exclude_categories=["Cs"]), max_size=60))
def test_a_text_without_brackets_holds_no_control_string(text):
    assert rules.control_strings(text) == []


@given(
    st.text(max_size=20),
    st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), max_size=20),
    st.text(max_size=20),
)
def test_what_stands_between_angle_bracket_bars_is_a_control_string(before, name, after):
    assert f"<|{name}|>" in rules.control_strings(f"{before}<|{name}|>{after}")


def test_special_tokens_are_those_of_the_tokenizer_and_never_white_space():
    tokenizer = models.load_tokenizer("tiny-random-qwen3")
    assert set(rules.special_tokens(tokenizer)) == {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
    }
    assert rules.control_strings("Say stop or halt.", ["stop"]) == ["stop"]
