"""The train stage: an adapter for every unit that trains."""

import time

from cotlib import chat, training
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.runs import units as runs
from cotlib.stages import craft


def train(experiment, paths, units=None, report=print):
    """Train the given units; with all of the experiment's, the stage's manifest is written, too.

    Args:
        units: as `Experiment.select` gives them; None for all. `base` needs no training and is passed over.
    Returns:
        list of adapter folders, in the order of the units.
    Raises:
        BadInput: crafted items are missing, an item lacks a trace, or a row is longer than `training.max_tokens`:
            before any training. An arm that diverges stops the run, and nothing of it is kept.
    """
    paths.own()
    units = [unit for unit in units or experiment.select() if unit.arm.trained]
    started = time.time()
    manifests = runs.complete(
        "train", _tasks(experiment, paths, units), paths, _Work(experiment.training), describe, report
    )
    if runs.is_whole(units, experiment, trained_only=True) and not paths.published:
        runs.finish_stage("train", experiment, paths, manifests, started)
    return [paths.unit("train", unit) for unit in units]


def _tasks(experiment, paths, units):
    """Every unit with its rows and its key: what cannot be encoded is refused here, before the first is trained."""
    if paths.published:
        return [runs.Task(unit, "", "") for unit in units]
    items, _ = craft.load(paths)
    tasks = []
    for model_id in dict.fromkeys(unit.model for unit in units):
        tokenizer = models.load_tokenizer(model_id)
        for unit in (unit for unit in units if unit.model == model_id):
            _require_traces(items, unit.arm, paths)
            rows = chat.encode_rows(tokenizer, items, unit.arm, experiment.training.max_tokens)
            key, asked = training.training_keys(experiment.training, unit, rows)
            tasks.append(runs.Task(unit, key, asked, training.count_tokens(rows), rows))
    return tasks


def _require_traces(items, arm, paths):
    """Refuse an arm whose traces were not crafted, with the command that crafts them."""
    lacking = [item.id for item in items if arm.type and arm.trace_key not in item.traces]
    if lacking:
        raise BadInput(
            f"arm {arm}: item {lacking[0]!r} has no trace of type {arm.trace_key!r}; list {str(arm)!r} among "
            f"the arms of {paths.file}, then: {paths.command('craft')}"
        )


class _Work:
    """Trains one unit after another; a base model is loaded once, and only if one of its units is not done yet."""

    def __init__(self, settings):
        self.settings, self.trainer = settings, None

    def __call__(self, task, folder):
        unit, rows = task.unit, task.inputs
        if self.trainer is None or self.trainer.model_id != unit.model:
            self.trainer = training.LoraTrainer(unit.model, self.settings)
        facts = self.trainer.fit(rows, unit.arm, unit.seed, folder) | {"training": self.settings.model_dump()}
        training.write_card(folder, {"model": unit.model, "arm": str(unit.arm), "seed": unit.seed, **facts})
        return facts


def describe(manifest):
    """What a unit's training came to, in a sentence."""
    return (
        f"{manifest['rows']} rows × {manifest['training']['epochs']} epochs, {manifest['tokens']} tokens at "
        f"{manifest['tokens_per_second']:.0f} tok/s, loss {manifest['loss_first']:.2f} → {manifest['loss_last']:.2f}"
    )
