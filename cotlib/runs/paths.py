"""Where the results of an experiment lie: one folder a stage, one file a table."""

import dataclasses
import re
import shlex
from pathlib import Path

from cotlib.errors import BadInput
from cotlib.experiment import ROOT
from cotlib.runs import artifacts

OWNER = "experiment.json"  # in an experiment's folder: the file that it belongs to


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where the results of one experiment lie, below `results/<experiment>/`."""

    root: Path
    file: str  # the experiment file, for messages that name a command
    results: str  # the folder around `root`, as the reader gave it

    @classmethod
    def of(cls, experiment, results="results"):
        top = Path(results)
        return cls(
            (top if top.is_absolute() else ROOT / top) / experiment.name,
            experiment._file or f"experiments/{experiment.name}.yml",
            str(results),
        )

    def stage(self, name):
        return self.root / name

    def unit(self, stage, unit):
        """The folder of one model, arm and seed in a stage."""
        return self.root / stage / unit.folder

    @property
    def items(self):
        return self.root / "craft" / "items.jsonl"

    @property
    def questions(self):
        return self.root / "craft" / "questions.jsonl"

    @property
    def measures(self):
        return self.root / "evaluate" / "measures.parquet"

    @property
    def responses(self):
        return self._rows(self.root / "evaluate" / "responses.jsonl")

    @property
    def thoughts(self):
        return self.root / "evaluate" / "thoughts.jsonl.gz"

    @property
    def judgements(self):
        return self._rows(self.root / "judge" / "judgements.jsonl")

    @property
    def thought_types(self):
        return self.root / "judge" / "thoughts.parquet"

    @property
    def cards(self):
        return self.root / "judge" / "cards.jsonl.gz"

    @property
    def validation(self):
        return self.root / "judge" / "validation.jsonl"

    @property
    def scores(self):
        return self.root / "scores.parquet"

    @property
    def findings(self):
        return self.root / "findings.json"

    def _rows(self, path):
        """A published run keeps its long files compressed."""
        return path.with_name(f"{path.name}.gz") if self.published else path

    @property
    def published(self):
        """True if these are a published run's results (`book/results/`): read as they are, and never written."""
        return (self.root / PUBLICATION).is_file()

    def check_owner(self):
        """Raise BadInput if these results belong to another file, whose experiment has the same name."""
        mine, path = _identity(self.file), self.root / OWNER
        owner = artifacts.read_json(path).get("file", mine) if path.is_file() else mine
        if owner != mine:
            raise BadInput(
                f"{relative(self.root)} holds the results of {owner}, and {mine} has the same name; "
                f"write another name in {mine} (name: …), or remove {relative(self.root)}"
            )

    def own(self):
        """Let these results belong to this experiment file. Raises BadInput as `check_owner` does."""
        self.check_owner()
        path = self.root / OWNER
        if not path.is_file() and not self.published:
            artifacts.write_json(path, {"file": _identity(self.file)})

    def require(self, path, stage, unit=None):
        """`path`, if it is there; else BadInput that says which command makes it.

        Args:
            unit: the unit that the path belongs to, where the experiment file does not list it.
        """
        if not path.exists():
            raise BadInput(f"{relative(path)} is missing; make it first with: {self.command(stage, unit)}")
        return path

    def command(self, stage, unit=None):
        """The command that makes a stage here.

        That is `make`, or papermill where make cannot: for other folders, for units that are not listed, and for a
        file with a space in its name.
        """
        if unit is None and self.results == "results" and not re.search(r"\s", self.file):
            return f"make {stage} EXPERIMENT={self.file}"
        chosen = {"experiment": self.file}
        if unit is not None:
            chosen |= {"models": unit.model, "arms": unit.arm, "seed": unit.seed}
        if self.results != "results":
            chosen["results"] = self.results
        parameters = [word for name, value in chosen.items() for word in ("-p", name, str(value))]
        return shlex.join([".venv/bin/papermill", f"notebooks/{NOTEBOOKS[stage]}.ipynb", "out.ipynb", *parameters])


PUBLICATION = "publication.json"
NOTEBOOKS = {  # stage → notebook
    "craft": "1-craft-traces",
    "train": "2-train",
    "evaluate": "3-evaluate",
    "judge": "4-judge",
    "findings": "5-findings",
}
PAGES = {  # what a page shows of the findings → notebook
    "H1": "h1-amplification",
    "H2": "h2-semantics",
    "H3": "h3-sufficiency",
    "H4": "h4-internalisation",
    "routes": "two-routes",
}
CHAPTERS = (*NOTEBOOKS.values(), *PAGES.values())  # every notebook of the book, in its order


def _identity(file):
    """How an experiment file is named where it is remembered: from the book's top folder, or absolutely."""
    for candidate in (Path(file), ROOT / file):
        if candidate.is_file():
            return str(relative(candidate.resolve()))
    return str(file)


def relative(path):
    """A path as seen from the book's top folder, if it lies below."""
    path = Path(path)
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
