"""The form of a text (function words, punctuation, lengths; no content), and what it alone gives away.

A probe is a classifier that is trained on some records' texts and asked about others': which type a trace is of, which
type a persona's response is of, which of two answers is the harmful one. Knows nothing about thresholds; the audit has
them.
"""

import functools
import re
from collections import Counter

import numpy as np
import pandas as pd

from cotlib.arms import FREE, written_types
from cotlib.corpus import records

FOLDS = 5

# Words that carry grammar, not topic, and the ends that contractions leave ("I'd" counts as i and 'd).
_GRAMMAR = """
a an the this that these those some any no every each either neither both all another other such what which who whom
whose i me my mine myself you your yours yourself he him his she her hers it its itself we us our ours they them their
theirs themselves one someone somebody anyone anybody everyone everybody no-one nobody something anything everything
nothing none am is are was were be been being have has had having do does did doing done will would shall should can
could may might must ought 'd 'll 're 've 's 'm n't not nor and or but so yet for if unless because since as than
while whereas although though whether until till of at by with without about against between among into through during
before after above below to from up down in out on off over under within along across behind beside beyond toward
towards upon near per except despite like when where why how here there then now once again ever never always often
sometimes already still just only even also too very quite rather more most less least much many few little enough
almost perhaps maybe however therefore thus else instead anyway
"""
FUNCTION_WORDS = _GRAMMAR.split()
PUNCTUATION = [",", ".", ";", ":", "?", "!", "-", "–", "—", '"', "(", "…"]
FEATURES = [*FUNCTION_WORDS, *PUNCTUATION, "words", "sentences", "words per sentence"]
FEATURE_SETS = ("form", "words")

_GRAMMATICAL = frozenset(FUNCTION_WORDS)
_FORM_WORD = re.compile(r"no-one|[^\W_]+?(?=n't)|n't|'(?:d|ll|re|ve|s|m)\b|[^\W_]+")


def count_sentences(text):
    """How many sentences a text holds, at least one."""
    return max(1, len(re.findall(r"[.!?…]+(?=[\"')\s]|$)", text)))


def content_words(text):
    """The words of a text that carry its topic, each once: all but function words and those of up to three letters."""
    return {word for word in records.words_of(text) if word not in _GRAMMATICAL and len(word) > 3}


def features_of(text):
    """Form alone, as numbers in the order of FEATURES: function words and punctuation per 100 words, then lengths."""
    words, sentences = _FORM_WORD.findall(text.lower().replace("’", "'")), count_sentences(text)
    counts, size = Counter(words), max(1, len(words))
    rates = [100 * counts[word] / size for word in FUNCTION_WORDS] + [
        100 * text.count(mark) / size for mark in PUNCTUATION
    ]
    return [*rates, size, sentences, size / sentences]


def probe(items, register=FREE):
    """Accuracy at telling the types apart, a row per feature set and fold: register, features, fold, accuracy.

    `form` sees function words, punctuation and lengths; `words` sees all words (TF-IDF). Folds are grouped by item.
    Chance is one over the number of types. Empty with fewer items than folds, or a single type.
    """
    predictions = pd.concat([_predictions(items, features, register) for features in FEATURE_SETS])
    right = predictions.assign(accuracy=predictions["type"] == predictions["predicted"])
    means = right.groupby(["features", "fold"], as_index=False)["accuracy"].mean()
    return means.assign(register=register)[["register", "features", "fold", "accuracy"]]


def confusion(items, features="form", register=FREE):
    """What the probe takes traces of a type (rows) for (columns): shares, each row adding up to 1."""
    predictions = _predictions(items, features, register)
    shares = pd.crosstab(predictions["type"], predictions["predicted"], normalize="index")
    order = [kind for kind in written_types() if kind in shares.index]
    return shares.reindex(index=order, columns=order, fill_value=0.0)


def persona_accuracy(items, questions, register=FREE):
    """Share of personas whose type a probe names that has learned the form of the items' traces; nan without either."""
    traces = records.written_traces(items, register)
    personas = [(kind, text) for asked in questions for kind, text in asked.personas.items() if kind in written_types()]
    if len({kind for _, kind, _ in traces}) < 2 or not personas:
        return float("nan")
    fitted = _classifier("form").fit([trace for *_, trace in traces], [kind for _, kind, _ in traces])
    named = fitted.predict([text for _, text in personas])
    return float(np.mean([name == kind for name, (kind, _) in zip(named, personas)]))


def answer_choices(learned, asked=None):
    """Whether form alone says which of a record's two answers is the harmful one: 1 where it does, 0 where it says the
    other, a half where both have the same form; float array (records,).

    A probe learns from the records `learned`, from the difference of form between the two answers of each, and chooses
    for the records `asked`. Without these it chooses for `learned` themselves, cross-validated. Chance is a half. Empty
    with fewer records than folds.
    """
    differences = _answer_differences(learned)
    if len(differences) < FOLDS:
        return np.array([])
    if asked is not None:
        return _chosen(differences, _answer_differences(asked))
    from sklearn.model_selection import KFold

    right = np.empty(len(differences))
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(differences):
        right[test] = _chosen(differences[train], differences[test])
    return right


def _answer_differences(some):
    """Form of the harmful answer minus that of the safe one: float array (records, features)."""
    found = [np.subtract(features_of(record.harmful), features_of(record.safe)) for record in some]
    return np.array(found, dtype=float).reshape(len(found), len(FEATURES))


def _chosen(known, asked):
    """For each row of `asked`, whether it lies on the side of the rows of `known`: 1, 0, or a half for neither side."""
    from sklearn.linear_model import LogisticRegression

    scale = np.sqrt((known**2).mean(0))
    seen = scale > 1e-6  # else a rounding error in what was learned would be blown up in what is asked
    known, asked = (np.where(seen, rows / np.where(seen, scale, 1), 0) for rows in (known, asked))
    mirrored, labels = np.concatenate([known, -known]), np.repeat([1, 0], len(known))
    probe = LogisticRegression(C=0.01, max_iter=2000, fit_intercept=False).fit(mirrored, labels)
    side = asked @ probe.coef_[0]
    return np.where(np.abs(side) < 1e-9, 0.5, side > 0)


def badges(items, count=8):
    """What marks a type's form, most telling first: type, feature, excess.

    The excess is that of the type's mean over the mean of all traces, in standard deviations.
    """
    traces = records.written_traces(items)
    features = pd.DataFrame([features_of(trace) for *_, trace in traces], columns=FEATURES)
    standardised = (features - features.mean()) / features.std().replace(0, 1)
    excess = standardised.groupby([kind for _, kind, _ in traces]).mean()
    strongest = [(kind, row.reindex(row.abs().nlargest(count).index)) for kind, row in excess.iterrows()]
    return pd.DataFrame(
        [(kind, *pair) for kind, row in strongest for pair in row.items()], columns=["type", "feature", "excess"]
    )


def _classifier(features):
    from sklearn import feature_extraction, linear_model, pipeline, preprocessing

    if features == "words":
        steps, strength = (
            [
                feature_extraction.text.TfidfVectorizer(
                    tokenizer=records.words_of, token_pattern=None, sublinear_tf=True
                )
            ],
            10,
        )
    else:
        vectors = preprocessing.FunctionTransformer(lambda texts: np.array([features_of(text) for text in texts]))
        steps, strength = [vectors, preprocessing.StandardScaler()], 0.01
    return pipeline.make_pipeline(*steps, linear_model.LogisticRegression(C=strength, max_iter=2000))


def _predictions(items, features, register):
    traces = tuple((item.id, kind, trace) for item, kind, trace in records.written_traces(items, register))
    return _cross_validated(traces, features).copy()


@functools.lru_cache(maxsize=8)  # the audit, the probe's picture and its confusions all ask for the same folds
def _cross_validated(traces, features):
    from sklearn.model_selection import GroupKFold

    columns = ["features", "fold", "item_id", "type", "predicted"]
    names, kinds = np.array([name for name, *_ in traces]), np.array([kind for _, kind, _ in traces])
    texts = np.array([trace for *_, trace in traces], dtype=object)
    if len(set(names)) < FOLDS or len(set(kinds)) < 2:
        return pd.DataFrame(columns=columns)
    rows = []
    for fold, (train, test) in enumerate(GroupKFold(FOLDS).split(texts, kinds, names), 1):
        predicted = _classifier(features).fit(texts[train], kinds[train]).predict(texts[test])
        rows += [(features, fold, *row) for row in zip(names[test], kinds[test], predicted)]
    return pd.DataFrame(rows, columns=columns)
