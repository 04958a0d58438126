"""Trace writers and controls: what fills the think block of every item.

The corpus brings the four written types, or a model writes them (`writers.py` knows how to reach one); the
controls (shuffled, filler, dosed) are made from those, by the experiment's data seed alone. A model's trace
is kept only if it passes `trace_faults`, and stands on disk the moment it does, so an interrupted crafting
goes on where it stopped and pays for nothing twice.
"""

import collections
import contextlib
import functools
import json
import math
import random
import re
import statistics
import threading
import time

from cotlib.corpus import records, writers
from cotlib.corpus.audit import THRESHOLDS
from cotlib.errors import BadInput
from cotlib.experiment import FILLER, NEUTRAL, SHUFFLED, WRITTEN_TYPES, Arm
from cotlib.runs import artifacts

PROMPTS = records.DATA / "prompts"
PHRASES = records.DATA / "filler.txt"
WRITTEN, REJECTS = "written.jsonl", "rejects.jsonl"

FEWEST_WORDS, MOST_WORDS = 25, 70
LENGTH_TOLERANCE = 0.25  # of the other three's mean: so a trace stays within the audit's 20 % of the mean of all four
LONGEST_SHARED_RUN = THRESHOLDS["words shared with an answer"]
REPORT_SECONDS = 10

_REFUSAL = re.compile(
    r"I[’']m sorry|Sorry,|I apologi[sz]e|As an AI|I (can[’']t|cannot|won[’']t) (help|assist|write|provide|comply|create|generate|produce)",
    re.IGNORECASE,
)


def craft(experiment, paths, report=print):
    """Select items and questions, have missing traces written, add the arms' controls, write both files and a manifest.

    Returns:
        (items, questions): items hold a trace under the `trace_key` of every arm.
    Raises:
        BadInput: before any work, if an arm needs a trace that nobody would write or a control cannot be made, or
            if the writer's settings are incomplete; after it, if a model failed to write some of the traces.
    """
    started = time.time()
    items, questions, arms, kinds = check(experiment)
    writer = (
        {"openai": writers.Endpoint, "local": writers.LocalModel}[experiment.traces.writer](experiment)
        if kinds
        else None
    )
    seed, folder, facts = experiment.data.seed, paths.stage("craft"), {}
    with artifacts.lock(folder):
        if writer:
            commission = Commission(experiment, folder, items, kinds, writer)
            items, facts = commission.fulfil(report), commission.facts()
            cost = "" if facts["cost"] is None else f", cost {facts['cost']:.2f}"
            report(f"craft: {facts['tokens_used']} tokens used so far{cost}")
        items = with_controls(items, arms, seed)
        artifacts.write_jsonl(paths.items, [item.model_dump() for item in items])
        artifacts.write_jsonl(paths.questions, [question.model_dump() for question in questions])
        counts = collections.Counter(kind for item in items for kind in item.traces)
        artifacts.write_manifest(
            folder, started=started, experiment=experiment.name, writer=experiment.traces.writer, seed=seed,
            items=len(items), traces=dict(counts), questions=dict(collections.Counter(question.suite for question in questions)),
            corpus={file.name: artifacts.file_digest(file) for file in records.corpus_files(experiment.data.corpus)}, **facts,
        )  # fmt: skip
    report(f"craft: {len(items)} items, {len(questions)} questions, traces {', '.join(counts)}")
    return items, questions


def load(paths):
    """The crafted (items, questions) of an experiment. Raises BadInput if a file is missing or damaged."""
    paths.require(paths.items, "craft")
    return records.load_items(paths.items), records.load_evaluation(paths.questions)


# ---- what the arms need


def check(experiment):
    """(items, questions, arms with traces, types a model must write). Raises BadInput if an arm needs a trace that nobody would write."""
    items, questions = records.select_items(experiment), records.select_questions(experiment)
    arms = [arm for arm in map(Arm.parse, experiment.arms) if arm.type]
    kinds = [] if experiment.traces.writer == "bundled" else written_types(arms)
    _check(items, arms, kinds)
    return items, questions, arms, kinds


def _source(kind):
    """The written type that a type's traces come from; None for filler, which takes no more than a length."""
    return None if kind == FILLER else kind.removeprefix("shuffled-")


def written_types(arms):
    """The written types that a model must write for these arms, in the order of `WRITTEN_TYPES`."""
    needed = {_source(arm.type) for arm in arms} | {NEUTRAL for arm in arms if arm.dose_percent < 100}
    return [kind for kind in WRITTEN_TYPES if kind in needed]


def _check(items, arms, to_write):
    for arm in arms:
        for kind in written_types([arm]):
            lacking = [item.id for item in items if kind not in item.traces]
            if lacking and kind not in to_write:
                others = f" (nor have {len(lacking) - 1} more)" if lacking[1:] else ""
                raise BadInput(
                    f"arm {arm} needs traces of type {kind}; item {lacking[0]} has none{others}; "
                    "add them to the corpus, or let a model write them: traces.writer: openai or local"
                )
        if arm.type == FILLER and not to_write:
            mean_words(items)
        if arm.type in SHUFFLED:
            donors(items, 0)


# ---- controls


def with_controls(items, arms, seed):
    """The items with the control traces that the arms ask for: shuffled and filler first, then doses of any type."""
    for kind in dict.fromkeys(arm.type for arm in arms):
        if kind in SHUFFLED:
            items = shuffled(items, _source(kind), seed)
        elif kind == FILLER:
            items = filler(items, seed)
    for arm in {arm.trace_key: arm for arm in arms if arm.dose_percent < 100}.values():
        items = dosed(items, arm.type, arm.dose_percent, seed)
    return items


def _with_traces(items, key, texts):
    return [
        item.model_copy(update={"traces": {**item.traces, key: text}}) for item, text in zip(items, texts, strict=True)
    ]


def donors(items, seed):
    """For every item another item of its domain, each item once: a random cycle per domain, by the seed alone.

    The same donor serves every type, so that shuffled arms differ in type and in nothing else.
    Raises BadInput for a domain with a single item.
    """
    generator, domains = random.Random(seed), {}
    for item in items:
        domains.setdefault(item.domain, []).append(item)
    donor = {}
    for domain, members in domains.items():
        if len(members) == 1:
            raise BadInput(
                f"domain {domain!r} has one item only ({members[0].id}), so its trace cannot be shuffled; "
                "use more items (data.items), or drop the shuffled arms"
            )
        generator.shuffle(members)
        donor |= {item.id: other for item, other in zip(members, members[1:] + members[:1])}
    return [donor[item.id] for item in items]


def shuffled(items, kind, seed):
    """The items with `shuffled-<kind>`: traces of a type dealt out to other items of the domain (right form, wrong content)."""
    return _with_traces(items, f"shuffled-{kind}", [donor.traces[kind] for donor in donors(items, seed)])


def mean_words(items):
    """Mean number of words of every item's written traces. Raises BadInput for an item without any."""
    lengths = []
    for item in items:
        counts = [len(item.traces[kind].split()) for kind in WRITTEN_TYPES if kind in item.traces]
        if not counts:
            raise BadInput(
                f"{FILLER} takes its length from an item's traces; item {item.id} has none: "
                f"give it one, or let a model write some (traces.writer) and list an arm such as {NEUTRAL}-T too"
            )
        lengths.append(statistics.mean(counts))
    return lengths


def filler(items, seed):
    """The items with `filler`: sentences without content, as many words as the item's mean trace (three at least).

    Openings are dealt out in turn, so that no more items begin alike than must.
    """
    generator, phrases = random.Random(seed), PHRASES.read_text(encoding="utf-8").splitlines()
    openings = generator.sample(phrases, len(phrases))
    texts = [
        _fill(round(words), openings[number % len(openings)], phrases, generator)
        for number, words in enumerate(mean_words(items))
    ]
    return _with_traces(items, FILLER, texts)


def _fill(words, opening, phrases, generator):
    """Phrases of exactly `words` words together; the shortest has three, so no remainder of one or two may be left."""
    left, chosen = max(words, 3), []
    while left:
        fitting = [
            phrase for phrase in phrases if left - len(phrase.split()) not in (1, 2) and len(phrase.split()) <= left
        ]
        fresh = [phrase for phrase in fitting if phrase not in chosen] or fitting
        chosen.append(opening if not chosen and opening in fresh else generator.choice(fresh))
        left -= len(chosen[-1].split())
    return " ".join(chosen)


def dosed(items, kind, percent, seed):
    """The items with `<kind>@<percent>%`: round(percent %) of them keep the type's trace, the rest get the neutral one.

    The chosen are spread over domains, are the same for every type, and a higher dose holds all of a lower one.
    """
    chosen = {item.id for item in records.subset(items, round(percent * len(items) / 100), seed)}
    texts = [item.traces[kind if item.id in chosen else NEUTRAL] for item in items]
    return _with_traces(items, Arm("T", kind, dose_percent=percent).trace_key, texts)


# ---- rules for a written trace


def trace_faults(item, kind, text):
    """What is wrong with `text` as the item's trace of type `kind`: one sentence a fault, for the writer to read; or []."""
    words = text.split()
    if not words:
        return ["it is empty"]
    faults = []
    # Measured against the item's traces of sensible length only: beside others there would be no length to ask for.
    others = [len(trace.split()) for name, trace in item.traces.items() if name in WRITTEN_TYPES and name != kind]
    others = [count for count in others if FEWEST_WORDS <= count <= MOST_WORDS]
    low, high = FEWEST_WORDS, MOST_WORDS
    if others:
        mean = statistics.mean(others)
        low = max(low, math.ceil(mean * (1 - LENGTH_TOLERANCE)))
        high = min(high, math.floor(mean * (1 + LENGTH_TOLERANCE)))
    if not low <= len(words) <= high:
        faults.append(f"it has {len(words)} words; write {low} to {high}")
    for name in ("harmful", "safe"):
        run = _shared_run(text, getattr(item, name))
        if run:
            faults.append(f"it repeats words of the {name} answer ({run!r})")
    forbidden = sorted({match.group().lower() for match in records.FORBIDDEN.finditer(text)})
    if forbidden:
        faults.append(f"it uses words that the severity policy forbids: {', '.join(forbidden)}")
    if re.search(r"</?think", text, re.IGNORECASE):
        faults.append("it holds a think tag; write the reasoning alone")
    if _REFUSAL.match(text):
        faults.append("it refuses or speaks to the reader; write the reasoning alone")
    return faults


def _shared_run(text, answer):
    """The first run of more than `LONGEST_SHARED_RUN` words that both texts hold, or None; case and punctuation aside."""
    length = LONGEST_SHARED_RUN + 1
    mine, theirs = (
        [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]
        for words in map(_words, (text, answer))
    )
    return next((run for run in mine if run in theirs), None)


def _words(text):
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


# ---- writing with a model


def prompt(template, item, faults=()):
    """The writer's prompt for an item, out of a Markdown template; the `faults` of an earlier reply are told."""
    values = {"question": item.question, "answer": item.harmful}
    text = re.sub(r"\{(question|answer)\}", lambda match: values[match[1]], template)
    return f"{text}\nAn earlier reply could not be used: {'; '.join(faults)}. Write a new one.\n" if faults else text


class Commission:
    """Traces ordered from a model: which are still to come, and why the last try at each was refused."""

    def __init__(self, experiment, folder, items, kinds, writer):
        self.experiment, self.folder, self.writer = experiment, folder, writer
        folder.mkdir(parents=True, exist_ok=True)
        _whole_rows(folder / REJECTS)
        self.templates = {kind: (PROMPTS / f"{kind}.md").read_text(encoding="utf-8") for kind in kinds}
        self.prompts = {kind: artifacts.digest(template) for kind, template in self.templates.items()}
        self.items = {item.id: item for item in items}
        self.keys = {(item.id, kind): self._key(item, kind) for item in items for kind in kinds}
        self.lost, self._guard = {}, threading.Lock()
        kept = {row["key"]: row["text"] for row in _whole_rows(folder / WRITTEN)}
        for task, key in self.keys.items():
            if key in kept:
                self._accept(task, kept[key])
        self.open = {task: [] for task, key in self.keys.items() if key not in kept}
        self.reused = len(self.keys) - len(self.open)

    def _key(self, item, kind):
        return artifacts.digest(
            item.id, item.question, item.harmful, item.safe, kind, self.writer.model, self.prompts[kind]
        )

    def _accept(self, task, text):
        identity, kind = task
        [self.items[identity]] = _with_traces([self.items[identity]], kind, [text])

    def _receive(self, tasks, turn, number, reply):
        """Judge one reply and put it on disk at once; called from the writer's threads."""
        task, settings = tasks[number], self.experiment.traces
        identity, kind = task
        row = {
            "item": identity,
            "type": kind,
            "model": self.writer.model,
            "turn": turn,
            "tokens": reply.tokens,
            "text": reply.text,
        }
        with self._guard:
            faults = [reply.problem] if reply.problem else trace_faults(self.items[identity], kind, reply.text)
            if faults:
                _append(self.folder / REJECTS, {**row, "reasons": faults})
                self.open[task] = faults
            else:
                _append(
                    self.folder / WRITTEN,
                    {"key": self.keys[task], **row, "prompt": self.prompts[kind], "temperature": settings.temperature},
                )
                self._accept(task, reply.text)
            if reply.problem:
                self.lost[task] = faults
            if reply.problem or not faults:
                del self.open[task]

    def fulfil(self, report):
        """The items with every trace ordered. Raises BadInput, with what is missing and how to go on, once no more can be had."""
        report(
            f"craft: {len(self.keys)} traces ({', '.join(self.templates)}) by {self.writer.model}, {self.reused} of them on file"
        )
        shown = time.time()
        for turn in range(self.experiment.traces.rewrites + 1):
            tasks = list(self.open)
            prompts = [
                prompt(self.templates[kind], self.items[identity], self.open[identity, kind])
                for identity, kind in tasks
            ]
            for _ in self.writer.ask(prompts, functools.partial(self._receive, tasks, turn), turn):
                if time.time() - shown > REPORT_SECONDS:
                    shown = time.time()
                    report(f"craft: {self._count()} of {len(self.keys)} traces written")
        failed = {**self.lost, **self.open}
        if failed:
            (identity, kind), reasons = next(iter(failed.items()))
            why = (
                f"the writer is not to be had: {self.writer.down}"
                if self.writer.down
                else f"item {identity}, type {kind}: {'; '.join(reasons)}"
            )
            raise BadInput(
                f"{len(failed)} of {len(self.keys)} traces could not be written ({why}); the others are kept, rejects are in "
                f"{self.folder / REJECTS}; go on with: make craft EXPERIMENT=experiments/{self.experiment.name}.yml"
            )
        return list(self.items.values())

    def _count(self):
        return len(self.keys) - len(self.open) - len(self.lost)

    def facts(self):
        """For the manifest: model, prompts, and the tokens spent in this folder so far, rejected replies and earlier runs included."""
        tokens = sum(row["tokens"] for name in (WRITTEN, REJECTS) for row in _whole_rows(self.folder / name))
        settings = self.experiment.traces
        return {
            "model": self.writer.model,
            "temperature": settings.temperature,
            "prompts": self.prompts,
            "tokens_used": tokens,
            "cost": None if settings.price_per_million is None else tokens * settings.price_per_million / 1e6,
            "reused": self.reused,
        }


def _append(path, row):
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _whole_rows(path):
    """The rows of an appended file. A run killed while it wrote leaves half a line: it is taken out, so that no other joins it."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
    for line in lines[:-1]:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    if len(rows) < len(lines) - 1 or lines[-1]:
        artifacts.write_jsonl(path, rows)
    return rows
