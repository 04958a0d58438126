"""Before and after the workflow: is everything an experiment names there, and what did the run make?

The grid itself is the Snakefile's; there is no loop over notebooks here.
"""

import subprocess
import sys
import time

from cotlib.corpus import traces
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.experiment import ROOT, Experiment, Paths
from cotlib.judges import judging
from cotlib.pages import book
from cotlib.runs import artifacts

DEMO = "demo"  # the experiment whose executed notebooks are the committed book
WHOLE_RUN = "run.json"


def check(experiment):
    """Raise BadInput if a model, the corpus, a trace type or a judge that the experiment names is not there. Trains and writes nothing."""
    for model_id in experiment.models:
        models.check(model_id)
    traces.check(experiment)
    judging.check(experiment)


def run(file, snakemake, results="results"):
    """Run an experiment's workflow, build its book, and say where that lies. Returns the exit code.

    A run that began with nothing and was not interrupted leaves how long it took (`run.json`).

    Args:
        snakemake: the command, as a list.
        results: the folder that the command writes to.
    """
    experiment = Experiment.load(file)
    check(experiment)
    paths = Paths.of(experiment, results)
    before, whole, started = _modified(paths.findings), not paths.root.exists(), time.time()
    code = subprocess.run(snakemake, check=False).returncode
    if code:
        print(
            f"the run stopped; what is finished is kept, and the same command goes on from there (Snakemake's log: {ROOT / '.snakemake' / 'log'})",
            file=sys.stderr,
        )
        return code
    demo = experiment.name == DEMO
    output = ROOT if demo else paths.root
    page = output / "_build" / "html" / "index.html"
    sources = [
        *(ROOT / "book").glob("*.*"),
        ROOT / "_config.yml",
        ROOT / "_toc.yml",
        *(paths.root / "notebooks").glob("*.ipynb"),
    ]
    if before == _modified(paths.findings) and all(_modified(source) <= _modified(page) for source in sources):
        print(f"{experiment.name}: nothing to be done, results and book are up to date")
    else:
        if demo:
            book.publish(paths.root / "notebooks", book.EXECUTED)
        print("book: building", flush=True)
        book.build(paths.root / "notebooks", output)
        if whole:
            artifacts.write_json(
                paths.root / WHOLE_RUN,
                {"experiment": experiment.model_dump(), "seconds": round(time.time() - started, 1)},
            )
    print(f"findings: {paths.findings}\nbook: {page}")
    return 0


def _modified(path):
    return path.stat().st_mtime if path.exists() else 0.0


def main(arguments):
    """`python -m cotlib.workflow check FILE`, or `run FILE -- COMMAND…`."""
    try:
        if arguments[0] == "check":
            experiment = Experiment.load(arguments[1])
            check(experiment)
            print(experiment.summary)
            return 0
        return run(arguments[1], arguments[arguments.index("--") + 1 :])
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
