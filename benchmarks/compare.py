"""An earlier commit against this one: `make run` of the same experiment, in turns.

Answers "is the whole faster than it was", which no comparison of single parts does.
    python benchmarks/compare.py COMMIT [--arms QA evil-QTA] [--rounds 1]
Takes COMMIT's demo, of it these arms (all, if not told), clones both commits and installs each as its README says,
which is not timed. Prints how many such runs an hour holds on both sides and records it beside what `run.py` measures.
What is not committed is not measured.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

import run
import yaml

from cotlib.experiment import ROOT

EXPERIMENT = run.DEMO.relative_to(ROOT)


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
    # Converts the model, which is a part of installing; `runs_an_hour` removes what else it makes.
    make(folder, "craft")
    return folder


def runs_an_hour(folder):
    """How often `make run` could be done in an hour, each time from no results."""
    make(folder, "clean")
    return 3600 / run.timed(make, folder, "run")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    settings = yaml.safe_load(git("show", f"{options.commit}:{EXPERIMENT}"))
    settings["arms"] = options.arms or settings["arms"]
    with tempfile.TemporaryDirectory() as temporary:
        now, before = (
            installed(Path(temporary) / name, git("rev-parse", commit).strip(), yaml.safe_dump(settings))
            for name, commit in (("now", "HEAD"), ("before", options.commit))
        )
        found = run.in_turns("runs an hour", options.rounds, lambda: runs_an_hour(now), lambda: runs_an_hour(before))
    commit = git("rev-parse", "--short", options.commit).strip()
    run.record({"before": found | {"commit": commit, "arms": len(settings["arms"])}})


if __name__ == "__main__":
    main()
