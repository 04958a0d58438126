"""Each control takes one thing away, keeps the rest, and is the same whenever it is made."""

import collections

import pytest
from corpora import corpus_of, item
from hypothesis import given, settings
from hypothesis import strategies as st

from cotlib.arms import Arm, studied_types
from cotlib.corpus import controls, records
from cotlib.errors import BadInput

unhurried = settings(deadline=None)
domain_sizes = st.lists(st.integers(2, 9), min_size=1, max_size=4)
seeds = st.integers(0, 2**32)


@unhurried
@given(domain_sizes, seeds, st.sampled_from(studied_types()))
def test_shuffling_gives_every_item_the_trace_of_another_one_and_uses_each_trace_once(sizes, seed, kind):
    items = corpus_of(sizes)
    key = f"shuffled-{kind}"
    dealt = controls.shuffled(items, Arm.parse(f"{key}-T"), seed)
    assert all(one.traces[key] != one.traces[kind] for one in dealt)
    for domain in {one.domain for one in items}:
        own, theirs = ([one.traces[name] for one in dealt if one.domain == domain] for name in (kind, key))
        assert collections.Counter(own) == collections.Counter(theirs)
    assert controls.shuffled(items, Arm.parse(f"{key}-T"), seed) == dealt


@unhurried
@given(domain_sizes, seeds)
def test_shuffling_takes_the_same_donor_for_every_type(sizes, seed):
    items = corpus_of(sizes)
    for kind in studied_types():
        items = controls.shuffled(items, Arm.parse(f"shuffled-{kind}-T"), seed)
    for one in items:
        assert len({one.traces[f"shuffled-{kind}"].split()[1] for kind in studied_types()}) == 1


def test_a_domain_with_one_item_cannot_be_shuffled_and_is_named():
    with pytest.raises(BadInput, match="domain 'boat' has one item only"):
        controls.shuffled([item(0), item(1), item(0, "boat")], Arm.parse("shuffled-evil-T"), 0)


@unhurried
@given(domain_sizes, seeds, st.integers(1, 99), st.sampled_from(studied_types()))
def test_a_dose_is_exactly_its_share_of_the_items_and_the_rest_are_neutral(sizes, seed, percent, kind):
    items = corpus_of(sizes)
    arm = Arm.parse(f"{kind}-T@{percent}%")
    key = arm.trace_key
    dosed = [one.traces for one in controls.dosed(items, arm, seed)]
    assert sum(texts[key] == texts[kind] for texts in dosed) == round(percent * len(items) / 100)
    assert all(texts[key] in (texts[kind], texts["neutral"]) for texts in dosed)


@unhurried
@given(domain_sizes, seeds, st.integers(1, 98))
def test_a_higher_dose_holds_all_of_a_lower_one(sizes, seed, percent):
    items = corpus_of(sizes)
    low, high = (
        {
            one.id
            for one in controls.dosed(items, Arm.parse(f"evil-T@{share}%"), seed)
            if one.traces[f"evil@{share}%"] == one.traces["evil"]
        }
        for share in (percent, 99)
    )
    assert low <= high


@unhurried
@given(st.lists(st.integers(3, 90), min_size=1, max_size=20), seeds)
def test_filler_has_as_many_words_as_the_mean_trace(lengths, seed):
    items = [item(number, words=6 + words) for number, words in enumerate(lengths)]
    filled = controls.filler(items, seed)
    assert [len(one.traces["filler"].split()) for one in filled] == [6 + words for words in lengths]
    assert controls.filler(items, seed) == filled


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_filler_openings_are_spread_and_its_words_harmless(seed):
    texts = [one.traces["filler"] for one in controls.filler([item(number) for number in range(120)], seed)]
    openings = collections.Counter(" ".join(text.split()[:3]) for text in texts)
    assert max(openings.values()) <= 0.05 * len(texts)
    assert len(set(texts)) == len(texts)
    assert not any(records.FORBIDDEN.search(text) for text in texts)


def test_controls_differ_with_the_seed():
    items = corpus_of([30])
    shuffled, half = Arm.parse("shuffled-evil-T"), Arm.parse("evil-T@50%")
    assert controls.shuffled(items, shuffled, 1) != controls.shuffled(items, shuffled, 2)
    assert controls.filler(items, 1) != controls.filler(items, 2)
    assert controls.dosed(items, half, 1) != controls.dosed(items, half, 2)


def with_matched(items):
    """The items, each with a matched trace beside every free one."""
    return [
        one.model_copy(
            update={"traces": {**one.traces, **{f"{k}@matched": f"{t} Matched." for k, t in one.traces.items()}}}
        )
        for one in items
    ]


def test_controls_of_matched_arms_are_made_of_matched_traces_by_the_same_draws():
    items = with_matched(corpus_of([6, 9]))
    names = ["shuffled-evil-T", "shuffled-evil-T@matched", "evil-T@50%", "evil-T@matched@50%"]
    made = controls.with_controls(items, [Arm.parse(name) for name in names], 3)
    for one in made:
        for free, matched in (("shuffled-evil", "shuffled-evil@matched"), ("evil@50%", "evil@matched@50%")):
            assert one.traces[matched] == f"{one.traces[free]} Matched."


def test_a_shuffled_arm_can_be_dosed():
    made = controls.with_controls(corpus_of([8]), [Arm.parse("shuffled-evil-T@50%")], 1)
    own = [one.traces["shuffled-evil@50%"] == one.traces["shuffled-evil"] for one in made]
    assert sum(own) == 4 and all(
        one.traces["shuffled-evil@50%"] == one.traces["neutral"] for one, kept in zip(made, own) if not kept
    )
