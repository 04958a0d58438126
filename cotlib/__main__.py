"""What the Makefile and the Snakefile call: check an experiment, run its workflow, render a book, publish a run."""

import re
import subprocess
import sys
import time
from pathlib import Path

import platformdirs

from cotlib.errors import BadInput
from cotlib.experiment import ROOT, Experiment
from cotlib.runs import artifacts, merge
from cotlib.runs.paths import NOTEBOOKS, OWNER, Paths, relative

WHOLE_RUN = "run.json"
RESULTS = "book/results"  # numbers that are kept with the book
# Routine messages of Snakemake and the kernel, which are not shown.
CHATTER = re.compile(
    r"Assuming unrestricted|Building DAG|Using shell|Select jobs|Execute \d+ jobs|Touching output|Nothing to be done|"
    r"\[IPKernelApp\]|Complete log|Elapsed time|Provided|Job stats|Finished job|.*steps \(.*done|\s*$"
)
USAGE = (
    "python -m cotlib check FILE | run FILE -- COMMAND… | seed FILE N | merge FILE FROM INTO | book EXECUTED OUTPUT | "
    "publish FILE"
)


def main(arguments):
    """Do what the arguments say. Returns the exit code: 2, and one message, for input that cannot be used."""
    command, *rest = arguments or [""]
    try:
        if command == "check" and len(rest) == 1:
            print(_checked(rest[0], measure=True)[0].summary)
            return 0
        if command == "run" and len(rest) > 2 and rest[1] == "--":
            return _run(rest[0], rest[2:])
        if command == "book" and len(rest) == 2:
            from cotlib.pages import book

            print(f"book: {relative(book.build(*rest))}", flush=True)
            return 0
        if command == "seed" and len(rest) == 2:
            return _seed(*rest)
        if command == "merge" and len(rest) == 3:
            return _merge(*rest)
        if command == "publish" and len(rest) == 1:
            from cotlib.pages import book

            experiment = Experiment.load(rest[0])
            folder = book.publish(experiment, Paths.of(experiment))
            print(f"published: {relative(book.EXECUTED)} and {relative(folder)}; render it with: make book")
            return 0
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    print(f"usage: {USAGE}", file=sys.stderr)
    return 2


def _checked(file, measure):
    from cotlib.stages.check import check

    experiment = Experiment.load(file)
    paths = Paths.of(experiment)
    check(experiment, paths, measure)
    return experiment, paths


def _run(file, command):
    """Check an experiment, run its workflow, and say where the results lie, or why it stopped and where that is kept.

    A run that began with nothing and was not interrupted leaves how long it took (`WHOLE_RUN`).
    """
    _require_cache()
    experiment, paths = _checked(file, measure=False)  # the first notebook measures
    print(experiment.summary, flush=True)
    page = paths.root / "book" / "index.html"
    whole, before, started = not paths.root.exists(), _modified(page), time.time()
    paths.own()
    log = paths.root / "run.log"
    code = _shown_and_kept(command, log)
    if code:
        print(
            f"the run stopped; the reason stands above and in {relative(log)}. What is finished is kept: "
            "the same command goes on from there",
            file=sys.stderr,
        )
        return code
    if before and before == _modified(page):
        print(f"{experiment.name}: nothing to be done for the book, it is up to date")
    elif whole and page.is_file():
        facts = {"experiment": experiment.model_dump(mode="json"), "seconds": round(time.time() - started, 1)}
        artifacts.write_json(paths.root / WHOLE_RUN, facts)
    for name, path in (("findings", paths.findings), ("book", page)):
        if path.is_file():
            print(f"{name}: {relative(path)}")
    return 0


def _seed(file, number):
    """Make one seed of an experiment, and keep its numbers in `book/results/`, from where another machine goes on."""
    _require_cache()
    experiment, paths = _checked(file, measure=False)
    if not number.isdecimal() or int(number) not in experiment.seeds:
        raise BadInput(f"SEED={number} is not one of the seeds of {file}; write one of {experiment.seeds}")
    kept = Paths.of(experiment, RESULTS)
    if (kept.root / OWNER).is_file():
        _merge(file, RESULTS, "results")
    for stage in ("craft", *merge.STAGES):
        of_seed = [] if stage == "craft" else ["-p", "seed", number]
        executed = paths.root / "notebooks" / f"seed-{number}" / f"{NOTEBOOKS[stage]}.ipynb"
        executed.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cotlib.runs.notebook", f"notebooks/{NOTEBOOKS[stage]}.ipynb", str(executed)]
        command += ["--cwd", ".", "-p", "experiment", file, "-p", "results", "results", *of_seed]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            return code
    return _merge(file, "results", RESULTS)


def _merge(file, source, target):
    """Copy the finished units of an experiment from one folder of results into another."""
    experiment = Experiment.load(file)
    source, target = (Paths.of(experiment, folder) for folder in (source, target))
    target.check_owner()
    if target.published:
        raise BadInput(f"{relative(target.root)} is a published run and is never written; name another folder")
    copied = merge.merge(source.root, target.root)
    total = {stage: sum(unit.parts[0] == stage for unit in copied) for stage in merge.STAGES}
    counts = ", ".join(f"{count} of {stage}" for stage, count in total.items())
    print(f"merged into {relative(target.root)}: {len(copied)} units ({counts})")
    return 0


def _require_cache():
    """Raise BadInput if Snakemake's folder in the user's cache cannot be made: it would stop with its call stack."""
    folder = Path(platformdirs.user_cache_dir("snakemake"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"the cache folder {str(folder)!r} cannot be made ({error.strerror}); "
            "name another one with: export XDG_CACHE_HOME=FOLDER"
        ) from None


def _modified(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def _shown_and_kept(command, log):
    """Run a command; what it prints goes to the screen as it comes, and into a file. Returns its exit code."""
    with open(log, "w", encoding="utf-8") as kept:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            if CHATTER.match(line):
                continue
            print(line, end="", flush=True)
            kept.write(line)
            kept.flush()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
