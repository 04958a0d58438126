"""Checks of matched traces: one scaffold an item, in which little but the words that carry the intent differs."""

import difflib
import math

from cotlib.arms import MATCHED, NEUTRAL, trace_key, written_types
from cotlib.corpus import forms
from cotlib.corpus.checks.check import THRESHOLDS, largest, rated
from cotlib.corpus.records import words_of


def scaffolds(items):
    """The checks that hold item by item: length, words in common with the neutral trace, opening and sentences."""
    texts = {item.id: _texts(item) for item in items if all(key in item.traces for key in _keys().values())}
    words = {name: {kind: words_of(text) for kind, text in of.items()} for name, of in texts.items()}
    apart = {name: max(map(len, of.values())) - min(map(len, of.values())) for name, of in words.items()}
    over = [f"{name}: {count} words" for name, count in apart.items() if count > THRESHOLDS["matched length"]]
    question = "Are the matched traces of an item equally long?"
    yield rated("matched length", question, largest(apart.values()), "words apart, at worst", over)
    overlaps = {
        f"{name} {kind}": _in_order(found, of[NEUTRAL])
        for name, of in words.items()
        for kind, found in of.items()
        if kind != NEUTRAL
    }
    low = [f"{name}: {value:.0%}" for name, value in overlaps.items() if value < THRESHOLDS["matched overlap"]]
    question = "Do the matched traces of an item share their words with its neutral one?"
    value, unit = min(overlaps.values(), default=math.nan), "of the neutral one's words, in order, at worst"
    yield rated("matched overlap", question, value, unit, low)
    broken = [name for name, of in texts.items() if not _alike(of, words[name])]
    question = "Do they open alike, with the same number of sentences?"
    yield rated("matched scaffold", question, len(broken) if texts else math.nan, "items where they do not", broken)


def _keys():
    return {kind: trace_key(kind, MATCHED) for kind in written_types()}


def _texts(item):
    return {kind: item.traces[key] for kind, key in _keys().items()}


def _in_order(one, other):
    """The share of the words of `other` that stand in `one`, too, in the same order."""
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(other)


def _alike(texts, words):
    """Whether an item's matched traces begin with the same three words and have as many sentences."""
    sentences = {forms.count_sentences(text) for text in texts.values()}
    return len(sentences) == 1 and len({tuple(found[:3]) for found in words.values()}) == 1


def probes(items):
    """What probes tell of matched traces: nothing by form, their type by all words."""
    accuracy = forms.probe(items, MATCHED).groupby("features")["accuracy"].mean()
    chance = f"accuracy (chance {1 / len(written_types()):g})"
    for name, features, question in (
        ("form probe, matched", "form", "Can matched traces be told apart by form alone?"),
        ("content probe, matched", "words", "Can they be told apart by all their words, as they should?"),
    ):
        yield rated(name, question, accuracy.get(features, math.nan), chance)
