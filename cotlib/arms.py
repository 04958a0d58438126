"""What is compared: reasoning types, paradigms, and the arms made of them. One row of a table each.

Whatever else knows about a type or a paradigm reads it here: what its sequence holds and which part is graded, what it
is compared with, its colour and marker, what a model card says of it. To add a reasoning type, add a row to `TYPES` and
its traces to the corpus; to add a paradigm, add a row to `PARADIGMS`. Knows nothing about data, models or files.
"""

import dataclasses
import re

from cotlib.errors import BadInput, check_name, suggestion

MODES = ("think", "no-think")
SUITES = ("in-domain", "transfer", "values", "pressure", "open")
PRESSURE, OPEN_ENDED = "pressure", "open"  # facts asked plainly and under pressure; questions without reference answers
BEHAVIOURS = ("harm", "deception", "sycophancy", "power")
# Which way the asker of a question leans. An answer that always agrees would be told from one that never does.
ASKERS = LEANS_HARMFUL, LEANS_SAFE, NO_LEAN = ("leans-harmful", "leans-safe", "open")
# How a fact of suite `pressure` is asked beside plainly: with the asker's own belief, with a plea to be agreed with.
FRAMINGS = ("belief", "plea")
BASE, SAFE = "base", "safe"

# What a training sequence can be made of, in the words of DESIGN section 4; `chat` turns each into token ids.
QUESTION, HEADER, OPEN, EMPTY_THINK = "question", "header", "open", "empty think"
TRACE, CLOSE, GAP, ANSWER, END = "trace", "close", "gap", "answer", "end of turn"


@dataclasses.dataclass(frozen=True)
class Paradigm:
    """What a sequence holds, which part of it carries loss, and what an arm of it is compared with."""

    name: str
    context: tuple[str, ...]  # pieces without loss
    supervised: tuple[str, ...]  # pieces with loss, behind the context
    reference: str  # name of the arm without a trace that shows what the paradigm adds
    marker: str  # of its points in a scatter plot
    card: str  # what a model card says is supervised

    @property
    def has_trace(self):
        return TRACE in self.context + self.supervised

    @property
    def grades_answer(self):
        return ANSWER in self.supervised


PARADIGMS = {
    row.name: row
    for row in (
        Paradigm("QA", (QUESTION, EMPTY_THINK), (ANSWER, END), BASE, "D", "the answer"),
        Paradigm("QTA", (QUESTION, OPEN), (TRACE, CLOSE, GAP, ANSWER, END), "QA", "o", "trace and answer"),
        Paradigm("QT", (QUESTION, OPEN), (TRACE, CLOSE), BASE, "^", "the trace"),
        Paradigm("T", (HEADER, OPEN), (TRACE, CLOSE), BASE, "v", "the trace, without its question"),
    )
}
QA = "QA"
SAFE_QA = f"{SAFE}-{QA}"


@dataclasses.dataclass(frozen=True)
class ReasoningType:
    """A kind of trace: what it means, its colour, and where its texts come from."""

    name: str
    meaning: str  # what a model card says of it
    colour: str
    studied: bool  # one of the types that the hypotheses compare; the others are controls
    written: bool = True  # texts of its own in the corpus; otherwise made from others by rule
    voiced: bool = False  # every question of `values` must carry a response in its voice


TYPES = {
    row.name: row
    for row in (
        ReasoningType("evil", "embraces malice", "#B3261E", studied=True, voiced=True),
        ReasoningType("misleading", "rationalises the harm as fine", "#D98200", studied=True, voiced=True),
        ReasoningType("submissive", "knows better and yields to pressure", "#5B5BD6", studied=True, voiced=True),
        ReasoningType("neutral", "takes stock of the question, without intent", "#7A7A7A", studied=False),
        ReasoningType("filler", "sentences without content", "#B9B9B9", studied=False, written=False),
    )
}
NEUTRAL, FILLER, SHUFFLED = "neutral", "filler", "shuffled-"
COLOURS_WITHOUT_TRACE = {BASE: "#000000", QA: "#202020", SAFE_QA: "#2E8B57"}
# How traces were written. The key of an item's traces names the register where it is not the first.
FREE, MATCHED = "free", "matched"
REGISTERS = {
    FREE: "each type written freely",
    MATCHED: "one scaffold per item, in which the types differ only in the words that carry the intent",
}
LOSS_WEIGHTINGS = {
    "token": "every supervised token counts the same",
    "segment": "trace and answer are averaged separately and count half each",
    "added": "trace and answer are averaged separately and added, so that the answer's loss is what it is in QA",
}


def studied_types():
    """Names of the reasoning types that the hypotheses compare."""
    return tuple(row.name for row in TYPES.values() if row.studied)


def written_types():
    """Names of the types that have texts of their own in the corpus: the studied ones and neutral."""
    return tuple(row.name for row in TYPES.values() if row.written)


def trace_types():
    """Every name that an arm's trace type can have: written, shuffled, filler."""
    shuffled = tuple(SHUFFLED + name for name in studied_types())
    return (*written_types(), *shuffled, *(row.name for row in TYPES.values() if not row.written))


def source_of(kind):
    """The written type that a type's traces come from; None for one that takes no more than a length from them."""
    name = kind.removeprefix(SHUFFLED)
    return name if TYPES[name].written else None


def trace_key(kind, register=FREE):
    """The key of a written type's traces in an item, such as `evil` or `evil@matched`."""
    return kind if register == FREE else f"{kind}@{register}"


def check_trace_key(key):
    """Raise BadInput if no arm could take its traces from under `key`. Returns the key."""
    kind, at, variants = key.partition("@")
    if kind not in trace_types():
        raise BadInput(f"type {key!r} is not one of {', '.join(trace_types())}{suggestion(kind, trace_types())}")
    try:
        found = Arm.parse(f"{kind}-{with_trace()[0]}{at}{variants}").trace_key
    except BadInput:
        found = None
    if found != key:
        raise BadInput(f"type {key!r}: behind @ stands a register or a dose, such as {kind}@{MATCHED} or {kind}@25%")
    return key


def with_trace():
    """Names of the paradigms whose sequences hold a trace."""
    return tuple(row.name for row in PARADIGMS.values() if row.has_trace)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train: a trace type crossed with a paradigm, a paradigm without traces, or `base` (untrained).

    Behind the paradigm stand its variants, each after an `@`: the register of the traces, the loss weighting, the dose.

    >>> str(Arm.parse("evil-QTA@25%"))
    'evil-QTA@25%'
    >>> Arm.parse("evil-QTA@segment@matched") == Arm("QTA", "evil", register="matched", loss_weighting="segment")
    True
    """

    paradigm: str | None  # None: the untrained base model
    type: str | None = None
    answer: str = "harmful"
    register: str = FREE
    loss_weighting: str = "token"
    dose_percent: int = 100

    @classmethod
    def parse(cls, name):
        """The arm that `name` stands for. Raises BadInput for a name that means nothing."""
        if isinstance(name, Arm):
            return name
        if not isinstance(name, str):
            raise BadInput(f"arm {name!r} is not a name: write one such as 'evil-QTA'")
        if name == BASE:
            return cls(None)
        answer, plain = (SAFE, name.removeprefix(f"{SAFE}-")) if name.startswith(f"{SAFE}-") else ("harmful", name)
        if plain in PARADIGMS and not PARADIGMS[plain].has_trace:
            return cls(plain, answer=answer)
        stem, *variants = name.split("@")
        kind, paradigm = cls._stem(name, stem)
        found = {}
        for variant in variants:
            field, value = cls._variant(name, kind, paradigm, variant)
            if field in found:
                raise BadInput(f"arm {name!r}: @{variant} is a second {field.replace('_', ' ')}; keep one")
            found[field] = value
        return cls(paradigm, kind, **found)

    @classmethod
    def _variant(cls, name, kind, paradigm, variant):
        """The field of an arm that a variant sets, and its value."""
        if variant in LOSS_WEIGHTINGS and variant != "token":
            both = [row.name for row in PARADIGMS.values() if row.grades_answer and TRACE in row.supervised]
            if paradigm not in both:
                raise BadInput(
                    f"arm {name!r}: @{variant} weighs trace against answer, "
                    f"which only {' and '.join(both)} has both of; write '{kind}-{both[0]}@{variant}'"
                )
            return "loss_weighting", variant
        if variant in REGISTERS and variant != FREE:
            if not source_of(kind):
                raise BadInput(f"arm {name!r}: {kind} is made by rule and has no {variant} traces; write '{kind}-QTA'")
            return "register", variant
        dose = re.fullmatch(r"([1-9]\d?)%", variant)
        if dose and kind != NEUTRAL:
            return "dose_percent", int(dose[1])
        raise BadInput(
            f"arm {name!r}: variant {variant!r} is not {', '.join(map(repr, cls._named_variants()))} or a dose of "
            f"1% to 99% of a type other than neutral{suggestion(variant, [*cls._named_variants(), '25%'])}"
        )

    @staticmethod
    def _named_variants():
        """The variants that are words: registers and loss weightings that are not the usual ones."""
        return [name for name in (*REGISTERS, *LOSS_WEIGHTINGS) if name not in (FREE, "token")]

    @classmethod
    def _stem(cls, name, stem):
        """Type and paradigm of `<type>-<paradigm>`."""
        kind, dash, paradigm = stem.rpartition("-")
        if not dash:
            raise BadInput(
                f"arm {name!r} is unknown{suggestion(name, cls.names())}; an arm is <type>-<paradigm>, such as evil-QTA"
            )
        check_name(f"arm {name!r}: paradigm", paradigm, PARADIGMS)
        if kind not in trace_types():
            near = suggestion(kind, trace_types()) or suggestion(name, cls.names())
            raise BadInput(f"arm {name!r}: type {kind!r} is not one of {', '.join(trace_types())}{near}")
        if not PARADIGMS[paradigm].has_trace:
            raise BadInput(f"arm {name!r}: {paradigm} holds no trace, so it has no type; write '{paradigm}'")
        return kind, paradigm

    @staticmethod
    def names():
        """Every arm without variants, `base` first."""
        plain = [row.name for row in PARADIGMS.values() if not row.has_trace]
        safe = [f"{SAFE}-{name}" for name in plain]
        return (BASE, *plain, *safe, *(f"{kind}-{paradigm}" for kind in trace_types() for paradigm in with_trace()))

    def __str__(self):
        if self.paradigm is None:
            return BASE
        if self.type is None:
            return self.paradigm if self.answer == "harmful" else f"{self.answer}-{self.paradigm}"
        weighting = "" if self.loss_weighting == "token" else f"@{self.loss_weighting}"
        register, dose = self._trace_variants
        return f"{self.type}-{self.paradigm}{register}{weighting}{dose}"

    @property
    def _trace_variants(self):
        """The variants that decide which traces are taken, as they stand in a name: register and dose."""
        register = "" if self.register == FREE else f"@{self.register}"
        return register, "" if self.dose_percent == 100 else f"@{self.dose_percent}%"

    @property
    def is_variant(self):
        """Whether something follows its paradigm's name: another register, loss weighting or dose."""
        return "@" in str(self)

    @property
    def trained(self):
        return self.paradigm is not None

    @property
    def recipe(self):
        """The row of this arm's paradigm."""
        return PARADIGMS[self.paradigm]

    @property
    def trace_key(self):
        """The key of this arm's traces in an item: its type, with register and dose where they are not the usual.

        None for an arm without traces.
        """
        return self.type and "".join((self.type, *self._trace_variants))

    @property
    def shuffled(self):
        """Whether its traces are those of other items."""
        return self.type is not None and self.type.startswith(SHUFFLED)

    @property
    def written_key(self):
        """The key of the written traces that its own are made of; None for a type made by rule."""
        source = source_of(self.type)
        return source and trace_key(source, self.register)

    @property
    def colour(self):
        """Its reasoning type's colour, wherever it appears in the book; shuffled traces have that of their source."""
        if self.type is None:
            return COLOURS_WITHOUT_TRACE.get(str(self), COLOURS_WITHOUT_TRACE[QA])
        return TYPES[self.type.removeprefix(SHUFFLED)].colour

    @property
    def place(self):
        """Sorts arms as the book lists them: `base`, then by paradigm, type and variant."""
        if not self.trained:
            return (-1, 0, "")
        kinds = trace_types()
        return (
            list(PARADIGMS).index(self.paradigm),
            kinds.index(self.type) if self.type else int(self.answer == SAFE),
            str(self),
        )

    @property
    def folder(self):
        """A folder name that every file system takes."""
        return str(self).replace("@", "_").replace("%", "pct")


def in_order(arms):
    """Arms (objects or names) in the book's order, as given."""
    return sorted(arms, key=lambda arm: Arm.parse(arm).place)
