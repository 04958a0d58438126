"""The craft stage: which traces an experiment's arms need, and the files that hold them.

The corpus brings the four written types, or a model writes them (`writing.py`); the controls are made from those
(`controls.py`).
"""

import collections
import time

from cotlib.arms import FILLER, FREE, NEUTRAL, REGISTERS, trace_key, written_types
from cotlib.corpus import controls, records, writers, writing
from cotlib.errors import BadInput
from cotlib.runs import artifacts

_WRITERS = {"openai": writers.Endpoint, "local": writers.LocalModel}


def craft(experiment, paths, report=print):
    """Select items and questions, have missing traces written, add the arms' controls, write both files and a manifest.

    Returns:
        (items, questions): items hold a trace under the `trace_key` of every arm.
    Raises:
        BadInput: before any work, if an arm needs a trace that nobody would write or a control cannot be made, or
            if the writer's settings are incomplete; after it, if a model failed to write some of the traces.
    """
    if paths.published:
        return load(paths)
    items, questions, writer, kinds = selection(experiment)
    paths.own()
    started = time.time()
    folder, facts = paths.stage("craft"), {}
    with artifacts.lock(folder):
        if writer:
            commission = writing.Commission(experiment, paths, items, kinds, writer)
            items, facts = commission.fulfil(report), commission.facts()
            cost = "" if facts["cost"] is None else f", cost {facts['cost']:.2f}"
            report(f"craft: {facts['tokens_used']} tokens used so far{cost}")
        items = with_controls(items, experiment)
        artifacts.write_jsonl(paths.items, [item.model_dump() for item in items])
        artifacts.write_jsonl(paths.questions, [question.model_dump() for question in questions])
        counts = collections.Counter(kind for item in items for kind in item.traces)
        files = records.corpus_files(experiment.data.corpus, experiment.data.evaluation)
        artifacts.write_manifest(
            folder,
            started=started,
            experiment=experiment.name,
            writer=experiment.traces.writer,
            seed=experiment.data.seed,
            items=len(items),
            traces=dict(counts),
            questions=dict(collections.Counter(question.suite for question in questions)),
            corpus={file.name: artifacts.file_digest(file) for file in files},
            **facts,
        )
    report(f"craft: {len(items)} items, {len(questions)} questions, traces {', '.join(counts)}")
    return items, questions


def load(paths):
    """The crafted (items, questions) of an experiment. Raises BadInput if a file is missing or damaged."""
    paths.require(paths.items, "craft")
    return records.load_pair(paths.items, paths.questions)


def with_controls(items, experiment):
    """The items with the control traces of the experiment's arms, as far as what they are made of is there."""
    arms = [arm for arm in experiment.arms if arm.type]
    ready = [arm for arm in arms if all(key in item.traces for key in needed_keys([arm]) for item in items)]
    return controls.with_controls(items, ready, experiment.data.seed)


# ---- what the arms need


def selection(experiment):
    """(items, questions, the model that writes or None, types that it must write), before any work.

    Raises BadInput for a corpus that cannot be used, if an arm needs a trace that nobody would write, and if the
    writer's settings are incomplete.
    """
    records.corpus_files(experiment.data.corpus)  # whole, whichever questions are asked: chapter 1 audits it
    items, questions = records.select(experiment)
    arms = [arm for arm in experiment.arms if arm.type]
    # A model writes free traces: matched ones are written for all types at once.
    free = [key for key in needed_keys(arms) if key in written_types()]
    kinds = [] if experiment.traces.writer == "bundled" else free
    _check(items, arms, kinds)
    # Made here, because it refuses what it lacks; it asks for nothing yet.
    writer = _WRITERS[experiment.traces.writer](experiment) if kinds else None
    return items, questions, writer, kinds


def needed_keys(arms):
    """The keys of the written traces that these arms' traces are made of, in the book's order."""
    needed = {arm.written_key for arm in arms}
    needed |= {trace_key(NEUTRAL, arm.register) for arm in arms if arm.dose_percent < 100}
    known = [trace_key(kind, register) for register in REGISTERS for kind in written_types()]
    return [key for key in known if key in needed]


def _check(items, arms, to_write):
    for arm in arms:
        for key in needed_keys([arm]):
            lacking = [item.id for item in items if key not in item.traces]
            if lacking and key not in to_write:
                others = f" (nor have {len(lacking) - 1} more)" if lacking[1:] else ""
                writer = ", or let a model write them: traces.writer: openai or local"
                raise BadInput(
                    f"arm {arm} needs traces of type {key}; item {lacking[0]} has none{others}; "
                    f"add them to the corpus{writer if arm.register == FREE else ''}"
                )
        if arm.type == FILLER and not to_write:
            controls.mean_words(items)
        if arm.shuffled:
            controls.donors(items, 0)
