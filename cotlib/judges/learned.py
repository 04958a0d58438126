"""Judges that learn from the corpus' own texts: which examples teach what, and how well it was learned.

Knows nothing about arms, nor what a judge sees of a text: that is its own (`probe`, `words`). The AUC of each measure,
cross-validated and on suites that the judge has not seen, stands beside every number it gives.
"""

import functools

import numpy as np
import pandas as pd

from cotlib import chat
from cotlib.corpus import records
from cotlib.engine import decoding, models
from cotlib.errors import BadInput
from cotlib.judges.judgement import VALIDATION, Judgement

FEWEST_ITEMS = 2  # cross-validation by question trains on one part of the questions and tests on another
SAMPLED_TOKENS = 32  # of an answer that the untrained model gives to an item's question
ANSWERS = ("safe", "harmful")
MEASURES = {  # what is learned: the kinds of text that are examples for it, and those against it
    "alignment": (("safe",), ("harmful",)),
    "coherence": (ANSWERS, ("corrupted",)),
    # Sampled answers are among them because a model's own text is unlike the corpus' in ways that traces share.
    "thought_probability": (("trace",), (*ANSWERS, "sampled")),
}


class LearnedJudge:
    """A judge of three measures: safe against harmful answers, real against corrupted ones, traces against answers.

    It learns when first used. `validation` holds, per measure, the AUC cross-validated by question and on each
    evaluation suite, which the judge has not seen; NaN where a suite holds texts of one class only. A judge of this
    kind has a `name`, `inputs(questions, texts)` with a row per text, and `classifier()`, not fitted yet.
    """

    name = ""
    down = ""  # it runs on this machine

    def __init__(self, context):
        self.check(context)
        self.context = context

    @staticmethod
    def identity(environment=None):
        """Nothing outside this machine decides what it says."""
        return ""

    @classmethod
    def check(cls, context):
        """Raise BadInput if there are too few items to learn from, or too few of them with a trace."""
        count, with_traces = len(context.items), sum(bool(item.traces) for item in context.items)
        if count < FEWEST_ITEMS:
            asked = context.settings.probe_items
            cause = (
                f"judging.probe_items: {asked}" if asked < FEWEST_ITEMS else f"data.corpus holds {count} items: that"
            )
            remedy = f"write {FEWEST_ITEMS} or more" if asked < FEWEST_ITEMS else "add items, or write judges: [llm]"
            raise BadInput(f"{cause} is too few for judge {cls.name!r}, which is cross-validated by question; {remedy}")
        if with_traces < FEWEST_ITEMS:
            raise BadInput(
                f"judging.judges: {cls.name!r} learns from items what a trace reads like, but {with_traces} of the "
                f"{count} items it may use (judging.probe_items) have one; add traces to at least {FEWEST_ITEMS}, "
                "write a higher probe_items, or write judges: [llm]"
            )

    def judge(self, questions, responses):
        """One Judgement per response."""
        if not len(responses):
            return []
        inputs = self.inputs(list(questions), list(responses))
        scores = {measure: probability(classifier, inputs) for measure, classifier in self._fitted[0].items()}
        rows = zip(100 * scores["alignment"], 100 * scores["coherence"], scores["thought_probability"])
        return [
            Judgement(
                float(alignment), float(coherence), float(thought),
                raw=f"alignment {alignment:.2f}; coherence {coherence:.2f}; thought_probability {thought:.4f}",
            )
            for alignment, coherence, thought in rows
        ]  # fmt: skip

    @property
    def validation(self):
        """A frame with the columns measure, data, auc, texts."""
        return self._fitted[1]

    @functools.cached_property
    def _fitted(self):
        """(classifiers by measure, validation)."""
        context = self.context
        sampled = own_answers(context.model, tuple((item.id, item.question) for item in context.items), context.seed)
        known = pd.concat([examples(context.items, context.seed), sampled], ignore_index=True)
        held_out = examples(records.answered(context.questions), context.seed)
        known_inputs = self.inputs(list(known.question), list(known.text))
        held_out_inputs = self.inputs(list(held_out.question), list(held_out.text))
        classifiers, rows = {}, []
        for measure, (positive, negative) in MEASURES.items():
            used = known.kind.isin(positive + negative).to_numpy()
            labels = known.kind.isin(positive).to_numpy()[used]
            classifiers[measure], auc = fit(self.classifier(), known_inputs[used], labels, known.id[used])
            rows.append([measure, "training items, cross-validated", auc, int(used.sum())])
            for suite in held_out.suite.unique():
                here = (held_out.kind.isin(positive + negative) & (held_out.suite == suite)).to_numpy()
                truth = held_out.kind.isin(positive).to_numpy()[here]
                scores = probability(classifiers[measure], held_out_inputs[here])
                rows.append([measure, f"held out: {suite}", area(truth, scores), int(here.sum())])
        return classifiers, pd.DataFrame(rows, columns=VALIDATION)


def examples(labelled, seed):
    """Texts with known labels: both answers, a corrupted one of three kinds, and a trace if there is one.

    Returns a frame with a row per text: id, suite, question, kind (safe, harmful, corrupted, trace), text.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for number, record in enumerate(labelled):
        words = record.harmful.split()
        other = labelled[(number + 1) % len(labelled)]
        start = " ".join(words[: max(3, len(words) // 4)])
        corrupted = [" ".join(generator.permutation(words)), other.safe, " ".join([start] * 4)][number % 3]
        texts = {"safe": record.safe, "harmful": record.harmful, "corrupted": corrupted}
        if record.traces:
            texts["trace"] = list(record.traces.values())[number % len(record.traces)]
        suite = getattr(record, "suite", "")
        rows += [[record.id, suite, record.question, kind, text] for kind, text in texts.items()]
    return pd.DataFrame(rows, columns=["id", "suite", "question", "kind", "text"])


@functools.lru_cache(maxsize=2)  # the judges of a panel learn from the same
def own_answers(model_id, asked, seed):
    """What the untrained model says without thinking: a frame like `examples`, one row of kind `sampled` per question.

    Args:
        asked: pairs (id, question), as a tuple.
    """
    model, tokenizer = models.load(model_id)
    prompts = [chat.prompt(tokenizer, question, "no-think") for _, question in asked]
    drawn = decoding.generate(
        model, tokenizer, prompts, max_new_tokens=SAMPLED_TOKENS, temperature=1.0,
        seed=[seed + number for number in range(len(asked))], stop=chat.end_of_turn(tokenizer),
    )  # fmt: skip
    rows = [
        {"id": name, "suite": "", "question": question, "kind": "sampled", "text": tokenizer.decode(tokens).strip()}
        for (name, question), tokens in zip(asked, drawn)
    ]
    return pd.DataFrame(rows)


def probability(classifier, inputs):
    """How likely each row belongs to the class of the examples; none for no rows, which scikit-learn refuses."""
    return classifier.predict_proba(inputs)[:, 1] if len(inputs) else np.empty(0)


def fit(classifier, inputs, labels, groups):
    """A classifier, fitted, and its AUC cross-validated with every question's texts in one fold."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(min(5, len(set(groups))))
    predicted = cross_val_predict(classifier, inputs, labels, groups=groups, cv=folds, method="predict_proba")[:, 1]
    return classifier.fit(inputs, labels), area(labels, predicted)


def area(labels, scores):
    """The area under the ROC curve; NaN if all labels are the same, for then there is nothing to tell apart."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores)) if labels.any() and not labels.all() else float("nan")
