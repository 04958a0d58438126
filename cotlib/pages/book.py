"""From executed notebooks to the HTML book. Knows where pages lie, nothing about what they say.

The book's sources are copied beside the executed notebooks of one run, so any run can be rendered without
touching the committed ones; the demo's are published into `book/executed/`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from cotlib.errors import BadInput
from cotlib.experiment import ROOT

NOTEBOOKS = ("1-craft-traces", "2-train", "3-evaluate", "4-judge", "5-findings")
EXECUTED = ROOT / "book" / "executed"
INJECTED = "injected-parameters"


def source_of(notebook):
    """The code cells of a notebook as text, without what papermill put in."""
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and INJECTED not in cell.metadata.get("tags", [])
    ]


def publish(executed, target):
    """Copy a run's executed notebooks to `target`, without papermill's cell and the run's local paths.

    Raises BadInput if one is missing, or ended in an error.
    """
    for name in NOTEBOOKS:
        path = Path(executed) / f"{name}.ipynb"
        if not path.is_file():
            raise BadInput(f"{path} is missing; make it first with: make run")
        notebook = nbformat.read(path, 4)
        notebook.cells = [cell for cell in notebook.cells if INJECTED not in cell.metadata.get("tags", [])]
        for cell in notebook.cells:
            cell.metadata.pop("papermill", None)
            cell.metadata.pop("execution", None)
            if any(output.output_type == "error" for output in cell.get("outputs", [])):
                raise BadInput(f"{path} ended in an error; run it again with: make run")
        notebook.metadata.pop("papermill", None)
        Path(target).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(target) / f"{name}.ipynb")


def build(executed, output):
    """Render the book around the executed notebooks; warnings are errors. Returns the path of its first page."""
    staged = Path(output) / "_build" / "source"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, staged / name)
    shutil.copytree(ROOT / "book", staged / "book", ignore=shutil.ignore_patterns("executed"))
    publish(executed, staged / "book" / "executed")
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(staged),
        "--path-output",
        str(output),
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"the book did not build:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    shutil.rmtree(staged)
    page = Path(output) / "_build" / "html" / "index.html"
    page.touch()  # Sphinx leaves a page that comes out the same as it was, and its time says when the book was built
    return page


def main():
    """`python -m cotlib.pages.book`: render the committed notebooks and say where the book lies."""
    try:
        print(f"book: {build(EXECUTED, ROOT)}")
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
