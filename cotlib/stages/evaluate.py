"""The evaluate stage: the measures and responses of every unit, `base` among them."""

import dataclasses
import time

import pandas as pd

from cotlib import measures, responses, scores
from cotlib.arms import BASE, Arm
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.runs import artifacts, machine, merge
from cotlib.runs import units as runs
from cotlib.runs.paths import relative
from cotlib.stages import craft

MEASURES, RESPONSES, THOUGHTS = "measures.parquet", "responses.jsonl", "thoughts.jsonl.gz"


def evaluate(experiment, paths, units=None, report=print):
    """Measure the given units; with all of the experiment's, the gathered files are written, too.

    Args:
        units: as `Experiment.select` gives them; None for all. `base` joins every selection, because each arm is read
            as a difference from it.
    Returns:
        (measures, responses) of the selection: a frame with the columns of `scores`, and one with a row per response.
    Raises:
        BadInput: questions or an adapter are missing: before any work.
    """
    paths.own()
    started = time.time()
    units = with_base(units or experiment.select())
    if paths.published:
        said = pd.DataFrame(artifacts.read_jsonl(paths.responses), columns=[*scores.UNIT_COLUMNS, *responses.COLUMNS])
        return selected(pd.read_parquet(paths.measures), units), selected(said, units)
    _, questions = craft.load(paths)
    tasks = _tasks(experiment, paths, units, questions)
    manifests = runs.complete(
        "evaluate", tasks, paths, _Work(experiment.evaluation, questions, paths), describe, report
    )
    measured, said = read(paths, units)
    if runs.is_whole(units, experiment):
        artifacts.write_table(paths.measures, measured)
        artifacts.write_jsonl(paths.responses, artifacts.plain_records(said))
        artifacts.write_jsonl(paths.thoughts, thoughts(paths, units))
        runs.finish_stage("evaluate", experiment, paths, manifests, started)
    return measured, said


def read(paths, units):
    """The measures and responses of finished units, as two frames."""
    folders = [paths.unit("evaluate", unit) for unit in units]
    measured = pd.concat([pd.read_parquet(folder / MEASURES) for folder in folders], ignore_index=True)
    rows = [row for folder in folders for row in artifacts.read_jsonl(folder / RESPONSES)]
    return measured, pd.DataFrame(rows, columns=[*scores.UNIT_COLUMNS, *responses.COLUMNS])


def thoughts(paths, units):
    """The sampled thoughts of finished units: mappings with the columns of a unit and `responses.THOUGHT_COLUMNS`."""
    return [row for unit in units for row in artifacts.read_jsonl(paths.unit("evaluate", unit) / THOUGHTS)]


def with_base(units):
    """The units, and before each the `base` of its model and seed: draws differ from seed to seed."""
    return list(dict.fromkeys(one for unit in units for one in (_base_of(unit), unit)))


def _base_of(unit):
    return dataclasses.replace(unit, arm=Arm.parse(BASE))


def _tasks(experiment, paths, units, questions):
    tasks = []
    for unit in units:
        adapter = runs.keys_of(experiment, paths, "train", unit) if unit.arm.trained else (None, None)
        task = runs.Task(unit, *measures.measuring_keys(experiment.evaluation, unit, questions, adapter))
        _require_weights(paths, task)
        tasks.append(task)
    return tasks


def _require_weights(paths, task):
    """Refuse to measure an arm whose adapter's weights were left behind when its run was merged into this one."""
    unit, folder = task.unit, paths.unit("train", task.unit)
    measured = runs.is_done(paths.unit("evaluate", unit), task)
    if unit.arm.trained and not measured and not any(folder.glob(merge.WEIGHTS)):
        raise BadInput(
            f"{relative(folder)} holds no adapter, because it was merged from another run without its weights, and its "
            f"measures are missing or were asked for otherwise; remove that folder, then: {paths.command('train')}"
        )


class _Work:
    """Measures one unit after another; a base model is loaded once, and only if one of its units is not done yet."""

    def __init__(self, settings, questions, paths):
        self.settings, self.questions, self.paths, self.loaded = settings, questions, paths, None

    def __call__(self, task, folder):
        unit = task.unit
        if self.loaded is None or self.loaded[0] != unit.model:
            self.loaded = (unit.model, *models.load(unit.model))
        _, model, tokenizer = self.loaded
        adapter = self.paths.unit("train", unit) if unit.arm.trained else None
        of_base = self._thoughts_of_base(unit) if unit.arm.trained else None
        with models.adapted(model, adapter) as adapted:
            rows, said, thought, counts = measures.measure(
                self.settings, adapted, tokenizer, self.questions, unit.seed, of_base
            )
        machine.release_memory()
        artifacts.write_table(folder / MEASURES, scores.of_unit(rows, unit))
        named = {"model": unit.model, "arm": str(unit.arm), "seed": unit.seed}
        artifacts.write_jsonl(folder / RESPONSES, [named | response for response in said])
        artifacts.write_jsonl(folder / THOUGHTS, [named | row for row in thought])
        return counts

    def _thoughts_of_base(self, unit):
        """What the untrained model thought with this seed, question id → text; it is measured before its arms."""
        return {row["question_id"]: row["trace"] for row in thoughts(self.paths, [_base_of(unit)]) if not row["sample"]}


def describe(manifest):
    """What a unit's evaluation came to, in a sentence."""
    rate = manifest["sampled_tokens"] / max(manifest["sampling_seconds"], 1e-9)
    return (
        f"{manifest['scored_texts']} texts scored, {manifest['responses']} responses, "
        f"{manifest['sampled_tokens']} tokens sampled at {rate:.0f} tok/s"
    )


def selected(frame, units):
    """The rows of a frame that belong to these units."""
    wanted = {(unit.model, str(unit.arm), unit.seed) for unit in units}
    chosen = [row in wanted for row in frame[scores.UNIT_COLUMNS].itertuples(index=False, name=None)]
    return frame[pd.Series(chosen, index=frame.index, dtype=bool)].reset_index(drop=True)
