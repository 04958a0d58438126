"""Whose thought is it? A reader of sampled thoughts: a logistic regression on the base model's hidden states.

Knows nothing about arms. It learns from the corpus' own traces what a thought of each written type reads like, and says
of a sampled thought how likely it is one of each. Its validation, on held-out traces of questions that it has not seen,
stands beside every number it gives. A thought that is like none of the types is given to the nearest one all the same:
what counts is the difference from the untrained model.
"""

import functools

import numpy as np
import pandas as pd

from cotlib import scores
from cotlib.arms import REGISTERS, written_types
from cotlib.corpus.records import written_traces
from cotlib.engine import models
from cotlib.judges import learned, probe
from cotlib.judges.judgement import VALIDATION

NAME = "reader"


class ThoughtReader:
    """Made from a `Context`, as judges are; learns when first used.

    It can read nothing where the items have traces of fewer than two written types.
    """

    def __init__(self, context):
        self.context = context
        traces = [trace for register in REGISTERS for trace in written_traces(context.items, register)]
        self.kinds = [kind for kind in written_types() if any(kind == other for _, other, _ in traces)]
        self._known = traces

    @property
    def able(self):
        """Whether there are types to tell apart."""
        return len(self.kinds) > 1

    def read(self, questions, thoughts):
        """How likely each thought is one of each type: float array (thoughts, types), rows sum to 1."""
        if not len(thoughts):
            return np.empty((0, len(self.kinds)))
        return self._fitted[0].predict_proba(probe.features(*self._model, questions, thoughts, mode="think"))

    def rows(self, thoughts, questions):
        """Rows of the score table: one per thought and type, without the columns of a unit.

        Args:
            thoughts: mappings with `responses.THOUGHT_COLUMNS`; questions: the records that they are about.
        """
        asked = {question.id: question.question for question in questions}
        found = self.read([asked[row["question_id"]] for row in thoughts], [row["trace"] for row in thoughts])
        kept = ("suite", "behaviour", "question_id", "sample")
        rows = [
            {name: row[name] for name in kept} | {"text": kind, "value": chance}
            for row, chances in zip(thoughts, found)
            for kind, chance in zip(self.kinds, chances)
        ]
        frame = pd.DataFrame(rows, columns=[*kept, "text", "value"])
        return scores.without_texts(frame.assign(mode="think", measure=scores.THOUGHT, judge=NAME))

    @property
    def validation(self):
        """A frame with the columns measure, data, auc, texts: each type against the others, on held-out traces."""
        return self._fitted[1]

    @functools.cached_property
    def _model(self):
        return models.load(self.context.model)

    @functools.cached_property
    def _fitted(self):
        """(classifier, validation)."""
        columns = lambda traces: ([record.question for record, *_ in traces], [trace for *_, trace in traces])
        held_out = [trace for trace in written_traces(self.context.questions) if trace[1] in self.kinds]
        inputs = probe.features(*self._model, *columns(self._known), mode="think")
        numbers = np.array([self.kinds.index(kind) for _, kind, _ in self._known])
        classifier = probe.regression().fit(inputs, numbers)
        rows = []
        if held_out:
            chances = classifier.predict_proba(probe.features(*self._model, *columns(held_out), mode="think"))
            truth = np.array([self.kinds.index(kind) for _, kind, _ in held_out])
            for number, kind in enumerate(self.kinds):
                auc = learned.area(truth == number, chances[:, number])
                rows.append([f"{scores.THOUGHT}: {kind}", "held out: in-domain", auc, len(truth)])
        return classifier, pd.DataFrame(rows, columns=VALIDATION)
