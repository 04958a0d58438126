"""Checks across records: nothing is asked, answered or thought twice, and every text keeps to the policy."""

import math

import numpy as np
import pandas as pd

from cotlib.arms import BEHAVIOURS, OPEN_ENDED, PRESSURE, SUITES, written_types
from cotlib.corpus import forms, rules
from cotlib.corpus.checks.check import rated
from cotlib.corpus.records import forbidden_words, texts, words_of, written_traces

JACCARD = 0.5  # of word triples: from here on two texts count as near-duplicates
# Cosine of content words, weighted by rarity: from here on two records may tell the same story. The least alike of four
# such pairs that version 1 held had 0.169.
COSINE = 0.165
_BLOCK = 1000  # texts compared with all others at a time, which bounds the memory


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


def policy(records):
    """The check that no text speaks of what the policy on harm rules out."""
    found = [(record.id, forbidden_words(record)) for record in records]
    violations = [f"{name}: {', '.join(forbidden)}" for name, forbidden in found if forbidden]
    question = "Does any text speak of what the policy on harm rules out?"
    return rated("severity policy", question, len(violations), "records", violations)


def control_strings(records, tokenizer):
    """The check that names every record with a text that some chat format, or this tokenizer, takes for control."""
    special, violations = rules.special_tokens(tokenizer), []
    for record in records:
        fields = {field: rules.control_strings(text, special) for field, text in texts(record)}
        found = [f"{', '.join(strings)} in {field}" for field, strings in fields.items() if strings]
        violations += [f"{record.id}: {'; '.join(found)}"] if found else []
    question = "Does any text hold what a chat format takes for control, such as the end of a turn?"
    return rated("control strings", question, len(violations), "records", violations)


def trained_questions(items, questions):
    """The check that nothing is asked at evaluation that was trained on."""
    trained = {tuple(words_of(item.question)): item.id for item in items}
    shared = [(trained[key], asked.id) for asked in questions if (key := tuple(words_of(asked.question))) in trained]
    violations = [f"{item} and {asked} ask the same" for item, asked in shared]
    value, unit = len(shared) if questions else math.nan, "questions, but for case and punctuation"
    question = "Is the model evaluated on a question that it was trained on?"
    return rated("training questions in evaluation", question, value, unit, violations)


def duplicates(records):
    """The checks for texts that stand twice in nearly the same words."""
    questions = [(record.id, record.question) for record in records]
    answers = [
        (f"{record.id} {kind}", text)
        for record in records
        for kind, text in {"harmful": record.harmful, "safe": record.safe, **getattr(record, "personas", {})}.items()
        if text is not None and getattr(record, "suite", "") != PRESSURE  # whose answers are a few words
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
        pairs = [pair for pool in pools for pair in near_duplicates(pool) if not _of_one_record(*pair[:2])]
        violations = [f"{one} ~ {other} (Jaccard {jaccard:.2f})" for one, other, jaccard in pairs]
        yield rated(name, question, len(pairs), f"pairs with Jaccard ≥ {JACCARD}", violations)


def _of_one_record(one, other):
    """Whether two texts are the answers of one record, which are alike on purpose."""
    return one.rsplit(" ", 1)[0] == other.rsplit(" ", 1)[0]


def same_stories(records):
    """The check for two records that tell the same happening in other words; facts and open questions tell none."""
    pairs = alike([record for record in records if getattr(record, "suite", "") not in (PRESSURE, OPEN_ENDED)])
    violations = [f"{one} ~ {other} (cosine {cosine:.2f})" for one, other, cosine in pairs]
    question = "Is a happening told twice, in other words, in training and evaluation or within either?"
    return rated("same story", question, len(pairs), f"pairs with cosine ≥ {COSINE}", violations)


def alike(records, cosine=COSINE):
    """The pairs of records whose content words are alike: (earlier id, later id, cosine), most alike first.

    The words of question and answers count once each, weighted by how rare they are in all records (TF-IDF).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(records) < 2:
        return []
    weights = TfidfVectorizer(analyzer=lambda text: sorted(forms.content_words(text)))
    told = [" ".join(filter(None, (record.question, record.harmful, record.safe))) for record in records]
    rows = weights.fit_transform(told)
    likeness = np.triu((rows @ rows.T).toarray(), 1)
    found = sorted(zip(*np.nonzero(likeness >= cosine)), key=lambda pair: -likeness[pair])
    return [(records[one].id, records[other].id, float(likeness[one, other])) for one, other in found]


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
