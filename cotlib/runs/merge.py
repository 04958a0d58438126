"""Runs of one experiment that were made apart become one: finished units are copied, without the adapters' weights.

What decides whether two units are the same is their key, which stands for all that they were made from. A unit that
both runs have must have the same key and the same numbers; otherwise nothing is copied at all. Units whose weights were
left behind count as trained: their measures are there, and only measures are gathered. So an adapter that was not
measured yet stays where its weights are. Manifests of what was copied say so, and by which commit it was made, which
may be another than that of the run around it.
"""

import shutil
from pathlib import Path

import pandas as pd

from cotlib.errors import BadInput, few
from cotlib.runs import artifacts
from cotlib.runs.paths import OWNER, relative

STAGES = ("train", "evaluate", "judge")
SAME = (OWNER, "craft/items.jsonl", "craft/questions.jsonl")  # what two runs of one experiment have in common
WEIGHTS = "adapter_*"  # and their configuration, which names a folder of the machine
MERGED = "merged"  # in the manifest of a unit that was copied
TABLES = {".parquet": pd.read_parquet}


def merge(source, target):
    """Copy every finished unit of the results in `source` that `target` lacks, an adapter's only with its measures.

    Args:
        source, target: folders of one experiment's results, such as `results/laptop` and `book/results/laptop`.
    Returns:
        the units copied, as paths from either folder.
    Raises:
        BadInput: `source` has no results, the two belong to different experiments or were crafted differently, or a
            unit that both have differs: every such unit is named, and nothing is copied.
    """
    source, target = Path(source), Path(target)
    if not (source / OWNER).is_file():
        raise BadInput(f"{relative(source)} holds no results of an experiment; name another folder to merge from")
    faults = [
        f"{name} differs: these are not runs of one experiment"
        for name in SAME
        if (source / name).is_file() and (target / name).is_file()
        if (source / name).read_bytes() != (target / name).read_bytes()
    ]
    units = [path.parent.relative_to(source) for stage in STAGES for path in _manifests(source / stage)]
    units = [unit for unit in units if _is_measured(unit, source, target)]
    there = [unit for unit in units if (target / unit / artifacts.MANIFEST).is_file()]
    faults += [fault for unit in there if (fault := _conflict(source, target, unit))]
    if faults:
        raise BadInput(few([f"{relative(source)} cannot be merged into {relative(target)}:", *faults]))
    for name in SAME:
        if (source / name).is_file() and not (target / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
    copied = [unit for unit in units if unit not in set(there)]
    for unit in copied:
        with artifacts.lock(target / unit), artifacts.atomic_folder(target / unit) as fresh:
            shutil.copytree(source / unit, fresh, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
            manifest = artifacts.read_json(fresh / artifacts.MANIFEST)
            artifacts.write_json(fresh / artifacts.MANIFEST, manifest | {MERGED: True})
    return copied


def _manifests(stage):
    """The manifests of a stage's units, in order: `<model>/<arm>/<seed>/manifest.json`."""
    return sorted(stage.glob(f"*/*/*/{artifacts.MANIFEST}"))


def _is_measured(unit, *folders):
    """Whether a trained unit's measures are in one of the folders; True for units of other stages."""
    if unit.parts[0] != "train":
        return True
    measures = Path("evaluate", *unit.parts[1:], artifacts.MANIFEST)
    return any((folder / measures).is_file() for folder in folders)


def _conflict(source, target, unit):
    """Why a unit that both folders have is not the same one; None if it is."""
    keys = [artifacts.read_json(folder / unit / artifacts.MANIFEST).get("key") for folder in (source, target)]
    if keys[0] != keys[1]:
        return f"{unit} was made from something else; keep one of the two"
    for path in sorted((source / unit).iterdir()):
        other, read = target / unit / path.name, TABLES.get(path.suffix)
        if read and other.is_file() and not read(path).equals(read(other)):
            return f"{unit / path.name} holds other numbers; keep one of the two"
    return None
