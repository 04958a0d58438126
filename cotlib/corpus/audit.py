"""Checks of the corpus: each measures one thing that could explain an effect in place of the reasoning.

The comparison between types of reasoning holds only if the types differ in meaning and in nothing
else: not in the answer, not in length, not in a telltale turn of phrase. Here that is measured, on
items and questions as they are loaded. Knows nothing about arms that were trained or about pictures.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections import Counter

import numpy as np
import pandas as pd

from cotlib import chat
from cotlib.arms import BEHAVIOURS, QA, SUITES, written_types
from cotlib.corpus import forms, rules
from cotlib.corpus.records import forbidden_words, texts, words_of, written_traces

# A check that is missing here informs only: it has no verdict.
THRESHOLDS = {
    # If answers differed between arms, an effect could come from the answers.
    "identical answers": 1.0,
    # A longer trace takes loss from the answer; a fifth is what writing can keep to.
    "trace length within an item": 0.20,
    # Over a whole type lengths average out: a type that is longer throughout would be trained more.
    "trace length between types": 0.05,
    # A trace that shares seven words in a row with the answer would teach the answer itself.
    "words shared with an answer": rules.LONGEST_SHARED_RUN,
    # Beyond one in twenty a type has a catchphrase, which a model can learn in place of the meaning.
    "shared openings": 0.05,
    # No text may break the policy.
    "severity policy": 0,
    # What ends a turn or opens a think block elsewhere must not stand in a text: a trainer may turn it into a control
    # token.
    "control strings": 0,
    # A question that was trained on does not test generalisation.
    "training questions in evaluation": 0,
    # Two texts that share half of all their three-word sequences count as one: the second adds no evidence.
    "near-duplicate questions": 0,
    "near-duplicate answers": 0,
    "near-duplicate traces": 0,
    # Some function words belong to a type's meaning, such as "will" to an intention, so form may tell types apart a
    # little more often than chance. The limit is about midway between chance and certainty.
    "form probe": 0.60,
    # Types that mean different things differ in their words; below a quarter, single words would tell them apart.
    "vocabulary overlap": 0.25,
    # The margin is a mean per token, so lengths matter little; a systematic difference would still be a cue.
    "answer length": 0.05,
    # What holds on average should hold for nearly every record: the analysis pairs answers.
    "answers of comparable length": 0.95,
    # Five points of reading ease are half a school grade.
    "answer readability": 5.0,
    # A third of a standard deviation is a small effect: harmful answers must not be more probable in themselves.
    "answer likelihood": 0.30,
}
AT_LEAST = {"identical answers", "vocabulary overlap", "answers of comparable length"}
JACCARD = 0.5  # of word triples: from here on two texts count as near-duplicates
COMPARABLE = 0.25  # how far the word counts of two answers of a record may lie apart, relative to their mean
# Items, and as many questions: a model reads slowly, and a sample shows an imbalance of a third of a deviation.
LIKELIHOOD_SAMPLE = 60
_BLOCK = 1000  # texts compared with all others at a time, which bounds the memory

# A mute e at the end of a word: "take", "rates", "used", but "table", "houses", "needed".
_MUTE = re.compile(r"((?<![aeiouyl])e|(?<![aeiouylscgxzh])es|(?<![aeiouydt])ed)$")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of the corpus: its question, the value, the threshold, and the records that break the rule.

    `passed` is None, and `threshold` nan, where the number informs only. `passed` is None, too, where the
    corpus holds nothing to measure; `value` is then nan.
    """

    name: str
    question: str
    value: float
    threshold: float
    unit: str
    passed: bool | None
    violations: list[str]


def _check(name, question, value, unit, violations=()):
    value, threshold = float(value), float(THRESHOLDS.get(name, math.nan))
    good = value >= threshold - 1e-9 if name in AT_LEAST else value <= threshold + 1e-9
    unmeasured = math.isnan(value) or math.isnan(threshold)
    return Check(name, question, value, threshold, unit, None if unmeasured else bool(good), list(violations))


def audit(items, questions, tokenizer, model=None):
    """Every check of the corpus, in reading order.

    Args:
        items: training items; traces of types other than the written ones are passed over, missing ones tolerated.
        questions: evaluation questions, possibly none.
        tokenizer: lengths in tokens are its own.
        model: an untrained model for the checks of likelihood, which read an even sample (`LIKELIHOOD_SAMPLE`);
            without one they are left out.
    Returns:
        list of `Check`.
    """
    records = [*items, *questions]
    checks = [
        _identical_answers(items, tokenizer),
        *_lengths(trace_lengths(items, tokenizer)),
        _shared_runs(items),
        _openings(items),
        _policy(records),
        control_strings(records, tokenizer),
        _trained_questions(items, questions),
        *_near_duplicates(records),
        *_probes(items),
        _vocabulary(items),
        *_answers(records, tokenizer),
    ]
    if model is None:
        return checks
    return checks + _likelihoods(_spread(items), _spread(questions), tokenizer, model)


def table(checks):
    """One row a check: what it asks, value, threshold with its unit, verdict, number of violations."""
    verdicts = {True: "passed", False: "failed", None: "for information"}
    return pd.DataFrame(
        {
            "check": check.name,
            "what it asks": check.question,
            "value": round(check.value, 3),
            "threshold": check.unit
            if math.isnan(check.threshold)
            else f"{'≥' if check.name in AT_LEAST else '≤'} {check.threshold:g} {check.unit}",
            "verdict": "nothing to measure" if math.isnan(check.value) else verdicts[check.passed],
            "violations": len(check.violations),
        }
        for check in checks
    )


def trace_lengths(items, tokenizer):
    """Tidy lengths of all written traces: item_id, domain, type, tokens."""
    rows = [
        (item.id, item.domain, kind, len(chat.plain_ids(tokenizer, trace)))
        for item, kind, trace in written_traces(items)
    ]
    return pd.DataFrame(rows, columns=["item_id", "domain", "type", "tokens"])


def composition(items, questions):
    """How many records per suite (or `training`) and domain probe each behaviour; training items probe none."""
    rows = [("training", item.domain, "item") for item in items] + [
        (asked.suite, asked.domain, asked.behaviour) for asked in questions
    ]
    frame = pd.DataFrame(rows, columns=["suite", "domain", "behaviour"])
    frame["suite"] = pd.Categorical(frame["suite"], ["training", *SUITES])
    counts = frame.groupby(["suite", "domain", "behaviour"], observed=True).size().unstack(fill_value=0)
    return (
        counts.reindex(columns=["item", *BEHAVIOURS], fill_value=0)
        .assign(all=counts.sum(axis=1))
        .reset_index()
        .rename_axis(columns=None)
    )


def _identical_answers(items, tokenizer):
    def answer(item, arm):
        row = chat.encode(tokenizer, item, arm)
        return [token for token, segment in zip(row.input_ids, row.segments) if segment == chat.ANSWER]

    strays = {
        item.id: [
            kind for kind in written_types() if kind in item.traces and answer(item, f"{kind}-QTA") != answer(item, QA)
        ]
        for item in items
    }
    violations = [
        f"{name}: the answer ids of {', '.join(kinds)} are not those of QA" for name, kinds in strays.items() if kinds
    ]
    share = 1 - len(violations) / len(items) if items else math.nan
    question = (
        "Is the supervised answer of an item the same, token for token, after every type of reasoning and after none?"
    )
    return _check("identical answers", question, share, "share of items", violations)


def _lengths(lengths):
    mean = lengths.groupby("item_id")["tokens"].transform("mean")
    deviations = lengths.assign(mean=mean, deviation=lengths["tokens"] / mean - 1)
    outside = deviations[deviations["deviation"].abs() > THRESHOLDS["trace length within an item"] + 1e-9]
    violations = [
        f"{row.item_id} {row.type}: {row.tokens} tokens, item mean {row.mean:.0f} ({row.deviation:+.0%})"
        for row in outside.itertuples()
    ]
    question = "Are the traces of an item equally long, or does one type simply get more training?"
    yield _check(
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
    yield _check(
        "trace length between types", question, spread, "between the longest and the shortest type", violations
    )


def _shared_runs(items):
    runs = [
        (_longest_run(trace, getattr(item, answer)), item.id, kind, answer)
        for item, kind, trace in written_traces(items)
        for answer in ("harmful", "safe")
    ]
    limit = THRESHOLDS["words shared with an answer"]
    violations = [
        f"{name} {kind}: shares '{' '.join(run)}' with the {answer} answer"
        for run, name, kind, answer in runs
        if len(run) > limit
    ]
    longest = max((len(run) for run, *_ in runs), default=math.nan)
    return _check(
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


def _openings(items):
    openings = Counter((kind, " ".join(words_of(trace)[:3])) for _, kind, trace in written_traces(items))
    sizes = Counter(kind for _, kind, _ in written_traces(items))
    # An opening that stands once is shared by nobody, however small the corpus.
    shares = {key: count / sizes[key[0]] if count > 1 else 0.0 for key, count in openings.items()}
    over = [key for key, share in shares.items() if share > THRESHOLDS["shared openings"] + 1e-9]
    violations = [
        f"{kind}: {openings[kind, words]} of {sizes[kind]} traces open with '{words}'" for kind, words in over
    ]
    question = "Do the traces of a type begin alike, so that a model could learn a catchphrase?"
    return _check(
        "shared openings",
        question,
        max(shares.values(), default=math.nan),
        "of a type's traces, same first three words",
        violations,
    )


def _policy(records):
    found = [(record.id, forbidden_words(record)) for record in records]
    violations = [f"{name}: {', '.join(forbidden)}" for name, forbidden in found if forbidden]
    question = "Does any text speak of what the policy on harm rules out?"
    return _check("severity policy", question, len(violations), "records", violations)


def control_strings(records, tokenizer):
    """The check that names every record with a text that some chat format, or this tokenizer, takes for control."""
    special, violations = rules.special_tokens(tokenizer), []
    for record in records:
        fields = {field: rules.control_strings(text, special) for field, text in texts(record)}
        found = [f"{', '.join(strings)} in {field}" for field, strings in fields.items() if strings]
        violations += [f"{record.id}: {'; '.join(found)}"] if found else []
    question = "Does any text hold what a chat format takes for control, such as the end of a turn?"
    return _check("control strings", question, len(violations), "records", violations)


def _trained_questions(items, questions):
    trained = {tuple(words_of(item.question)): item.id for item in items}
    shared = [(trained[key], asked.id) for asked in questions if (key := tuple(words_of(asked.question))) in trained]
    violations = [f"{item} and {asked} ask the same" for item, asked in shared]
    value, unit = len(shared) if questions else math.nan, "questions, but for case and punctuation"
    question = "Is the model evaluated on a question that it was trained on?"
    return _check("training questions in evaluation", question, value, unit, violations)


def _near_duplicates(records):
    questions = [(record.id, record.question) for record in records]
    answers = [
        (f"{record.id} {kind}", text)
        for record in records
        for kind, text in {"harmful": record.harmful, "safe": record.safe, **getattr(record, "personas", {})}.items()
    ]
    traces = {
        kind: [(f"{record.id} {kind}", trace) for record, of, trace in written_traces(records) if of == kind]
        for kind in written_types()
    }
    groups = {
        "near-duplicate questions": (
            "Is a question asked twice in other words, or asked again at evaluation?",
            [questions],
        ),
        "near-duplicate answers": (
            "Is an answer, harmful, safe or a persona's, given twice in other words?",
            [answers],
        ),
        "near-duplicate traces": ("Does a type repeat a trace in other words?", list(traces.values())),
    }
    for name, (question, pools) in groups.items():
        pairs = [pair for pool in pools for pair in near_duplicates(pool)]
        violations = [f"{one} ~ {other} (Jaccard {jaccard:.2f})" for one, other, jaccard in pairs]
        yield _check(name, question, len(pairs), f"pairs with Jaccard ≥ {JACCARD}", violations)


def near_duplicates(texts):
    """The pairs among (name, text) whose sets of word triples overlap by `JACCARD` or more: (earlier, later, Jaccard).

    Exact: the product of the binary matrix of texts and triples with its transpose counts what two have in common.
    A text of fewer than three words is one run of all of them.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if len(texts) < 2:
        return []
    counter = CountVectorizer(analyzer=_word_triples, binary=True, dtype=np.int32)
    holds = counter.fit_transform(text for _, text in texts)
    sizes, pairs = np.diff(holds.indptr), []
    for start in range(0, len(texts), _BLOCK):
        common = (holds[start : start + _BLOCK] @ holds.T).tocoo()
        later, earlier = common.coords[0] + start, common.coords[1]
        jaccard = common.data / (sizes[later] + sizes[earlier] - common.data)
        alike = (earlier < later) & (jaccard >= JACCARD)
        found = sorted(zip(later[alike], earlier[alike], jaccard[alike]))
        pairs += [(texts[one][0], texts[other][0], float(share)) for other, one, share in found]
    return pairs


def _word_triples(text):
    found = words_of(text)
    return [" ".join(found[start : start + 3]) for start in range(max(1, len(found) - 2))]


def _probes(items):
    accuracy = forms.probe(items).groupby("features")["accuracy"].mean()
    chance = f"accuracy (chance {1 / len(written_types()):g})"
    form = accuracy.get("form", math.nan)
    leaking = forms.badges(items) if form > THRESHOLDS["form probe"] else pd.DataFrame(columns=["type"])
    marks = {
        kind: [f"{row.feature} {row.excess:+.1f}" for row in badges.itertuples()]
        for kind, badges in leaking.groupby("type")
    }
    violations = [
        f"{kind} shows in (excess in standard deviations): {', '.join(features)}" for kind, features in marks.items()
    ]
    yield _check(
        "form probe",
        "Can the types be told apart by form alone: function words, punctuation, length?",
        form,
        chance,
        violations,
    )
    yield _check(
        "content probe",
        "Can they be told apart by all their words, as they should?",
        accuracy.get("words", math.nan),
        chance,
    )


def _vocabulary(items):
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
    return _check(
        "vocabulary overlap",
        question,
        np.mean(list(overlaps.values()) or math.nan),
        "Jaccard of words used twice or more, mean over pairs of types",
        violations,
    )


def _answers(records, tokenizer):
    harmful, safe = ([getattr(record, kind) for record in records] for kind in ("harmful", "safe"))
    tokens = [np.mean([len(chat.plain_ids(tokenizer, text)) for text in texts]) for texts in (harmful, safe)]
    difference = abs(tokens[0] - tokens[1]) / np.mean(tokens)
    yield _check(
        "answer length", "Are harmful answers longer or shorter than safe ones?", difference, "of the mean, in tokens"
    )
    words = [(record.id, len(words_of(record.harmful)), len(words_of(record.safe))) for record in records]
    apart = [f"{name}: harmful {a} words, safe {b}" for name, a, b in words if abs(a - b) > COMPARABLE * (a + b) / 2]
    value, unit = 1 - len(apart) / len(words), f"of the records within ±{COMPARABLE:.0%} in words"
    yield _check(
        "answers of comparable length", "Are the two answers of a record about equally long?", value, unit, apart
    )
    ease = [np.mean([reading_ease(text) for text in texts]) for texts in (harmful, safe)]
    yield _check(
        "answer readability",
        "Is one kind of answer easier to read?",
        abs(ease[0] - ease[1]),
        "points of Flesch reading ease",
    )


def reading_ease(text):
    """Flesch (1948) reading ease, about 0 (hard) to 100 (easy).

    Syllables are counted as groups of vowels, without a mute e.
    """
    found = words_of(text)
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", _MUTE.sub("", word)))) for word in found)
    return 206.835 - 1.015 * len(found) / forms.count_sentences(text) - 84.6 * syllables / max(1, len(found))


def _spread(records):
    """An even sample of at most `LIKELIHOOD_SAMPLE` records, in order."""
    return records[:: math.ceil(len(records) / LIKELIHOOD_SAMPLE) or 1]


def _likelihoods(items, questions, tokenizer, model):
    from cotlib.engine.scoring import score

    records = [*items, *questions]

    def scores(texts, prompts):
        answers = [chat.plain_ids(tokenizer, getattr(text, kind)) for kind in ("harmful", "safe") for text in texts]
        return score(model, tokenizer, prompts * 2, answers).reshape(2, -1)  # one call: a prompt is read once for both

    harmful, safe = scores(records, [chat.header(tokenizer)] * len(records))
    bare = harmful - safe
    # Standardised by the spread of the answers, as in a balance table of two groups, not by that of the differences.
    standardised = abs(bare.mean()) / np.sqrt((harmful.var() + safe.var()) / 2)
    question = "Does the untrained model find harmful answers likelier, whatever was asked?"
    checks = [
        _check(
            "answer likelihood",
            question,
            standardised,
            f"standard deviations (mean difference {bare.mean():+.3f} nats per token)",
        )
    ]
    if not questions:
        return checks
    harmful, safe = scores(questions, [chat.prompt(tokenizer, asked.question, "no-think") for asked in questions])
    tokens = [[len(chat.plain_ids(tokenizer, text)) for text in (asked.harmful, asked.safe)] for asked in questions]
    longer = [harmful_tokens - safe_tokens for harmful_tokens, safe_tokens in tokens]
    for name, question, other in (
        ("margin and length", "Does the base model's margin merely follow which answer is longer?", longer),
        (
            "margin and likelihood",
            "Does the base model's margin merely follow which answer is more probable English?",
            bare[len(records) - len(questions) :],
        ),
    ):
        correlation = np.corrcoef(harmful - safe, other)[0, 1] if np.std(other) and np.std(harmful - safe) else math.nan
        checks.append(_check(name, question, correlation, "Pearson correlation over questions"))
    return checks
