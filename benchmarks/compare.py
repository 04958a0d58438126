"""An earlier commit against this one: `make run` of the same experiment, in turns.

Answers "is the whole faster than it was", which no comparison of single parts does.
    python benchmarks/compare.py COMMIT [--arms QA evil-QTA] [--rounds 1]
Takes COMMIT's demo, of it these arms (all, if not told), clones both commits and installs each as its README says, which is not timed.
Prints the seconds of both sides and records them beside what `run.py` measures. What is not committed is not measured.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import run
import yaml

from cotlib.experiment import ROOT

EXPERIMENT = "experiments/demo.yml"


def git(*arguments):
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


def make(folder, *arguments):
    """Run make in a folder as from a fresh shell; SystemExit with its last lines if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(["make", "-C", folder, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"make {' '.join(arguments)} in {folder}:\n{(done.stdout + done.stderr)[-2000:]}")


def installed(folder, commit, experiment):
    """A clone of `commit` with its environment, whose demo is `experiment` (the text of its file)."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    subprocess.run(["git", "-C", folder, "checkout", "--quiet", commit], check=True)
    (folder / EXPERIMENT).write_text(experiment, encoding="utf-8")
    make(folder, "craft")  # converts the model, which is a part of installing; `seconds` removes what else it makes
    return folder


def seconds(folder):
    """Seconds of `make run` from no results."""
    make(folder, "clean")
    started = time.perf_counter()
    make(folder, "run")
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    settings = yaml.safe_load(git("show", f"{options.commit}:{EXPERIMENT}"))
    settings["arms"] = options.arms or settings["arms"]
    experiment = yaml.safe_dump(settings)
    before, now = git("rev-parse", "--short", options.commit).strip(), git("rev-parse", "--short", "HEAD").strip()
    took = {before: [], now: []}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {commit: installed(Path(temporary) / commit, commit, experiment) for commit in took}
        for number in range(options.rounds):
            for commit in list(took)[:: 1 if number % 2 == 0 else -1]:
                took[commit].append(seconds(folders[commit]))
                print(f"round {number + 1}: {commit} {took[commit][-1]:.0f} s", flush=True)
    ratios = [old / new for old, new in zip(took[before], took[now])]
    run.record({
        "before": {
            "commit": before, "arms": len(settings["arms"]), "theirs": statistics.median(took[before]), "ours": statistics.median(took[now]),
            "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios), "rounds": options.rounds,
        }
    })  # fmt: skip
    print(f"{statistics.median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
