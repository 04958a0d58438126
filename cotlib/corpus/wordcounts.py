"""What counting words alone would predict of a model's voice: the rival explanation of the persona diagonal.

A model of single words (no order, no meaning) is fitted on each type's traces; how likely it finds a persona's reply is
what an arm would gain by having learnt its type's vocabulary and nothing else. Knows nothing about trained models.
"""

import collections
import itertools
import math

import pandas as pd

from cotlib.arms import FREE, studied_types, trace_key
from cotlib.corpus.records import words_of

COLUMNS = ["register", "type", "text", "question_id", "value"]


class WordCounts:
    """A unigram model: add-one counts over a fixed vocabulary.

    >>> WordCounts(["they want it"], {"they", "want", "it", "no"}).per_word("want") > \\
    ...     WordCounts(["they want it"], {"they", "want", "it", "no"}).per_word("no")
    True
    """

    def __init__(self, texts, vocabulary):
        self.counts = collections.Counter(word for text in texts for word in words_of(text))
        self.total = sum(self.counts.values()) + len(vocabulary)

    def per_word(self, text):
        """Mean log-probability of a text's words, in nats per word."""
        words = words_of(text)
        return sum(math.log((self.counts[word] + 1) / self.total) for word in words) / len(words)


def voices(items, questions, registers=(FREE,)):
    """How likely each type's word counts find each persona's reply: a frame with the columns `COLUMNS`.

    Registers and types without traces in the items, and questions without personas, have no rows.
    """
    asked = [question for question in questions if question.personas]
    replies = [text for question in asked for text in question.personas.values()]
    rows = []
    for register in registers:
        texts = {
            kind: [item.traces[key] for item in items if key in item.traces]
            for kind, key in ((kind, trace_key(kind, register)) for kind in studied_types())
        }
        vocabulary = {word for text in itertools.chain(*texts.values(), replies) for word in words_of(text)}
        for kind in (kind for kind in texts if texts[kind]):
            model = WordCounts(texts[kind], vocabulary)
            rows += [
                [register, kind, persona, question.id, model.per_word(text)]
                for question in asked
                for persona, text in question.personas.items()
            ]
    return pd.DataFrame(rows, columns=COLUMNS)
