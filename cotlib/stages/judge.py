"""The judge stage: every unit's responses judged by every judge of the experiment, and its thoughts read."""

import dataclasses
import time

import pandas as pd

from cotlib import scores
from cotlib.errors import BadInput
from cotlib.judges import card, marks
from cotlib.judges.judgement import VALIDATION, Context
from cotlib.judges.panel import check, judge_class, probe_items
from cotlib.judges.reader import NAME, ThoughtReader
from cotlib.runs import artifacts, machine, sources
from cotlib.runs import units as runs
from cotlib.stages import craft
from cotlib.stages.evaluate import RESPONSES, selected, thoughts, with_base

REPLIES = "replies.jsonl"  # every reply of an endpoint, as it came: none is paid for twice
JUDGEMENTS, VALIDATIONS, READINGS = "judgements.jsonl", "validation.jsonl", "thoughts.parquet"
CARDS = "cards.jsonl.gz"  # beside `base`, once for each seed: what the judges say of texts whose label is known
VALIDATION_COLUMNS = [*VALIDATION, "judge", "model"]


def judge(experiment, paths, units=None, report=print):
    """Judge the given units; with all of the experiment's, the gathered files are written, too.

    Args:
        units: as `Experiment.select` gives them; None for all. `base` joins every selection.
    Returns:
        (judgements, validation, cards) of the selection: frames with the columns `marks.COLUMNS`,
        `VALIDATION_COLUMNS` and `card.COLUMNS`.
    Raises:
        BadInput: a judge cannot run, or responses are missing: before any work. An endpoint that counts as down stops
            the run; the replies it gave are kept.
    """
    paths.own()
    started = time.time()
    units = with_base(units or experiment.select())
    if paths.published:
        return _published(paths, units)
    check(experiment)
    _, questions = craft.load(paths)
    tasks = _tasks(experiment, paths, units, questions)
    with artifacts.lock(paths.stage("judge") / REPLIES):  # one process at a time appends replies
        work = _Work(experiment, paths, questions)
        manifests = runs.complete("judge", tasks, paths, work, describe, report)
    judgements, validation, cards = read(paths, units)
    if runs.is_whole(units, experiment):
        artifacts.write_jsonl(paths.judgements, artifacts.plain_records(judgements))
        artifacts.write_jsonl(paths.validation, artifacts.plain_records(validation))
        artifacts.write_jsonl(paths.cards, artifacts.plain_records(cards))
        artifacts.write_table(paths.thought_types, _readings(paths, units))
        unscored = int(judgements.alignment.isna().sum())
        runs.finish_stage("judge", experiment, paths, manifests, started, unscored=unscored)
    return judgements, validation, cards


def read(paths, units):
    """The judgements of finished units, and how good their judges are, as three frames."""
    folders = [paths.unit("judge", unit) for unit in units]
    rows = [row for folder in folders for row in artifacts.read_jsonl(folder / JUDGEMENTS)]
    validation = [row for folder in folders for row in artifacts.read_jsonl(folder / VALIDATIONS)]
    bases = [folder for folder, unit in zip(folders, units) if not unit.arm.trained]
    cards = [row for folder in bases for row in artifacts.read_jsonl(folder / CARDS)]
    # A model's judges are validated once; each of its units says so.
    known = marks.table(cards, card.COLUMNS).drop_duplicates(["judge", "model", "kind", "question_id", "response"])
    return (
        marks.table(rows, marks.COLUMNS),
        marks.table(validation, VALIDATION_COLUMNS).drop_duplicates(),
        known.reset_index(drop=True),
    )


def _readings(paths, units):
    """What the thoughts of finished units were taken for, as one frame."""
    frames = [pd.read_parquet(paths.unit("judge", unit) / READINGS) for unit in units]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _tasks(experiment, paths, units, questions):
    settings, code = experiment.judging.model_dump(), sources.code_digest(__name__)
    samples = artifacts.file_digest(card.SAMPLES)
    labelled = [record.model_dump() for record in (*probe_items(experiment), *questions)]
    judges = [judge_class(name).identity() for name in experiment.judging.judges]
    versions = machine.versions_of("torch", "transformers", "scikit-learn")
    tasks = []
    for unit in units:
        responses, _ = runs.keys_of(experiment, paths, "evaluate", unit)
        parts = responses, settings, experiment.data.seed, labelled, samples, judges, code, versions
        key = artifacts.digest(*parts)
        tasks.append(runs.Task(unit, key, key))  # made again whenever its code changes: that costs seconds
    return tasks


class _Work:
    """Judges one unit after another; a model's judges are made once, and only if one of its units is not done yet."""

    def __init__(self, experiment, paths, questions):
        self.experiment, self.paths, self.questions = experiment, paths, questions
        self.panels, self.reader, self.cards = {}, None, None
        self.items = probe_items(experiment)

    def __call__(self, task, folder):
        model = task.unit.model
        if model not in self.panels:
            context = Context(
                model, self.items, self.questions, self.experiment.judging, self.experiment.data.seed,
                self.paths.stage("judge") / REPLIES,
            )  # fmt: skip
            self.panels = {model: [judge_class(name)(context) for name in self.experiment.judging.judges]}
            self.reader = ThoughtReader(context)
            self.cards = None
        rows = artifacts.read_jsonl(self.paths.unit("evaluate", task.unit) / RESPONSES)
        responses = marks.table(rows, marks.RESPONSE)
        thought = thoughts(self.paths, [task.unit]) if self.reader.able else []
        read = self.reader.rows(thought, self.questions)
        artifacts.write_table(folder / READINGS, scores.of_unit(read, task.unit))
        parts = [self._by(expert, responses, model) for expert in self.panels[model] if len(responses)]
        judgements = pd.concat(parts, ignore_index=True) if parts else marks.table([], marks.COLUMNS)
        artifacts.write_jsonl(folder / JUDGEMENTS, artifacts.plain_records(judgements))
        validation = [
            frame.assign(judge=expert.name, model=model)
            for expert in (self.panels[model] if len(responses) else [])
            if len(frame := expert.validation)
        ]
        if len(thought) and len(frame := self.reader.validation):
            validation.append(frame.assign(judge=NAME, model=model))
        if not task.unit.arm.trained:
            known = self._cards(model) if len(responses) else marks.table([], card.COLUMNS)
            artifacts.write_jsonl(folder / CARDS, artifacts.plain_records(known))
        rows = artifacts.plain_records(pd.concat(validation)) if validation else []
        artifacts.write_jsonl(folder / VALIDATIONS, rows)
        return {
            "judges": list(self.experiment.judging.judges),
            "judgements": len(judgements),
            "unscored": int(judgements.alignment.isna().sum()),
            "thoughts": len(thought),
        }

    def _cards(self, model):
        """What every judge of the panel says of the texts whose label is known; asked for once."""
        if self.cards is None:
            known = card.texts(self.questions, self.experiment.judging.card)
            parts = [card.judged(expert, model, known) for expert in self.panels[model]]
            self.cards = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        return self.cards

    def _by(self, expert, responses, model):
        views = expert.judge(responses.question.tolist(), responses.response.tolist())
        if expert.down:
            lacking = sum(view.alignment is None or view.coherence is None for view in views)
            raise BadInput(
                f"judge {expert.name!r} cannot be reached ({expert.down}): {lacking} of {len(views)} responses have no "
                f"score; the replies so far are kept; go on with: {self.paths.command('judge')}"
            )
        settings, known = self.experiment.judging, self._cards(model)
        mine = card.of(known[known.judge == expert.name], settings, self.experiment.statistics.confidence)
        if not mine.reads_thoughts:
            views = [dataclasses.replace(view, thought_probability=None) for view in views]
        return marks.judged_frame(responses, expert.name, views, settings)


def describe(manifest):
    """What a unit's judging came to, in a sentence."""
    return f"{manifest['judgements']} judgements by {', '.join(manifest['judges'])}, {manifest['unscored']} unscored"


def _published(paths, units):
    judgements = marks.table(artifacts.read_jsonl(paths.judgements), marks.COLUMNS)
    validation = marks.table(artifacts.read_jsonl(paths.validation), VALIDATION_COLUMNS)
    cards, models = marks.table(artifacts.read_jsonl(paths.cards), card.COLUMNS), {unit.model for unit in units}
    of_models = (frame[frame.model.isin(models)].reset_index(drop=True) for frame in (validation, cards))
    return selected(judgements, units), *of_models
