"""Checks of answers: one per item, and nothing but its meaning tells a harmful from a safe one."""

import math
import re

import numpy as np

from cotlib import chat
from cotlib.arms import LEANS_SAFE, PRESSURE, QA, REGISTERS, Arm, written_types
from cotlib.corpus import forms
from cotlib.corpus.checks.check import largest, rated, share
from cotlib.corpus.records import words_of

COMPARABLE = 0.25  # how far the word counts of two answers of a record may lie apart, relative to their mean
# Items, and as many questions: a model reads slowly, and a sample shows an imbalance of a third of a deviation.
LIKELIHOOD_SAMPLE = 60
FORM_SUITES = ("in-domain", "transfer", "values")  # whose two answers are whole sentences
AGREEING = "sycophancy"  # questions of suite `values` that ask whether the model agrees: there agreement is the matter

# A mute e at the end of a word: "take", "rates", "used", but "table", "houses", "needed".
_MUTE = re.compile(r"((?<![aeiouyl])e|(?<![aeiouylscgxzh])es|(?<![aeiouydt])ed)$")


def identical_answers(items, tokenizer):
    """The check that an item has one supervised answer, whatever stands in front of it."""

    def answer(item, arm):
        row = chat.encode(tokenizer, item, arm)
        return [token for token, segment in zip(row.input_ids, row.segments) if segment == chat.ANSWER]

    arms = [Arm("QTA", kind, register=register) for register in REGISTERS for kind in written_types()]
    strays = {
        item.id: [
            arm.trace_key for arm in arms if arm.trace_key in item.traces and answer(item, arm) != answer(item, QA)
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
    return rated("identical answers", question, share, "share of items", violations)


def answers(records, tokenizer):
    """The checks of length and ease: harmful and safe answers, compared over all records that have them."""
    if not records:
        return
    harmful, safe = ([getattr(record, kind) for record in records] for kind in ("harmful", "safe"))
    tokens = [np.mean([len(chat.plain_ids(tokenizer, text)) for text in texts]) for texts in (harmful, safe)]
    difference = abs(tokens[0] - tokens[1]) / np.mean(tokens)
    yield rated(
        "answer length", "Are harmful answers longer or shorter than safe ones?", difference, "of the mean, in tokens"
    )
    words = [(record.id, len(words_of(record.harmful)), len(words_of(record.safe))) for record in records]
    apart = [f"{name}: harmful {a} words, safe {b}" for name, a, b in words if abs(a - b) > COMPARABLE * (a + b) / 2]
    value, unit = 1 - len(apart) / len(words), f"of the records within ±{COMPARABLE:.0%} in words"
    yield rated(
        "answers of comparable length", "Are the two answers of a record about equally long?", value, unit, apart
    )
    ease = [np.mean([reading_ease(text) for text in texts]) for texts in (harmful, safe)]
    yield rated(
        "answer readability",
        "Is one kind of answer easier to read?",
        abs(ease[0] - ease[1]),
        "points of Flesch reading ease",
    )


def answer_forms(items, questions):
    """The checks of form: does a probe of function words, punctuation and lengths choose the harmful answer?"""
    groups = {"items": (items, None)}
    groups |= {suite: (items, [asked for asked in questions if asked.suite == suite]) for suite in FORM_SUITES}
    for name, (learned, asked) in groups.items():
        right = forms.answer_choices(learned, asked) if asked is None or asked else np.array([])
        unit = "accuracy (chance 0.5)"
        if len(right):
            low, high = _interval(round(right.sum()), len(right))
            unit = f"accuracy (chance 0.5; 95 % interval {low:.2f} to {high:.2f})"
        where = "of an item" if asked is None else f"of a question in {name}, by what marks those of items"
        question = f"Can the harmful answer {where} be told by form alone?"
        yield rated(f"answer form, {name}", question, right.mean() if len(right) else math.nan, unit)


def _interval(count, total):
    """The Wilson interval of a share at 95 %."""
    from scipy.stats import binomtest

    return binomtest(count, total).proportion_ci(0.95, method="wilson")


def agreement(items, questions):
    """The check that harm does not coincide with agreeing: half of the askers lean to the sensible thing."""
    groups = {"items": [item for item in items if item.asker]}
    for asked in questions:
        exempt = asked.suite == PRESSURE or (asked.suite == "values" and asked.behaviour == AGREEING)
        if asked.asker and not exempt:
            groups.setdefault(asked.suite, []).append(asked)
    shares = {
        name: share([record for record in members if record.asker == LEANS_SAFE], members)
        for name, members in groups.items()
        if members
    }
    question = "Do as many askers lean to the sensible thing as not, so that the harmful answer does not mean yes?"
    unit = "of askers from a half, in the group that is farthest from it"
    violations = [f"{name}: {value:.0%} lean to the sensible thing" for name, value in shares.items()]
    return rated("harm against agreement", question, largest(abs(value - 0.5) for value in shares.values()), unit,
                 violations)  # fmt: skip


def severity(items):
    """The checks of severity: what two readers said of each item, how far they agree, and who is coached to lie."""
    from sklearn.metrics import cohen_kappa_score

    both = [item for item in items if len(item.severity) >= 2]
    cosmetic = [item.id for item in both if 1 in item.severity]
    yield rated("cosmetic harm", "Is there an item whose harmful answer costs nobody anything, by either reader?",
                share(cosmetic, both), "of items", cosmetic)  # fmt: skip
    first, second = ([item.severity[reader] for item in both] for reader in (0, 1))
    kappa = cohen_kappa_score(first, second, labels=[1, 2, 3], weights="linear") if both else math.nan
    yield rated("agreement on severity", "Do the two readers agree on how costly the harm is?", kappa,
                "Cohen's kappa, linear weights")  # fmt: skip
    liars = [item.id for item in items if item.lies]
    value = share(liars, items) if both else math.nan
    yield rated("coached lies", "Do harmful answers teach people to lie?", value, "of items", liars)


def facts(questions, tokenizer):
    """The check that a fact's false and true answer are equally long."""
    members = [asked for asked in questions if asked.suite == PRESSURE]
    apart = {
        asked.id: abs(len(chat.plain_ids(tokenizer, asked.harmful)) - len(chat.plain_ids(tokenizer, asked.safe)))
        for asked in members
    }
    violations = [f"{name}: {count} tokens" for name, count in apart.items() if count > 1]
    question = "Are the false and the true answer to a fact equally long?"
    return rated("pressure answers", question, largest(apart.values()), "tokens apart, at worst", violations)


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


def likelihoods(items, questions, tokenizer, model):
    """What the untrained model prefers before any question, and what its margins follow, on an even sample."""
    items, questions = _spread(items), _spread(questions)
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
        rated(
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
        checks.append(rated(name, question, correlation, "Pearson correlation over questions"))
    return checks


def facts_known(questions, tokenizer, model):
    """The check that the untrained model prefers the true answer to a fact that is asked plainly."""
    from cotlib.engine.scoring import score

    members = [asked for asked in questions if asked.suite == PRESSURE]
    prompts = [chat.prompt(tokenizer, asked.question, "no-think") for asked in members]
    answers = [chat.plain_ids(tokenizer, getattr(asked, kind)) for kind in ("harmful", "safe") for asked in members]
    margins = np.subtract(*score(model, tokenizer, prompts * 2, answers).reshape(2, -1)) if members else np.array([])
    violations = [asked.id for asked, margin in zip(members, margins) if margin >= 0]
    question = "Does the untrained model know the facts that are asked under pressure?"
    value = float((margins < 0).mean()) if members else math.nan
    return rated("facts known", question, value, "of facts: true answer preferred, asked plainly", violations)
