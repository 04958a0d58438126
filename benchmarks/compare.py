"""An earlier commit against the working tree: the same arms, items, epochs and questions, trained and evaluated in turns.

Answers "is the whole faster than it was", which no comparison of single parts does.
    python benchmarks/compare.py COMMIT [--arms QA evil-QTA] [--rounds 2]
Takes COMMIT's demo, of it these arms and `base`, and prints the seconds of both sides.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MEASURED = """
import json, sys, time
from cotlib import evaluation, traces, training
from cotlib.experiment import Experiment, Paths
experiment = Experiment.load(sys.argv[1])
paths = Paths.of(experiment, sys.argv[2])
traces.craft(experiment, paths, lambda line: None)
seconds = {}
for name, stage in (("training", training), ("evaluation", evaluation)):
    started = time.time()
    stage.run(experiment, paths, report=lambda line: None)
    seconds[name] = time.time() - started
print(json.dumps(seconds))
"""


def git(*arguments):
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def checkout(commit):
    """A folder with the files of `commit`, while the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        git("worktree", "add", "--detach", f"{folder}/before", commit)
        try:
            yield Path(folder) / "before"
        finally:
            git("worktree", "remove", "--force", f"{folder}/before")


def seconds(folder, experiment):
    """Seconds of training and of evaluation with the code in `folder`; an import and a model load are part of each."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-c", MEASURED, experiment, results]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--arms", nargs="+", default=["QA", "evil-QTA"])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    settings = yaml.safe_load(git("show", f"{options.commit}:experiments/demo.yml")) | {"arms": options.arms}
    ratios = []
    with checkout(options.commit) as before, tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(settings, file)
        file.flush()
        for number in range(options.rounds):
            found = {folder: seconds(folder, file.name) for folder in (before, ROOT)[:: 1 if number % 2 == 0 else -1]}
            ratios.append({name: found[before][name] / found[ROOT][name] for name in found[ROOT]})
            ratios[-1]["both"] = sum(found[before].values()) / sum(found[ROOT].values())
            for name, ratio in ratios[-1].items():
                values = [found[side].get(name, sum(found[side].values())) for side in (before, ROOT)]
                print(
                    f"round {number + 1}, {name}: {values[0]:.0f} s before, {values[1]:.0f} s now, {ratio:.2f}",
                    flush=True,
                )
    for name in ratios[0]:
        print(f"{name}: {statistics.median(ratio[name] for ratio in ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
