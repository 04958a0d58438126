"""The one loop over units: train, evaluate and judge are each a function that finishes one unit in an empty folder.

A unit (model, arm, seed) is done whole or not at all: its folder appears when all of it is written, with a manifest
whose key stands for everything the result depends on. A run that was killed goes on with the first unit that is
missing; a unit whose key is the same is never done twice; two processes share the units, because each holds a lock.

A key covers the code and the versions of libraries, so a unit is made again when they change. One that was merged from
a run made apart is kept as it is as long as what was asked for is the same (the unit, its data, its settings): its
manifest names the commit that made it.
"""

import dataclasses
import math
import time
from typing import Any

from cotlib.errors import BadInput
from cotlib.experiment import Unit
from cotlib.runs import artifacts, merge, sources
from cotlib.runs.paths import relative


@dataclasses.dataclass(frozen=True)
class Task:
    """A unit to finish: the key of its result, what was asked for (a digest that leaves out code and versions), how
    much work it is (in any measure), and what the work needs."""

    unit: Unit
    key: str
    asked: str
    size: float = 1.0
    inputs: Any = None


def complete(stage, tasks, paths, work, describe, report=print):
    """Finish every task that is not finished yet, in order, and say so in one line each.

    Args:
        stage: its name, for folders and lines.
        tasks: a list of `Task`.
        paths: the experiment's `Paths`.
        work: `work(task, folder)` writes a unit's files into an empty folder and returns facts for its manifest. What
            it raises stops the run; nothing of that unit is kept.
        describe: `describe(manifest)` says in a sentence what was done; a unit that was done before is described, too.
    Returns:
        list of the units' manifests, in the order of the tasks.
    Raises:
        BadInput: a published run lacks a unit; it is read as it is and nothing is made in it.
    """
    folders = [paths.unit(stage, task.unit) for task in tasks]
    if paths.published:
        return [_published(paths, stage, task.unit) for task in tasks]
    left = sum(task.size for task, folder in zip(tasks, folders) if not is_done(folder, task))
    done, began, commit = 0.0, time.time(), sources.commit()
    for number, (task, folder) in enumerate(zip(tasks, folders), 1):
        name = f"{stage} {number:{len(str(len(tasks)))}d}/{len(tasks)} {task.unit}"
        with artifacts.lock(folder):
            if is_done(folder, task):
                manifest = artifacts.read_json(folder / artifacts.MANIFEST)
                report(f"{name}: {describe(manifest)}, {manifest['seconds']:.0f} s, already done")
                continue
            started = time.time()
            with artifacts.atomic_folder(folder) as temporary:
                facts = work(task, temporary)
                unit = {"model": task.unit.model, "arm": str(task.unit.arm), "seed": task.unit.seed}
                unit |= {"key": task.key, "asked": task.asked, "commit": commit}
                manifest = artifacts.write_manifest(temporary, started=started, **unit, **facts)
        done, left = done + task.size, left - task.size
        remaining = max(left, 0) * (time.time() - began) / done
        report(f"{name}: {describe(manifest)}, {manifest['seconds']:.0f} s, {minutes(remaining)} left")
    return [artifacts.read_json(folder / artifacts.MANIFEST) for folder in folders]


def is_done(folder, task):
    """True if a unit's folder holds the result of this task, or that of another commit which was merged into it."""
    if artifacts.is_current(folder, task.key):
        return True
    return artifacts.is_current(folder, task.asked, "asked") and artifacts.is_current(folder, True, merge.MERGED)


def _published(paths, stage, unit):
    manifest = paths.unit(stage, unit) / artifacts.MANIFEST
    if not manifest.is_file():
        raise BadInput(
            f"the published run in {relative(paths.root)} has no {stage} of {unit}; "
            "choose among its units, or make your own run with -p results results"
        )
    return artifacts.read_json(manifest)


def finish_stage(stage, experiment, paths, manifests, started, **facts):
    """Write a stage's manifest, when all of the experiment's units are done: which unit was made from what, and by
    which commits of the code."""
    facts["commits"] = sorted({manifest.get("commit") or "unknown" for manifest in manifests})
    units = {f"{manifest['model']}/{manifest['arm']}/{manifest['seed']}": manifest["key"] for manifest in manifests}
    artifacts.write_manifest(
        paths.stage(stage), started=started, experiment=experiment.model_dump(mode="json"), units=units, **facts
    )


def is_whole(units, experiment, trained_only=False):
    """True if these units hold all of the experiment's."""
    wanted = [unit for unit in experiment.select() if unit.arm.trained or not trained_only]
    return set(units) >= set(wanted)


def minutes(seconds):
    """A duration as a reader wants it: `40 s`, `3 min`."""
    return f"{math.ceil(seconds / 60)} min" if seconds > 90 else f"{math.ceil(max(seconds, 0))} s"


def keys_of(experiment, paths, stage, unit):
    """(key, asked) in a finished unit's manifest, None for what a manifest of an older version lacks.

    Raises BadInput, with the command that makes the unit, if it is missing.
    """
    path = paths.unit(stage, unit) / artifacts.MANIFEST
    paths.require(path, stage, None if unit in experiment.select() else unit)
    manifest = artifacts.read_json(path)
    return manifest["key"], manifest.get("asked")
