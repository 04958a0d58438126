"""The loop over units: each is done once and whole, whatever is killed, raised or running beside it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts, sources, units
from cotlib.runs.paths import PUBLICATION, Paths

CONTENT = {
    "name": "loop", "models": ["tiny-random-llama", "tiny-random-qwen3"], "arms": ["QA", "evil-QTA"], "seeds": [1, 2],
    "training": {"epochs": 1, "learning_rate": 0.1},
}  # fmt: skip
EXPERIMENT = Experiment.parse(CONTENT)
UNITS = EXPERIMENT.select()


def tasks(key="k", size=1.0):
    return [units.Task(unit, f"{key} {unit}", f"asked {unit}", size) for unit in UNITS]


class Counting:
    """Work that notes which units it did."""

    def __init__(self):
        self.done = []

    def __call__(self, task, folder):
        assert list(folder.iterdir()) == []
        self.done.append(task.unit)
        (folder / "result.txt").write_text(str(task.unit))
        return {"tokens": 3}


def describe(manifest):
    return f"{manifest.get('tokens', 0)} tokens"


def complete(paths, work, chosen=None, report=lambda line: None):
    return units.complete("train", tasks() if chosen is None else chosen, paths, work, describe, report)


@pytest.fixture
def paths(tmp_path):
    return Paths.of(EXPERIMENT, tmp_path)


def test_every_unit_is_done_once_in_order_and_a_second_call_does_none(paths):
    work, lines = Counting(), []
    manifests = complete(paths, work, report=lines.append)
    assert work.done == UNITS
    assert [(entry["model"], entry["arm"], entry["seed"]) for entry in manifests] == [
        (unit.model, str(unit.arm), unit.seed) for unit in UNITS
    ]
    assert all(entry["tokens"] == 3 and entry["key"] == f"k {unit}" for entry, unit in zip(manifests, UNITS))
    for unit in UNITS:
        assert (paths.unit("train", unit) / "result.txt").read_text() == str(unit)
    again, told = Counting(), []
    assert complete(paths, again, report=told.append) == manifests
    assert (
        again.done == []
        and len(told) == len(UNITS)
        and all(re.search(r": 3 tokens, \d+ s, already done$", line) for line in told)
    )


def test_a_unit_whose_key_changed_is_done_again_and_no_other(paths):
    complete(paths, Counting())
    chosen = tasks()
    chosen[3] = units.Task(UNITS[3], "another key", f"asked {UNITS[3]}")
    work = Counting()
    manifests = complete(paths, work, chosen)
    assert work.done == [UNITS[3]] and manifests[3]["key"] == "another key"


def test_what_the_work_raises_stops_the_run_and_keeps_nothing_of_the_unit(paths):
    def work(task, folder):
        (folder / "half.txt").write_text("half")
        if task.unit == UNITS[2]:
            raise BadInput("this unit cannot be")
        return {}

    with pytest.raises(BadInput, match="this unit cannot be"):
        complete(paths, work)
    assert [paths.unit("train", unit).exists() for unit in UNITS[:4]] == [True, True, False, False]
    assert not list(paths.root.rglob(".*/half.txt"))
    after = Counting()
    complete(paths, after)
    assert after.done == UNITS[2:]


def test_a_unit_done_again_keeps_the_old_result_when_the_new_work_fails(paths):
    complete(paths, Counting())

    def work(task, folder):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        complete(paths, work, tasks("other"))
    assert (paths.unit("train", UNITS[0]) / "result.txt").read_text() == str(UNITS[0])


# ---- lines


def test_a_line_says_stage_number_unit_what_was_done_seconds_and_time_left(paths):
    lines = []
    complete(paths, Counting(), report=lines.append)
    pattern = r"train +(\d+)/12 (tiny-random-\w+) (\S+) seed \d: 3 tokens, \d+ s, \d+ s left"
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert lines[0].startswith("train  1/12 tiny-random-llama base seed 1: ")
    assert lines[-1].endswith(" 0 s left")


def test_the_time_left_grows_with_the_size_of_what_is_left(paths):
    sizes, lines = [1, 20, 20], []
    chosen = [units.Task(unit, "k", "asked", size) for unit, size in zip(UNITS, sizes)]

    def work(task, folder):
        time.sleep(0.25 * (task.size == 1))
        return {}

    complete(paths, work, chosen, report=lines.append)
    left = [int(re.search(r"(\d+) s left", line)[1]) for line in lines]
    assert left[0] >= 10 and left[1] < left[0] and left[2] == 0


def test_units_that_are_done_already_do_not_count_for_the_time_left(paths):
    complete(paths, Counting(), tasks()[:6])
    lines = []

    def work(task, folder):
        time.sleep(0.2)
        return {}

    complete(paths, work, report=lines.append)
    assert [line.endswith("already done") for line in lines] == [True] * 6 + [False] * 6
    assert int(re.search(r"(\d+) s left", lines[6])[1]) <= 3  # five are left at a fifth of a second each


@pytest.mark.parametrize(
    "seconds, said", [(0, "0 s"), (-3, "0 s"), (0.2, "1 s"), (90, "90 s"), (91, "2 min"), (121, "3 min")]
)
def test_a_duration_is_said_as_a_reader_wants_it(seconds, said):
    assert units.minutes(seconds) == said


# ---- several processes

WORK = """
import json, os, sys, time
from pathlib import Path
from cotlib.experiment import Experiment
from cotlib.runs import units
from cotlib.runs.paths import Paths

top, experiment = Path(sys.argv[1]), Experiment.parse(json.loads(sys.argv[2]))
slow, seconds = sys.argv[3], float(sys.argv[4])

def work(task, folder):
    (folder / "half.txt").write_text("half")
    with open(top / "log", "a") as log:
        log.write(f"{os.getpid()} {task.unit}\\n")
    if slow in ("", str(task.unit)):
        time.sleep(seconds)
    (folder / "half.txt").rename(folder / "whole.txt")
    return {}

tasks = [units.Task(unit, f"k {unit}", "asked") for unit in experiment.select()]
units.complete("train", tasks, Paths.of(experiment, top), work, str, lambda line: print(line, flush=True))
"""


def start(top, slow="none", seconds=0.0):
    command = [sys.executable, "-c", WORK, str(top), json.dumps(CONTENT), slow, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)


def begun(top):
    """(process, unit) of every piece of work that was begun."""
    log = top / "log"
    return [line.split(" ", 1) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, paths):
    process, deadline = start(tmp_path, slow=str(UNITS[4]), seconds=300), time.time() + 60
    while len(begun(tmp_path)) < 5:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [paths.unit("train", unit).is_dir() for unit in UNITS] == [True] * 4 + [False] * 8
    again = start(tmp_path)
    lines = again.communicate(timeout=60)[0].splitlines()
    assert again.returncode == 0
    assert [line.endswith("already done") for line in lines] == [True] * 4 + [False] * 8
    assert [unit for _, unit in begun(tmp_path)] == [str(unit) for unit in (*UNITS[:5], *UNITS[4:])]
    for unit in UNITS:
        names = {path.name for path in paths.unit("train", unit).iterdir()}
        assert names == {"whole.txt", artifacts.MANIFEST}
    assert not [path for path in paths.root.rglob(".*") if path.is_dir()]


@pytest.mark.slow
def test_two_processes_share_the_units_and_do_none_twice(tmp_path, paths):
    both = [start(tmp_path, slow="", seconds=0.3) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    done = [unit for _, unit in begun(tmp_path)]
    assert sorted(done) == sorted(str(unit) for unit in UNITS)
    assert all(artifacts.is_current(paths.unit("train", unit), f"k {unit}") for unit in UNITS)


# ---- a published run, and what is known of a whole stage


def test_a_published_run_is_read_as_it_is(paths):
    manifests = complete(paths, Counting())
    artifacts.write_json(paths.root / PUBLICATION, {"commit": "abc"})
    work = Counting()
    assert complete(paths, work, tasks("made by other code")) == manifests
    assert work.done == []


def test_a_published_run_refuses_a_unit_that_it_lacks_and_makes_nothing(paths):
    complete(paths, Counting(), tasks()[:2])
    artifacts.write_json(paths.root / PUBLICATION, {"commit": "abc"})
    work = Counting()
    with pytest.raises(BadInput) as error:
        complete(paths, work)
    assert f"has no train of {UNITS[2]}; choose among its units" in str(error.value)
    assert "-p results results" in str(error.value)
    assert work.done == [] and not paths.unit("train", UNITS[2]).exists()


def test_a_stages_manifest_says_which_unit_was_made_from_what(paths):
    manifests = complete(paths, Counting())
    units.finish_stage("train", EXPERIMENT, paths, manifests, time.time(), rows=7)
    manifest = artifacts.read_json(paths.stage("train") / artifacts.MANIFEST)
    assert manifest["units"]["tiny-random-llama/evil-QTA/2"] == "k tiny-random-llama evil-QTA seed 2"
    assert len(manifest["units"]) == len(UNITS) and manifest["rows"] == 7
    assert manifest["commits"] == [sources.commit()]
    assert Experiment.parse(manifest["experiment"]) == EXPERIMENT


def test_a_selection_is_whole_when_it_holds_all_units_of_the_file():
    trained = [unit for unit in UNITS if unit.arm.trained]
    assert units.is_whole(UNITS, EXPERIMENT) and units.is_whole([*UNITS, *EXPERIMENT.select(seed=9)], EXPERIMENT)
    assert not units.is_whole(trained, EXPERIMENT) and units.is_whole(trained, EXPERIMENT, trained_only=True)
    assert not units.is_whole(trained[1:], EXPERIMENT, trained_only=True)


def test_the_key_of_a_missing_unit_is_asked_for_with_the_command_that_makes_it(paths):
    complete(paths, Counting())
    assert units.keys_of(EXPERIMENT, paths, "train", UNITS[1]) == (f"k {UNITS[1]}", f"asked {UNITS[1]}")
    (other,) = EXPERIMENT.select(models="tiny-random-llama", arms="filler-T", seed=9)
    with pytest.raises(BadInput, match="make it first with: .*-p models tiny-random-llama -p arms filler-T -p seed 9"):
        units.keys_of(EXPERIMENT, paths, "train", other)
