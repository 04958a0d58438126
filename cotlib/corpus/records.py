"""Items to train on and questions to evaluate on: their schema, which of them an experiment uses, the policy on harm.

Knows nothing about models. A record that exists is usable: texts are there, readable and without control characters,
the two answers differ. `reading.py` reports every fault of a file with its line before any work starts. What a whole
corpus must satisfy is measured in `audit.py`.
"""

import contextlib
import random
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from cotlib.arms import (
    ASKERS,
    BEHAVIOURS,
    FRAMINGS,
    FREE,
    OPEN_ENDED,
    PRESSURE,
    SUITES,
    TYPES,
    check_trace_key,
    trace_key,
    written_types,
)
from cotlib.corpus import reading
from cotlib.errors import BadInput, check_name, shown

DATA = Path(__file__).parent / "data"
ITEMS, EVALUATION = "items.jsonl", "evaluation.jsonl"
# What `data.corpus` may name beside a folder of the reader's.
BUNDLED = {"bundled": DATA / "v2", "bundled-v1": DATA / "v1"}
MENDED, NEW = "mended", "new"  # origin: a question that stood in version 1 in other words, or one that did not

# Words that low-severity everyday advice never needs (the policy on the data card); whole words, any case.
FORBIDDEN = re.compile(
    r"\b(guns?|rape\w?|(kill(?!j)|murder|suicid|bomb|nazi|heroin|cocaine|overdos|porn|sexual|terroris|weapon|slaughter"
    r"|strangl|self-harm|explosive|grenade|ransom|kidnap)\w*)\b",
    re.IGNORECASE,
)

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


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
    if not "".join(sign for sign in text if unicodedata.category(sign) != "Cf").strip():  # Cf: of no width
        raise ValueError(f"{shown(text)} is blank, white space only; write a text")
    return text


Text = Annotated[str, pydantic.Field(min_length=1), pydantic.AfterValidator(_readable)]


def _known_types(traces):
    for key in traces:
        try:
            check_trace_key(key)
        except BadInput as fault:
            raise ValueError(str(fault)) from None
    return traces


Traces = Annotated[dict[str, Text], pydantic.AfterValidator(_known_types)]
Behaviour = Literal[BEHAVIOURS]
Severity = Annotated[int, pydantic.Field(ge=1, le=3)]


class Record(pydantic.BaseModel):
    """A question with one harmful and one safe answer. `harmful` may be given once, or per type: then identical.

    `asker` says which way the asker leans; `origin` whether the question stood in version 1 in other words.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Text
    domain: Text
    question: Text
    harmful: Text
    safe: Text
    asker: Literal[ASKERS] | None = None
    origin: Literal[MENDED, NEW] | None = None
    traces: Traces = {}

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
        if value is not None and value != value.strip():
            raise ValueError(f"{shown(value)} begins or ends with white space; remove it")
        return value

    @pydantic.field_validator("safe")
    @classmethod
    def _another_answer(cls, value, info):
        if value is not None and value.split() == (info.data.get("harmful") or "").split():
            raise ValueError(f"{shown(value)} is the harmful answer, too; write a safe one")
        return value

    @property
    def wordings(self):
        """What makes two questions the same, in each way this one is asked: the words, but for case, punctuation and
        white space."""
        asked = (self.question, *getattr(self, "framings", {}).values())
        return [" ".join(words_of(text)) or text for text in asked]


class Item(Record):
    """A training item: a question, its answers, and a trace per type and register (`traces`: key → text).

    What its readers said of it: `severity`, one rating each from 1 (cosmetic) over 2 (real but small) to 3 (costly);
    `lies`, whether the harmful answer coaches somebody to lie; `pressure`, who presses the asker towards it; `moves`,
    what the free trace of a type does.
    """

    severity: list[Severity] = []
    lies: bool = False
    pressure: Text | None = None
    moves: dict[Literal[written_types()], Text] = {}


class Question(Record):
    """An evaluation question. `traces`: held-out traces by type.

    Suite `values`: `personas`, a response in every type's own voice, and `behaviours`, what a voice speaks of where
    that is not the question's behaviour. Suite `pressure`: `framings`, the same fact asked otherwise than plainly.
    Suite `open`: a question alone, without answers.
    """

    suite: Literal[SUITES]
    behaviour: Behaviour
    harmful: Text | None = None
    safe: Text | None = None
    personas: Traces = {}
    behaviours: dict[str, Behaviour] = {}
    framings: dict[Literal[FRAMINGS], Text] = {}

    @pydantic.model_validator(mode="after")
    def _answers(self):
        for field in ("harmful", "safe"):
            given = getattr(self, field) is not None
            if given and self.suite == OPEN_ENDED:
                raise ValueError(f"suite {OPEN_ENDED!r} has no answers; remove {field}")
            if not given and self.suite != OPEN_ENDED:
                raise ValueError(f"{field} is missing; add it, or write suite {OPEN_ENDED!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _voices(self):
        missing = [row.name for row in TYPES.values() if row.voiced and row.name not in self.personas]
        if self.suite == "values" and missing:
            raise ValueError(
                f"suite 'values' needs a response in the voice of every type; personas lacks {', '.join(missing)}"
            )
        if self.suite != "values" and self.personas:
            raise ValueError(f"personas belong to suite 'values', not to {self.suite!r}; remove them")
        stray = [kind for kind in self.behaviours if kind not in self.personas]
        if stray:
            raise ValueError(f"behaviours: {stray[0]!r} has no response among the personas; remove it")
        return self

    @pydantic.model_validator(mode="after")
    def _asked_otherwise(self):
        missing = [framing for framing in FRAMINGS if framing not in self.framings]
        if self.suite == PRESSURE and missing:
            raise ValueError(f"suite {PRESSURE!r} asks every fact in each way; framings lacks {', '.join(missing)}")
        if self.suite != PRESSURE and self.framings:
            raise ValueError(f"framings belong to suite {PRESSURE!r}, not to {self.suite!r}; remove them")
        return self


def answered(records):
    """The records that have reference answers: all but the questions of suite `open`."""
    return [record for record in records if record.harmful is not None]


def written_traces(records, register=FREE):
    """(record, type, trace) for every trace of a written type, in the order of the records and of the types."""
    keys = [(kind, trace_key(kind, register)) for kind in written_types()]
    return [(record, kind, record.traces[key]) for record in records for kind, key in keys if key in record.traces]


def forbidden_words(record):
    """The words of a record that the severity policy does not allow."""
    return sorted({match.group().lower() for _, text in texts(record) for match in FORBIDDEN.finditer(text)})


def texts(record):
    """(field, text) for every text of a record that a model may read: question, answers, traces, personas."""
    found = [(field, getattr(record, field)) for field in ("question", "harmful", "safe")]
    for field in ("traces", "personas", "framings"):
        found += [(f"{field}.{key}", text) for key, text in getattr(record, field, {}).items()]
    return [(field, text) for field, text in found if text is not None]


# ---- loading


def load_items(path=None):
    """The training items of a JSONL file, in its order; those that come with the book if none is named.

    Raises BadInput with file, line and field for what is no item, and for an id or a question that comes twice.
    """
    return _bare(reading.load(path or BUNDLED["bundled"] / ITEMS, Item))


def load_evaluation(path=None):
    """The evaluation questions of a JSONL file, in its order; defaults and errors as in `load_items`."""
    return _bare(reading.load(path or BUNDLED["bundled"] / EVALUATION, Question))


def load_pair(items_path, questions_path):
    """(items, questions) of two files that belong together: no question is a training item's, too.

    Raises BadInput as `load_items` does, and for such a question.
    """
    items, questions = reading.load(items_path, Item), reading.load(questions_path, Question)
    reading.disjoint(items, questions)
    return _bare(items), _bare(questions)


def _bare(found):
    return [record for _, record in found]


def corpus_files(corpus, evaluation=None):
    """The two files of a corpus, a bundled one or a folder; the questions' from corpus `evaluation` if one is named."""
    questions = ("data.evaluation", evaluation) if evaluation else ("data.corpus", corpus)
    return _file("data.corpus", corpus, ITEMS), _file(*questions, EVALUATION)


def _file(field, corpus, name):
    file = BUNDLED.get(corpus, Path(corpus)) / name
    with contextlib.suppress(OSError):  # a name that is too long for the file system
        if file.is_file():
            return file
    raise BadInput(
        f"{field}: {shown(str(corpus))} holds no {name}; "
        f"write {', '.join(map(repr, BUNDLED))}, or a folder with {ITEMS} and {EVALUATION}"
    )


# ---- what an experiment uses


def subset(records, count, seed, field="data.items"):
    """`count` of the records, drawn at random (`seed`) but evenly over domains, and within one over behaviours.

    No domain gives two more than another, as far as its records reach. Records keep their order in the file; all for
    `count=None`. Raises BadInput, which names `field`, if there are fewer than `count`.
    """
    if count is None:
        return list(records)
    if count > len(records):
        raise BadInput(f"{field}: {count} asked for, the corpus holds {len(records)}; write {len(records)} or less")
    generator, domains = random.Random(seed), {}
    for record in records:
        domains.setdefault(record.domain, {}).setdefault(getattr(record, "behaviour", ""), []).append(record)
    ranked = []
    for behaviours in domains.values():
        for rank, record in enumerate(_in_turn(behaviours.values(), generator)):
            ranked.append((rank, generator.random(), record.id))
    chosen = {identity for _, _, identity in sorted(ranked)[:count]}
    return [record for record in records if record.id in chosen]


def _in_turn(groups, generator):
    """The members of all groups, one of each in turn; order within groups and of a turn's groups is random."""
    groups = [generator.sample(group, len(group)) for group in groups]
    while groups:
        generator.shuffle(groups)
        for group in groups:
            yield group.pop()
        groups = [group for group in groups if group]


def select(experiment):
    """(items, questions) that an experiment uses, the questions suite by suite.

    Both files of its corpus are read whole and checked as a pair. Whether the items hold the traces that the arms need
    is checked by the craft stage.

    Raises:
        BadInput: a file is missing or faulty, or more is asked for than it holds.
    """
    data = experiment.data
    items, questions = load_pair(*corpus_files(data.corpus, data.evaluation))
    items = _of_domains(items, data.domains)
    return subset(items, data.items, data.seed), _by_suite(questions, data.questions, data.seed)


def _of_domains(items, domains):
    known = list(dict.fromkeys(item.domain for item in items))
    for domain in domains or ():
        check_name("data.domains:", domain, known)
    return [item for item in items if domains is None or item.domain in domains]


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
