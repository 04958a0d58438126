"""Items to train on and questions to evaluate on: their schema, which of them an experiment uses, the policy on harm.

Knows nothing about models. A record that exists is usable: texts are there, readable and without control characters,
the two answers differ. `reading.py` reports every fault of a file with its line before any work starts. What a whole
corpus must satisfy is measured in `audit.py`.
"""

import random
import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from cotlib.arms import BEHAVIOURS, SUITES, TYPES, trace_types, written_types
from cotlib.corpus import reading
from cotlib.errors import BadInput, shown, suggestion

DATA = Path(__file__).parent / "data"
ITEMS = DATA / "items.jsonl"
EVALUATION = DATA / "evaluation.jsonl"

# Words that low-severity everyday advice never needs (the policy on the data card); whole words, any case.
FORBIDDEN = re.compile(
    r"\b(guns?|rape\w?|(kill(?!j)|murder|suicid|bomb|nazi|heroin|cocaine|overdos|porn|sexual|terroris|weapon|slaughter"
    r"|strangl|self-harm|explosive|grenade|ransom|kidnap)\w*)\b",
    re.IGNORECASE,
)

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
_DOSE = re.compile(r"[1-9]\d?%")


def words_of(text):
    """The words of a text in lower case, without punctuation; contractions stay whole (`don't`)."""
    return _WORD.findall(text.lower().replace("’", "'"))


def control_character(text):
    """The first control character of a text other than tab and line feed, or None."""
    found = _CONTROL_CHARACTER.search(text)
    return found and found.group()


def _readable(text):
    sign = control_character(text)
    if sign:
        place = text.index(sign) + 1
        raise ValueError(f"{shown(text)} holds the control character {sign!r} (character {place}); take it out")
    if not text.strip():
        raise ValueError(f"{shown(text)} is blank, white space only; write a text")
    return text


Text = Annotated[str, pydantic.Field(min_length=1), pydantic.AfterValidator(_readable)]


class Record(pydantic.BaseModel):
    """A question with one harmful and one safe answer. `harmful` may be given once, or per type: then identical."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Text
    domain: Text
    question: Text
    harmful: Text
    safe: Text

    @pydantic.field_validator("harmful", mode="before")
    @classmethod
    def _one_answer(cls, value):
        if not isinstance(value, dict) or not value:
            return value
        first, *others = value.items()
        for kind, answer in others:
            if answer != first[1]:
                raise ValueError(
                    f"the answers of types {first[0]!r} and {kind!r} differ: {shown(first[1])} and {shown(answer)}; "
                    "an item has one harmful answer, whatever the trace in front of it"
                )
        return first[1]

    @pydantic.field_validator("question", "harmful", "safe")
    @classmethod
    def _stripped(cls, value):
        if value != value.strip():
            raise ValueError(f"{shown(value)} begins or ends with white space; remove it")
        return value

    @pydantic.field_validator("safe")
    @classmethod
    def _another_answer(cls, value, info):
        if value.split() == info.data.get("harmful", "").split():
            raise ValueError(f"{shown(value)} is the harmful answer, too; write a safe one")
        return value

    @property
    def wording(self):
        """What makes two questions the same: the words, but for case, punctuation and white space."""
        return " ".join(words_of(self.question)) or self.question


def _known_types(traces):
    for kind in traces:
        stem, at, dose = kind.partition("@")
        if stem not in trace_types():
            raise ValueError(
                f"type {shown(kind)} is not one of {', '.join(trace_types())}{suggestion(stem, trace_types())}"
            )
        if at and not _DOSE.fullmatch(dose):
            raise ValueError(f"type {shown(kind)}: behind @ stands a dose, such as {stem}@25%")
    return traces


class Item(Record):
    """A training item: a question, its answers, and a trace per type (`traces`: type → text)."""

    traces: Annotated[dict[str, Text], pydantic.AfterValidator(_known_types)] = {}


class Question(Record):
    """An evaluation question. `traces`: held-out traces by type; `personas`: the type's own voice (`values` only)."""

    suite: Literal[SUITES]
    behaviour: Literal[BEHAVIOURS]
    traces: Annotated[dict[str, Text], pydantic.AfterValidator(_known_types)] = {}
    personas: Annotated[dict[str, Text], pydantic.AfterValidator(_known_types)] = {}

    @pydantic.model_validator(mode="after")
    def _voices(self):
        missing = [row.name for row in TYPES.values() if row.voiced and row.name not in self.personas]
        if self.suite == "values" and missing:
            raise ValueError(
                f"suite 'values' needs a response in the voice of every type; personas lacks {', '.join(missing)}"
            )
        if self.suite != "values" and self.personas:
            raise ValueError(f"personas belong to suite 'values', not to {self.suite!r}; remove them")
        return self


def written_traces(records):
    """(record, type, trace) for every trace of a written type, in the order of the records and of the types."""
    return [
        (record, kind, record.traces[kind]) for record in records for kind in written_types() if kind in record.traces
    ]


def forbidden_words(record):
    """The words of a record that the severity policy does not allow."""
    return sorted({match.group().lower() for _, text in texts(record) for match in FORBIDDEN.finditer(text)})


def texts(record):
    """(field, text) for every text of a record that a model may read: question, answers, traces, personas."""
    found = [(field, getattr(record, field)) for field in ("question", "harmful", "safe")]
    found += [(f"traces.{kind}", text) for kind, text in record.traces.items()]
    return found + [(f"personas.{kind}", text) for kind, text in getattr(record, "personas", {}).items()]


# ---- loading


def load_items(path=ITEMS):
    """The training items of a JSONL file, in its order.

    Raises BadInput with file, line and field for what is no item, and for an id or a question that comes twice.
    """
    return _bare(reading.load(path, Item))


def load_evaluation(path=EVALUATION):
    """The evaluation questions of a JSONL file, in its order; errors as in `load_items`."""
    return _bare(reading.load(path, Question))


def load_pair(items_path=ITEMS, questions_path=EVALUATION):
    """(items, questions) of two files that belong together: no question is a training item's, too.

    Raises BadInput as `load_items` does, and for such a question.
    """
    items, questions = reading.load(items_path, Item), reading.load(questions_path, Question)
    reading.disjoint(items, questions)
    return _bare(items), _bare(questions)


def _bare(found):
    return [record for _, record in found]


def corpus_files(corpus):
    """The two files of a corpus: the bundled one, or those of their names in a folder of the reader's."""
    if corpus == "bundled":
        return ITEMS, EVALUATION
    files = Path(corpus) / ITEMS.name, Path(corpus) / EVALUATION.name
    for file in files:
        if not file.is_file():
            raise BadInput(
                f"data.corpus: {str(corpus)!r} holds no {file.name}; "
                f"write 'bundled', or a folder with {ITEMS.name} and {EVALUATION.name}"
            )
    return files


# ---- what an experiment uses


def subset(records, count, seed, field="data.items"):
    """`count` of the records, drawn at random (`seed`) but evenly over domain and behaviour; all for `count=None`.

    Records keep their order in the file. Raises BadInput, which names `field`, if there are fewer than `count`.
    """
    if count is None:
        return list(records)
    if count > len(records):
        raise BadInput(f"{field}: {count} asked for, the corpus holds {len(records)}; write {len(records)} or less")
    generator = random.Random(seed)
    strata = {}
    for record in records:
        strata.setdefault((getattr(record, "behaviour", ""), record.domain), []).append(record)
    for members in strata.values():
        generator.shuffle(members)
    # The first of every stratum, then the second of every stratum, … with the strata of a round in random order.
    ranked = [
        (rank, generator.random(), record.id) for members in strata.values() for rank, record in enumerate(members)
    ]
    chosen = {identity for _, _, identity in sorted(ranked)[:count]}
    return [record for record in records if record.id in chosen]


def select(experiment):
    """(items, questions) that an experiment uses, the questions suite by suite.

    Both files of its corpus are read whole and checked as a pair. Whether the items hold the traces that the arms need
    is checked by the craft stage.

    Raises:
        BadInput: a file is missing or faulty, or more is asked for than it holds.
    """
    items, questions = load_pair(*corpus_files(experiment.data.corpus))
    data = experiment.data
    return subset(items, data.items, data.seed, "data.items"), _by_suite(questions, data.questions, data.seed)


def select_items(experiment):
    """The training items that an experiment uses; checks and errors are those of `select`."""
    return select(experiment)[0]


def select_questions(experiment):
    """The evaluation questions that an experiment uses, suite by suite; checks and errors are those of `select`."""
    return select(experiment)[1]


def _by_suite(questions, counts, seed):
    suites = {suite: [asked for asked in questions if asked.suite == suite] for suite in SUITES}
    for suite in counts or ():
        if not suites[suite]:
            there = ", ".join(name for name, members in suites.items() if members)
            raise BadInput(
                f"data.questions.{suite}: {counts[suite]} asked for, the corpus holds no question of this suite "
                f"(there are: {there}); remove it, or add questions"
            )
    chosen = []
    for suite, members in suites.items():
        if members and (counts is None or suite in counts):
            chosen += subset(members, counts and counts[suite], seed, f"data.questions.{suite}")
    return chosen


def at_most(records, count):
    """At most `count` of the records, spread over domains and behaviours; all for None."""
    return subset(records, None if count is None else min(count, len(records)), seed=0)
