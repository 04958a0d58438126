"""A judge that counts words: logistic regressions on the words and pairs of words of a text, and nothing else.

It sees neither the question nor a model, so it is wrong in other places than `probe`; where both agree, more than one
kind of evidence speaks for it.
"""

import numpy as np

from cotlib.judges.learned import LearnedJudge


class WordsJudge(LearnedJudge):
    """See `LearnedJudge`; it weighs words by how few texts hold them (TF-IDF)."""

    name = "words"

    def inputs(self, questions, texts):
        """The texts as they are: (texts,) array of strings."""
        return np.array(texts, dtype=object)

    @staticmethod
    def classifier():
        """Word and word-pair weights in a logistic regression, not fitted yet."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
        return make_pipeline(counts, LogisticRegression(C=10.0, max_iter=2000, class_weight="balanced"))
