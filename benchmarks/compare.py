"""An earlier commit against the working tree: the same arms, items, epochs and questions, trained and evaluated in turns.

Answers "is the whole faster than it was", which no comparison of single parts does.
    python benchmarks/compare.py COMMIT [--arms QA evil-QTA] [--rounds 2]
Takes COMMIT's demo, of it these arms and `base`, prints the seconds of both sides, and records them beside what `run.py` measures.
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

import run
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
    settings = yaml.safe_load(git("show", f"{options.commit}:experiments/demo.yml"))
    settings["arms"] = settings["arms"] if options.arms == ["all"] else options.arms
    names = ("training", "evaluation", "both")
    rounds = []
    with checkout(options.commit) as before, tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(settings, file)
        file.flush()
        for number in range(options.rounds):
            found = {folder: seconds(folder, file.name) for folder in (before, ROOT)[:: 1 if number % 2 == 0 else -1]}
            rounds.append([{**side, "both": sum(side.values())} for side in (found[before], found[ROOT])])
            for name in names:
                old, new = (side[name] for side in rounds[-1])
                print(f"round {number + 1}, {name}: {old:.0f} s before, {new:.0f} s now, {old / new:.2f}", flush=True)
    ratios = {name: [old[name] / new[name] for old, new in rounds] for name in names}
    for name in names:
        print(f"{name}: {statistics.median(ratios[name]):.2f} times as fast")
    run.record({
        "before": {
            "commit": options.commit, "arms": settings["arms"],
            "before": statistics.median(old["both"] for old, _ in rounds), "now": statistics.median(new["both"] for _, new in rounds),
            "ratio": statistics.median(ratios["both"]), "lowest": min(ratios["both"]), "highest": max(ratios["both"]), "rounds": len(rounds),
        }
    })  # fmt: skip


if __name__ == "__main__":
    main()
