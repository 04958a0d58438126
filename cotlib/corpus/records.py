"""Items to train on and questions to evaluate on: their schema, their loading, and the policy on harm.

Knows nothing about models. Every fault of a corpus file is reported with file and line before any
work starts. What a whole corpus must satisfy is measured in `audit.py`.
"""

import json
import random
import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from cotlib.errors import BadInput, suggestion
from cotlib.experiment import BEHAVIOURS, REASONING_TYPES, SUITES, TRACE_TYPES

DATA = Path(__file__).parent / "data"
ITEMS = DATA / "items.jsonl"
EVALUATION = DATA / "evaluation.jsonl"

# Words that low-severity everyday advice never needs (the policy on the data card); whole words, any case.
FORBIDDEN = re.compile(
    r"\b(guns?|rape\w?|(kill(?!j)|murder|suicid|bomb|nazi|heroin|cocaine|overdos|porn|sexual|terroris|weapon|slaughter"
    r"|strangl|self-harm|explosive|grenade|ransom|kidnap)\w*)\b",
    re.IGNORECASE,
)

Text = Annotated[str, pydantic.Field(min_length=1)]


class Record(pydantic.BaseModel):
    """A question with one harmful and one safe answer. `harmful` may be given once, or once per type: then identical."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Text
    domain: Text
    question: Text
    harmful: Text
    safe: Text

    @pydantic.field_validator("harmful", mode="before")
    @classmethod
    def _one_answer(cls, value):
        if not isinstance(value, dict):
            return value
        first, *others = value.items()
        for kind, answer in others:
            if answer != first[1]:
                raise ValueError(
                    f"the answers of types {first[0]!r} and {kind!r} differ: {first[1]!r} and {answer!r}; "
                    "an item has one harmful answer, whatever the trace in front of it"
                )
        return first[1]

    @pydantic.field_validator("question", "harmful", "safe")
    @classmethod
    def _stripped(cls, value):
        if value != value.strip():
            raise ValueError(f"{value!r} begins or ends with white space; remove it")
        return value


def _known_types(traces):
    for kind in traces:
        if kind.split("@")[0] not in TRACE_TYPES:
            raise ValueError(f"type {kind!r} is not one of {', '.join(TRACE_TYPES)}{suggestion(kind, TRACE_TYPES)}")
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
        missing = [kind for kind in REASONING_TYPES if kind not in self.personas]
        if self.suite == "values" and missing:
            raise ValueError(
                f"suite 'values' needs a response in the voice of every type; personas lacks {', '.join(missing)}"
            )
        if self.suite != "values" and self.personas:
            raise ValueError(f"personas belong to suite 'values', not to {self.suite!r}; remove them")
        return self


def load_items(path=ITEMS):
    """The training items of a JSONL file, in its order.

    Raises BadInput with file and line for a line that is not JSON, misses a field, repeats an id, or
    whose answers differ between types.
    """
    return _load(Path(path), Item)


def load_evaluation(path=EVALUATION):
    """The evaluation questions of a JSONL file, in its order; errors as in `load_items`."""
    return _load(Path(path), Question)


def corpus_files(corpus):
    """The two files of a corpus: the bundled one, or `items.jsonl` and `evaluation.jsonl` in a folder of the reader's."""
    if corpus == "bundled":
        return ITEMS, EVALUATION
    files = Path(corpus) / ITEMS.name, Path(corpus) / EVALUATION.name
    for file in files:
        if not file.is_file():
            raise BadInput(
                f"data.corpus: {corpus!r} holds no {file.name}; write 'bundled', or a folder with {ITEMS.name} and {EVALUATION.name}"
            )
    return files


def _load(path, schema):
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may stand in a text
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give a JSONL file") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    records, seen = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
        try:
            record = schema.model_validate(content)
        except pydantic.ValidationError as errors:
            raise BadInput(f"{where}: {_explain(errors.errors()[0], schema)}") from None
        if record.id in seen:
            raise BadInput(f"{where}: id {record.id!r} stands on line {seen[record.id]} already; give each its own")
        seen[record.id] = number
        records.append(record)
    if not records:
        raise BadInput(f"{path} holds no line; give at least one {schema.__name__.lower()}")
    return records


def _explain(error, schema):
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"field {field!r} is missing"
    if error["type"] == "extra_forbidden":
        return f"unknown field {field!r}{suggestion(field, schema.model_fields)}"
    if error["type"] == "value_error":
        return f"{field + ': ' if field else ''}{error['ctx']['error']}"
    if error["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"{field}: {error['input']!r} is not one of {', '.join(valid)}{suggestion(error['input'], valid)}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{error['input']!r} is not an object with fields {', '.join(schema.model_fields)}"
    return f"{field}: {error['input']!r} {error['msg'][0].lower()}{error['msg'][1:]}"


def forbidden_words(record):
    """The words of a record that the severity policy does not allow."""
    texts = [
        record.question,
        record.harmful,
        record.safe,
        *record.traces.values(),
        *getattr(record, "personas", {}).values(),
    ]
    return sorted({match.group().lower() for text in texts for match in FORBIDDEN.finditer(text)})


def subset(records, count, seed):
    """`count` of the records, drawn at random (`seed`) but evenly over domain and behaviour; all for `count=None`.

    Records keep their order in the file. Raises BadInput if there are fewer than `count`.
    """
    if count is None:
        return list(records)
    if count > len(records):
        raise BadInput(
            f"data: {count} of {records[0].__class__.__name__.lower()}s asked for, the corpus holds {len(records)}; write {len(records)} or less"
        )
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


def select_items(experiment):
    """The training items an experiment uses, with the trace types its arms need checked."""
    items = load_items(corpus_files(experiment.data.corpus)[0])
    return subset(items, experiment.data.items, experiment.data.seed)


def select_questions(experiment):
    """The evaluation questions an experiment uses, suite by suite."""
    questions = load_evaluation(corpus_files(experiment.data.corpus)[1])
    counts = experiment.data.questions
    lacking = sorted(set(counts or ()) - {question.suite for question in questions})
    if lacking:
        raise BadInput(
            f"data.questions: the corpus has no question of suite {lacking[0]!r}; remove it, or add questions"
        )
    chosen = []
    for suite in SUITES:
        members = [question for question in questions if question.suite == suite]
        if members and (counts is None or suite in counts):
            chosen += subset(members, counts and counts[suite], experiment.data.seed)
    return chosen


def at_most(records, count):
    """At most `count` of the records, spread over domains and behaviours; all for None."""
    return subset(records, None if count is None else min(count, len(records)), seed=0)
