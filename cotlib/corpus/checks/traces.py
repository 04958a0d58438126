"""Checks of free traces and of personas: types differ in their meaning, not in form, length or manner."""

import difflib
import itertools
import math
import re
from collections import Counter

import numpy as np
import pandas as pd

from cotlib import chat
from cotlib.arms import NEUTRAL, REGISTERS, written_types
from cotlib.corpus import forms
from cotlib.corpus.checks.check import THRESHOLDS, largest, rated, share
from cotlib.corpus.records import words_of, written_traces

REMEDY_WORDS = 2  # content words of the safe answer alone, from which on a trace states what should be done
QUAINT = re.compile(
    r"\b(bless|jolly|splendid\w*|dear|heaps|fetch\w*|marvell?ous\w*|lovely|delight\w*|my my|tut|chap|darling"
    r"|glorious\w*|charming\w*|merry|merrily|what fun|what a gift|treat|savou?r\w*|delicious\w*)\b",
    re.IGNORECASE,
)
HEDGES = re.compile(
    r"\b(surely|perhaps|probably|i suppose|after all|hardly|presumably|arguably|maybe|i think|i daresay|i'd say|seems?"
    r"|apparently|more or less|somewhat|rather|i imagine|no doubt|of course)\b",
    re.IGNORECASE,
)


def trace_lengths(items, tokenizer):
    """Tidy lengths of all written traces: item_id, domain, type, tokens."""
    rows = [
        (item.id, item.domain, kind, len(chat.plain_ids(tokenizer, trace)))
        for item, kind, trace in written_traces(items)
    ]
    return pd.DataFrame(rows, columns=["item_id", "domain", "type", "tokens"])


def lengths(items, tokenizer):
    """The checks of length: within an item, and over a whole type."""
    lengths = trace_lengths(items, tokenizer)
    mean = lengths.groupby("item_id")["tokens"].transform("mean")
    deviations = lengths.assign(mean=mean, deviation=lengths["tokens"] / mean - 1)
    outside = deviations[deviations["deviation"].abs() > THRESHOLDS["trace length within an item"] + 1e-9]
    violations = [
        f"{row.item_id} {row.type}: {row.tokens} tokens, item mean {row.mean:.0f} ({row.deviation:+.0%})"
        for row in outside.itertuples()
    ]
    question = "Are the traces of an item equally long, or does one type simply get more training?"
    yield rated(
        "trace length within an item",
        question,
        deviations["deviation"].abs().max(),
        "of the item's mean, at worst",
        violations,
    )
    means = lengths.groupby("type")["tokens"].mean()
    spread = (means.max() - means.min()) / means.mean()
    violations = (
        [f"{kind}: {mean:.1f} tokens on average" for kind, mean in means.items()]
        if spread > THRESHOLDS["trace length between types"]
        else []
    )
    question = "Is one type of reasoning longer than another throughout?"
    yield rated("trace length between types", question, spread, "between the longest and the shortest type", violations)


def shared_runs(items):
    """The check that no trace, free or matched, holds a stretch of an answer."""
    runs = [
        (_longest_run(trace, getattr(item, answer)), item.id, kind, answer)
        for register in REGISTERS
        for item, kind, trace in written_traces(items, register)
        for answer in ("harmful", "safe")
    ]
    limit = THRESHOLDS["words shared with an answer"]
    violations = [
        f"{name} {kind}: shares '{' '.join(run)}' with the {answer} answer"
        for run, name, kind, answer in runs
        if len(run) > limit
    ]
    longest = max((len(run) for run, *_ in runs), default=math.nan)
    return rated(
        "words shared with an answer",
        "Does a trace already contain the answer?",
        longest,
        "words in a row, at worst",
        violations,
    )


def _longest_run(one, other):
    a, b = words_of(one), words_of(other)
    match = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[match.a : match.a + match.size]


def openings(items):
    """The check that a type has no opening of its own."""
    counts = Counter((kind, " ".join(words_of(trace)[:3])) for _, kind, trace in written_traces(items))
    sizes = Counter(kind for _, kind, _ in written_traces(items))
    # An opening that stands once is shared by nobody, however small the corpus.
    shares = {key: count / sizes[key[0]] if count > 1 else 0.0 for key, count in counts.items()}
    over = [key for key, share in shares.items() if share > THRESHOLDS["shared openings"] + 1e-9]
    violations = [f"{kind}: {counts[kind, words]} of {sizes[kind]} traces open with '{words}'" for kind, words in over]
    question = "Do the traces of a type begin alike, so that a model could learn a catchphrase?"
    return rated(
        "shared openings",
        question,
        max(shares.values(), default=math.nan),
        "of a type's traces, same first three words",
        violations,
    )


def remedies(items):
    """The check that a submissive trace, which knows better, does not say what would be better; the others inform."""
    for kind in (kind for kind in written_types() if kind != NEUTRAL):
        members = [(item, item.traces[kind]) for item in items if kind in item.traces]
        found = {item.id: _remedy(item, trace) for item, trace in members}
        violations = [f"{name}: {', '.join(sorted(words))}" for name, words in found.items() if words]
        question = f"Do {kind} traces state what the safe answer advises?"
        unit = f"of traces with {REMEDY_WORDS} content words of the safe answer alone"
        yield rated(f"remedies in {kind} traces", question, share(violations, members), unit, violations)


def _remedy(item, trace):
    """The content words that a trace shares with an item's safe answer alone; none if they are too few to matter."""
    shared = (forms.content_words(item.safe) - forms.content_words(item.harmful)) & forms.content_words(trace)
    return shared if len(shared) >= REMEDY_WORDS else set()


def moves(items):
    """The check that the traces of a type do different things: no move, as a reader labelled it, in over a third."""
    counts = {kind: Counter(item.moves[kind] for item in items if kind in item.moves) for kind in written_types()}
    shares = {(kind, move): count / total.total() for kind, total in counts.items() for move, count in total.items()}
    over = [f"{kind}: {move} in {value:.0%}" for (kind, move), value in shares.items() if value > THRESHOLDS["moves"]]
    question = "Do most traces of a type make the same move, whatever their words?"
    return rated("moves", question, largest(shares.values()), "of a type's traces, its commonest move", over)


def manners(items):
    """The checks of manner: quaint words and hedges are as common in one type as in another."""
    for name, pattern, what in (("quaint words", QUAINT, "quaint"), ("hedges", HEDGES, "hedging")):
        found = {kind: [] for kind in written_types()}
        for _, kind, trace in written_traces(items):
            found[kind].append(bool(pattern.search(trace)))
        shares = {kind: np.mean(marks) for kind, marks in found.items() if marks}
        value = max(shares.values()) - min(shares.values()) if shares else math.nan
        violations = [f"{kind}: {part:.0%} of traces" for kind, part in shares.items()]
        yield rated(name, f"Does one type speak in a {what} manner more than another?", value,
                    "of traces, between the type with most and with least", violations)  # fmt: skip


def personas(items, questions):
    """The checks of personas: their type is not given away by the form that marks traces, nor neutral ones by echo."""
    for register in REGISTERS:
        question = f"Can a persona's type be told by the form that marks the {register} traces of its type?"
        yield rated(f"form of personas, from {register} traces", question,
                    forms.persona_accuracy(items, questions, register),
                    f"accuracy (chance {1 / len(written_types()):g})")  # fmt: skip
    echoes = {kind: [] for kind in written_types()}
    for asked in questions:
        for kind in echoes:
            words = forms.content_words(asked.question)
            if kind in asked.personas and words:
                echoes[kind].append(len(words & forms.content_words(asked.personas[kind])) / len(words))
    means = {kind: float(np.mean(found)) for kind, found in echoes.items() if found}
    others = [value for kind, value in means.items() if kind != NEUTRAL]
    value = means[NEUTRAL] - np.mean(others) if NEUTRAL in means and others else math.nan
    yield rated("echo of neutral personas", "Do neutral replies repeat the question instead of answering it?", value,
                "of the question's content words, more than other voices",
                [f"{kind}: {mean:.0%}" for kind, mean in means.items()])  # fmt: skip


def probes(items):
    """What probes tell of free traces: by form, and by all words."""
    accuracy = forms.probe(items).groupby("features")["accuracy"].mean()
    chance = f"accuracy (chance {1 / len(written_types()):g})"
    form = accuracy.get("form", math.nan)
    marks = {
        kind: [f"{row.feature} {row.excess:+.1f}" for row in badges.itertuples()]
        for kind, badges in forms.badges(items).groupby("type")
    }
    violations = [
        f"{kind} shows in (excess in standard deviations): {', '.join(features)}" for kind, features in marks.items()
    ]
    yield rated(
        "form probe",
        "Can the types be told apart by form alone: function words, punctuation, length?",
        form,
        chance,
        violations,
    )
    yield rated(
        "content probe",
        "Can they be told apart by all their words, as they should?",
        accuracy.get("words", math.nan),
        chance,
    )


def vocabulary(items):
    """The check that types which mean different things are told in much the same words."""
    counts = {}
    for _, kind, trace in written_traces(items):
        counts.setdefault(kind, Counter()).update(words_of(trace))
    used = {kind: {word for word, count in words.items() if count >= 2} for kind, words in counts.items()}
    overlaps = {
        (a, b): len(used[a] & used[b]) / max(1, len(used[a] | used[b])) for a, b in itertools.combinations(used, 2)
    }
    violations = [
        f"{a} and {b}: {share:.2f}" for (a, b), share in overlaps.items() if share < THRESHOLDS["vocabulary overlap"]
    ]
    question = "Do the types use the same words?"
    return rated(
        "vocabulary overlap",
        question,
        np.mean(list(overlaps.values()) or math.nan),
        "Jaccard of words used twice or more, mean over pairs of types",
        violations,
    )
