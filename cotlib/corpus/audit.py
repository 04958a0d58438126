"""The audit of a corpus: every check of what could explain an effect in place of the reasoning, in reading order.

The comparison between types of reasoning holds only if the types differ in meaning and in nothing else: not in the
answer, not in length, not in a telltale turn of phrase. Here that is measured, on items and questions as they are
loaded. The checks stand in `checks/`, their limits in `checks/check.py`. Knows nothing about arms that were trained or
about pictures.
"""

import math

import pandas as pd

from cotlib.corpus.checks import answers, matched, questions, traces
from cotlib.corpus.checks.check import AT_LEAST
from cotlib.corpus.records import answered


def audit(items, asked, tokenizer, model=None):
    """Every check of the corpus, in reading order.

    Args:
        items: training items; traces of types other than the written ones are passed over, missing ones tolerated.
        asked: evaluation questions, possibly none.
        tokenizer: lengths in tokens are its own.
        model: an untrained model for the checks of what it finds likely, which read an even sample; without one they
            are left out.
    Returns:
        list of `check.Check`.
    """
    records, known = [*items, *asked], answered(asked)
    checks = [
        answers.identical_answers(items, tokenizer),
        answers.agreement(items, known),
        *answers.answer_forms(items, known),
        *answers.answers([*items, *known], tokenizer),
        *answers.severity(items),
        answers.facts(known, tokenizer),
        *traces.lengths(items, tokenizer),
        traces.shared_runs(items),
        traces.openings(items),
        *traces.remedies(items),
        traces.moves(items),
        *traces.manners(items),
        *traces.probes(items),
        traces.vocabulary(items),
        *matched.scaffolds(items),
        *matched.probes(items),
        *traces.personas(items, known),
        questions.policy(records),
        questions.control_strings(records, tokenizer),
        questions.trained_questions(items, asked),
        *questions.duplicates(records),
        questions.same_stories(records),
    ]
    if model is None:
        return checks
    likely = answers.likelihoods(items, known, tokenizer, model)
    return [*checks, *likely, answers.facts_known(known, tokenizer, model)]


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
