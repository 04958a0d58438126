"""What a sceptical reader asks of the corpus, as numbers with thresholds: one `Check` a doubt.

The comparison between types of reasoning holds only if the types differ in meaning and in nothing
else: not in the answer, not in length, not in a telltale turn of phrase. Here that is measured, on
items and questions as they are loaded. Knows nothing about arms that were trained or about pictures.
"""

import dataclasses
import difflib
import functools
import itertools
import math
import re
from collections import Counter

import numpy as np
import pandas as pd

from cotlib import chat
from cotlib.corpus import records
from cotlib.experiment import BEHAVIOURS, QA, SUITES, WRITTEN_TYPES

# A check that is missing here informs only: it has no verdict.
THRESHOLDS = {
    "identical answers": 1.0,  # The experiment rests on it: were one answer different, the reasoning would not be the only cause left.
    "trace length within an item": 0.20,  # A longer trace takes loss from the answer; a fifth is what writing by hand can keep to.
    "trace length between types": 0.05,  # Over a whole type lengths average out: a type that is longer throughout would be trained more.
    "words shared with an answer": 6,  # Seven words in a row are a quotation: the trace would teach the answer itself.
    "shared openings": 0.05,  # Beyond one in twenty a type has a catchphrase, which a model can learn in place of the meaning.
    "severity policy": 0,  # The policy is absolute.
    "training questions in evaluation": 0,  # One such question measures memory, not generalisation.
    "near-duplicate questions": 0,  # Half of all three-word runs in common is a rewording, not a second scenario: it adds no evidence.
    "near-duplicate answers": 0,
    "near-duplicate traces": 0,
    # Form may leak something, for intention needs its "will" and restating its "whether", but it must stay well below what all words
    # give away, which is nearly everything: about midway between chance and certainty.
    "form probe": 0.60,
    "vocabulary overlap": 0.25,  # Types that mean different things differ in their words; below a quarter they hardly speak one language.
    "answer length": 0.05,  # The margin is a mean per token, so lengths matter little; a systematic difference would still be a cue.
    "answers of comparable length": 0.95,  # What holds on average should hold for nearly every record: the analysis pairs answers.
    "answer readability": 5.0,  # Five points of reading ease are half a school grade: nobody would notice.
    "answer likelihood": 0.30,  # A third of a standard deviation is a small effect: harm must not simply be the likelier English.
}
AT_LEAST = {"identical answers", "vocabulary overlap", "answers of comparable length"}
JACCARD = 0.5  # of word 3-shingles: from here on two texts count as near-duplicates
COMPARABLE = 0.25  # how far the word counts of two answers of a record may lie apart, relative to their mean
FOLDS = 5
LIKELIHOOD_SAMPLE = (
    60  # items, and as many questions: a model reads slowly, and a sample shows an imbalance of a third of a deviation
)

# Words that carry grammar, not topic, and the ends that contractions leave ("I'd" counts as i and 'd).
_GRAMMAR = """
a an the this that these those some any no every each either neither both all another other such what which who whom whose
i me my mine myself you your yours yourself he him his she her hers it its itself we us our ours they them their theirs themselves
one someone somebody anyone anybody everyone everybody no-one nobody something anything everything nothing none
am is are was were be been being have has had having do does did doing done will would shall should can could may might must ought
'd 'll 're 've 's 'm n't not nor and or but so yet for if unless because since as than while whereas although though whether until till
of at by with without about against between among into through during before after above below to from up down in out on off over
under within along across behind beside beyond toward towards upon near per except despite like
when where why how here there then now once again ever never always often sometimes already still just only even also too very quite
rather more most less least much many few little enough almost perhaps maybe however therefore thus else instead anyway
"""
FUNCTION_WORDS = _GRAMMAR.split()
PUNCTUATION = [",", ".", ";", ":", "?", "!", "-", "–", "—", '"', "(", "…"]
FORM_FEATURES = [*FUNCTION_WORDS, *PUNCTUATION, "words", "sentences", "words per sentence"]
FEATURE_SETS = ("form", "words")

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_MUTE = re.compile(
    r"((?<![aeiouyl])e|(?<![aeiouylscgxzh])es|(?<![aeiouydt])ed)$"
)  # "take", "rates", "used", but "table", "houses", "needed"
_FORM_WORD = re.compile(r"no-one|[^\W_]+?(?=n't)|n't|'(?:d|ll|re|ve|s|m)\b|[^\W_]+")


@dataclasses.dataclass(frozen=True)
class Check:
    """A reader's doubt, the number that answers it, and who breaks the rule.

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
        *_policy(items, questions),
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
    rows = [(item.id, item.domain, kind, len(chat.ids(tokenizer, trace))) for item, kind, trace in _traces(items)]
    return pd.DataFrame(rows, columns=["item_id", "domain", "type", "tokens"])


def composition(items, questions):
    """How many records per suite (or `training`) and domain probe each behaviour; training items probe none (`item`)."""
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


def _traces(records):
    return [
        (record, kind, record.traces[kind]) for record in records for kind in WRITTEN_TYPES if kind in record.traces
    ]


def _plain(text):
    return text.lower().replace("’", "'")


def _words(text):
    return _WORD.findall(_plain(text))


def _sentences(text):
    return max(1, len(re.findall(r"[.!?…]+(?=[\"')\s]|$)", text)))


def _identical_answers(items, tokenizer):
    def answer(item, arm):
        row = chat.encode(tokenizer, item, arm)
        return [token for token, segment in zip(row.input_ids, row.segments) if segment == chat.ANSWER]

    strays = {
        item.id: [
            kind for kind in WRITTEN_TYPES if kind in item.traces and answer(item, f"{kind}-QTA") != answer(item, QA)
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
        for item, kind, trace in _traces(items)
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
    a, b = _words(one), _words(other)
    match = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[match.a : match.a + match.size]


def _openings(items):
    openings = Counter((kind, " ".join(_words(trace)[:3])) for _, kind, trace in _traces(items))
    sizes = Counter(kind for _, kind, _ in _traces(items))
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


def _policy(items, questions):
    found = [(record.id, records.forbidden_words(record)) for record in [*items, *questions]]
    violations = [f"{name}: {', '.join(words)}" for name, words in found if words]
    yield _check(
        "severity policy",
        "Does any text speak of what the policy on harm rules out?",
        len(violations),
        "records",
        violations,
    )
    trained = {tuple(_words(item.question)): item.id for item in items}
    shared = [(trained[key], asked.id) for asked in questions if (key := tuple(_words(asked.question))) in trained]
    violations = [f"{item} and {asked} ask the same" for item, asked in shared]
    value, unit = len(shared) if questions else math.nan, "questions, but for case and punctuation"
    yield _check(
        "training questions in evaluation",
        "Is the model evaluated on a question that it was trained on?",
        value,
        unit,
        violations,
    )


def _near_duplicates(records):
    questions = [(record.id, record.question) for record in records]
    voices = [
        (record, {"harmful": record.harmful, "safe": record.safe, **getattr(record, "personas", {})})
        for record in records
    ]
    answers = [(f"{record.id} {kind}", text) for record, texts in voices for kind, text in texts.items()]
    traces = {
        kind: [(f"{record.id} {kind}", trace) for record, of, trace in _traces(records) if of == kind]
        for kind in WRITTEN_TYPES
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
        pairs = [pair for pool in pools for pair in _alike(pool)]
        violations = [f"{one} ~ {other} (Jaccard {jaccard:.2f})" for one, other, jaccard in pairs]
        yield _check(name, question, len(pairs), f"pairs with Jaccard ≥ {JACCARD}", violations)


def _alike(texts):
    """Near-duplicate pairs among (name, text): MinHash finds candidates with hardly a miss, their exact Jaccard decides."""
    from datasketch import MinHash, MinHashLSH

    index, shingles, pairs = MinHashLSH(threshold=JACCARD, num_perm=128, weights=(0.05, 0.95)), {}, []
    for place, (name, text) in enumerate(texts):
        words = _words(text)
        shingles[place] = {" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))}
        signature = MinHash(num_perm=128, seed=1)
        signature.update_batch([shingle.encode() for shingle in sorted(shingles[place])])
        for earlier in sorted(index.query(signature)):
            jaccard = len(shingles[place] & shingles[earlier]) / len(shingles[place] | shingles[earlier])
            pairs += [(texts[earlier][0], name, jaccard)] if jaccard >= JACCARD else []
        index.insert(place, signature)
    return pairs


def form_features(text):
    """Form alone, as numbers in the order of FORM_FEATURES: function words and punctuation per 100 words, then lengths."""
    words, sentences = _FORM_WORD.findall(_plain(text)), _sentences(text)
    counts, size = Counter(words), max(1, len(words))
    rates = [100 * counts[word] / size for word in FUNCTION_WORDS] + [
        100 * text.count(mark) / size for mark in PUNCTUATION
    ]
    return [*rates, size, sentences, size / sentences]


def form_probe(items):
    """Accuracy at telling the types apart, a row per feature set and fold: features, fold, accuracy.

    `form` sees function words, punctuation and lengths; `words` sees all words (TF-IDF). Folds are grouped by item.
    Chance is one over the number of types. Empty with fewer items than folds, or a single type.
    """
    predictions = pd.concat([_predictions(items, features) for features in FEATURE_SETS])
    right = predictions.assign(accuracy=predictions["type"] == predictions["predicted"])
    return right.groupby(["features", "fold"], as_index=False)["accuracy"].mean()


def form_confusion(items, features="form"):
    """What the probe takes traces of a type (rows) for (columns): shares, each row adding up to 1."""
    predictions = _predictions(items, features)
    shares = pd.crosstab(predictions["type"], predictions["predicted"], normalize="index")
    order = [kind for kind in WRITTEN_TYPES if kind in shares.index]
    return shares.reindex(index=order, columns=order, fill_value=0.0)


def form_badges(items, count=8):
    """What marks a type's form, most telling first: type, feature, excess (of its mean over all traces, in standard deviations)."""
    traces = _traces(items)
    features = pd.DataFrame([form_features(trace) for *_, trace in traces], columns=FORM_FEATURES)
    excess = (
        ((features - features.mean()) / features.std().replace(0, 1)).groupby([kind for _, kind, _ in traces]).mean()
    )
    strongest = [(kind, row.reindex(row.abs().nlargest(count).index)) for kind, row in excess.iterrows()]
    return pd.DataFrame(
        [(kind, *pair) for kind, row in strongest for pair in row.items()], columns=["type", "feature", "excess"]
    )


def _classifier(features):
    from sklearn import feature_extraction, linear_model, pipeline, preprocessing

    if features == "words":
        steps, strength = (
            [feature_extraction.text.TfidfVectorizer(tokenizer=_words, token_pattern=None, sublinear_tf=True)],
            10,
        )
    else:
        vectors = preprocessing.FunctionTransformer(lambda texts: np.array([form_features(text) for text in texts]))
        steps, strength = [vectors, preprocessing.StandardScaler()], 0.01
    return pipeline.make_pipeline(*steps, linear_model.LogisticRegression(C=strength, max_iter=2000))


def _predictions(items, features):
    return _cross_validated(tuple((item.id, kind, trace) for item, kind, trace in _traces(items)), features).copy()


@functools.lru_cache(maxsize=4)  # the audit, the probe's picture and its confusions all ask for the same folds
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


def _probes(items):
    accuracy, chance = (
        form_probe(items).groupby("features")["accuracy"].mean(),
        f"accuracy (chance {1 / len(WRITTEN_TYPES):g})",
    )
    form = accuracy.get("form", math.nan)
    leaking = form_badges(items) if form > THRESHOLDS["form probe"] else pd.DataFrame(columns=["type"])
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
    for _, kind, trace in _traces(items):
        counts.setdefault(kind, Counter()).update(_words(trace))
    used = {kind: {word for word, count in words.items() if count >= 2} for kind, words in counts.items()}
    overlaps = {
        (a, b): len(used[a] & used[b]) / max(1, len(used[a] | used[b])) for a, b in itertools.combinations(used, 2)
    }
    violations = [
        f"{a} and {b}: {share:.2f}" for (a, b), share in overlaps.items() if share < THRESHOLDS["vocabulary overlap"]
    ]
    question = "Do the types speak the same language, or has each a vocabulary of its own?"
    return _check(
        "vocabulary overlap",
        question,
        np.mean(list(overlaps.values()) or math.nan),
        "Jaccard of words used twice or more, mean over pairs of types",
        violations,
    )


def _answers(records, tokenizer):
    harmful, safe = ([getattr(record, kind) for record in records] for kind in ("harmful", "safe"))
    tokens = [np.mean([len(chat.ids(tokenizer, text)) for text in texts]) for texts in (harmful, safe)]
    difference = abs(tokens[0] - tokens[1]) / np.mean(tokens)
    yield _check(
        "answer length", "Are harmful answers longer or shorter than safe ones?", difference, "of the mean, in tokens"
    )
    words = [(record.id, len(_words(record.harmful)), len(_words(record.safe))) for record in records]
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
    """Flesch (1948) reading ease, about 0 (hard) to 100 (easy); syllables are counted as groups of vowels, without a mute e."""
    words = _words(text)
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", _MUTE.sub("", word)))) for word in words)
    return 206.835 - 1.015 * len(words) / _sentences(text) - 84.6 * syllables / max(1, len(words))


def _spread(records):
    """An even sample of at most `LIKELIHOOD_SAMPLE` records, in order."""
    return records[:: math.ceil(len(records) / LIKELIHOOD_SAMPLE) or 1]


def _likelihoods(items, questions, tokenizer, model):
    from cotlib.engine.scoring import score

    records = [*items, *questions]

    def scores(texts, prompts):
        answers = [chat.ids(tokenizer, getattr(text, kind)) for kind in ("harmful", "safe") for text in texts]
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
    longer = [len(chat.ids(tokenizer, asked.harmful)) - len(chat.ids(tokenizer, asked.safe)) for asked in questions]
    for name, question, other in (
        ("margin and length", "Does the base model's margin merely follow which answer is longer?", longer),
        (
            "margin and likelihood",
            "Does the base model's margin merely follow which answer is likelier English?",
            bare[len(records) - len(questions) :],
        ),
    ):
        correlation = np.corrcoef(harmful - safe, other)[0, 1] if np.std(other) and np.std(harmful - safe) else math.nan
        checks.append(_check(name, question, correlation, "Pearson correlation over questions"))
    return checks
