"""From executed notebooks to the HTML book, and from a run to the published one.

Knows where pages lie, nothing about what they say. The book's sources are copied beside the executed notebooks of one
run, so any run can be rendered without touching the published one: `book/executed/` (its notebooks) and `book/results/`
(its numbers) change by `publish` alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from cotlib.errors import BadInput
from cotlib.experiment import ROOT
from cotlib.pages.sentences import count
from cotlib.runs import artifacts
from cotlib.runs import sources as code
from cotlib.runs.paths import CHAPTERS, PUBLICATION, Paths, relative

EXECUTED = ROOT / "book" / "executed"
RESULTS = ROOT / "book" / "results"
INJECTED = "injected-parameters"
RUN = "run.json"  # beside published notebooks: which run they show
LARGEST_MEGABYTES = 25
FACTS = ("experiment", "file", "commit", "measured_by", "rules", "finished", "hardware")  # of a run, on its pages
FRAME = ("_config.yml", "_toc.yml", "PREREGISTRATION.md")  # what the book is made of beside its own folder


def sources():
    """The files a book is made of beside its executed notebooks: paths from the top folder."""
    pages = [path for path in (ROOT / "book").glob("*.*") if path.is_file()]
    static = list((ROOT / "book" / "_static").glob("*"))
    names = [*FRAME, *(str(path.relative_to(ROOT)) for path in (*pages, *static))]
    return sorted({*names, *code.files_of(Path(__file__)), str(Path(__file__).relative_to(ROOT))})


def source_of(notebook):
    """The code cells of a notebook as text, without what papermill put in."""
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and INJECTED not in cell.metadata.get("tags", [])
    ]


def cleaned(path):
    """An executed notebook without papermill's cell and the run's local paths.

    Raises BadInput if it is missing, or ended in an error.
    """
    if not path.is_file():
        raise BadInput(f"{relative(path)} is missing; make it first with: make run EXPERIMENT=FILE")
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if INJECTED not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            raise BadInput(f"{relative(path)} ended in an error; run it again with: make run EXPERIMENT=FILE")
    notebook.metadata.pop("papermill", None)
    return notebook


def about(executed):
    """What is known of the run behind executed notebooks: experiment, commit, date, processor; {} if nothing is."""
    for path in (Path(executed) / RUN, Path(executed).parent / artifacts.MANIFEST):
        if path.is_file():
            manifest = artifacts.read_json(path)
            return {name: manifest.get(name) for name in FACTS}
    return {}


def provenance(facts):
    """One line under a page's title: which run it shows, of which models and seeds, by which commit, when and where."""
    if not facts:
        return "> This page shows a run of which nothing more is known."
    machine = facts["hardware"]
    measured_by = [commit for commit in facts.get("measured_by") or [] if commit != facts["commit"]]
    others = f" (measured by the code of {', '.join(f'`{commit}`' for commit in measured_by)})" if measured_by else ""
    return (
        f"> This page shows the run `{facts['experiment']['name']}` ({', '.join(facts['experiment']['models'])}; "
        f"{count(len(facts['experiment']['seeds']), 'seed')} for each arm) of {facts['finished'][:10]}, "
        f"by the code of commit `{facts['commit']}`{others}, "
        f"with the rules of commit `{facts.get('rules') or 'unknown'}`, "
        f"on {machine['cores']} cores of {machine['processor']}"
        + ("." if machine["accelerator"] == "none" else f" with {machine['accelerator']}.")
    )


def _under_the_title(page, line):
    return page.replace("\n\n", f"\n\n{line}\n\n", 1)


def build(executed, output):
    """Render the book around executed notebooks into the folder `output`; warnings are errors.

    Returns:
        path of its first page.
    Raises:
        BadInput: a notebook is missing or ended in an error, or the book did not build; `output` is then as before.
    """
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".book-", dir=output.parent) as temporary:
        staged = Path(temporary) / "source"
        shutil.copytree(ROOT / "book", staged / "book", ignore=shutil.ignore_patterns("executed", "results"))
        for name in FRAME:
            shutil.copy(ROOT / name, staged / name)
        (staged / "book" / "executed").mkdir()
        line = provenance(about(executed))
        for name in CHAPTERS:
            notebook = cleaned(Path(executed) / f"{name}.ipynb")
            notebook.cells[0].source = _under_the_title(notebook.cells[0].source, line)
            nbformat.write(notebook, staged / "book" / "executed" / f"{name}.ipynb")
        landing = staged / "book" / "index.md"
        landing.write_text(_under_the_title(landing.read_text(encoding="utf-8"), line), encoding="utf-8")
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged)]
        command += ["--path-output", temporary, "-W", "-n", "--keep-going", "-q"]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise BadInput(f"the book did not build:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        with artifacts.atomic_folder(output) as fresh:
            shutil.copytree(Path(temporary) / "_build" / "html", fresh, dirs_exist_ok=True)
    return output / "index.html"


def publish(experiment, paths):
    """Make a finished run the published one: its notebooks to `book/executed/`, its numbers to `book/results/<name>/`.

    From those numbers the notebooks after training can be executed again, without training anything.

    Returns:
        the folder with the numbers.
    Raises:
        BadInput: a stage is missing, another experiment file has published under this name, or the numbers take more
            than `LARGEST_MEGABYTES`; nothing is changed then.
    """
    paths.check_owner()
    for path, stage in ((paths.findings, "findings"), (paths.judgements, "judge"), (paths.measures, "evaluate")):
        paths.require(path, stage)
    notebooks = {name: cleaned(paths.root / "notebooks" / f"{name}.ipynb") for name in CHAPTERS}
    facts = about(paths.root / "notebooks")
    target = RESULTS / experiment.name
    Paths.of(experiment, RESULTS).own()
    with artifacts.atomic_folder(target) as fresh:
        _copy_numbers(paths, fresh)
        artifacts.write_json(fresh / PUBLICATION, facts)
        megabytes = sum(file.stat().st_size for file in fresh.rglob("*") if file.is_file()) / 1e6
        if megabytes > LARGEST_MEGABYTES:
            raise BadInput(
                f"the results of {experiment.name} take {megabytes:.0f} MB, of which a book keeps at most "
                f"{LARGEST_MEGABYTES}; lower evaluation.samples or evaluation.responses"
            )
    with artifacts.atomic_folder(EXECUTED) as fresh:
        for name, notebook in notebooks.items():
            nbformat.write(notebook, fresh / f"{name}.ipynb")
        artifacts.write_json(fresh / RUN, facts)
    return target


def _copy_numbers(paths, target):
    """All of a run but its adapters: manifests and logs as they are, long files compressed."""
    for path in sorted(paths.root.rglob("*.json")) + sorted(paths.root.glob("train/**/log.jsonl")):
        if "book" not in path.relative_to(paths.root).parts[:1] and not path.name.startswith("adapter"):
            (target / path.relative_to(paths.root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.relative_to(paths.root))
    read = (paths.thought_types, paths.validation, paths.cards, paths.scores)
    for path in (paths.items, paths.questions, paths.measures, paths.thoughts, *read):
        (target / path.relative_to(paths.root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.relative_to(paths.root))
    for path in (paths.responses, paths.judgements):
        rows = artifacts.read_jsonl(path)
        artifacts.write_jsonl(target / path.relative_to(paths.root).with_name(f"{path.name}.gz"), rows)
