"""What is committed: executed copies of exactly our notebooks, pins that agree, no trace of a machine."""

import re
import subprocess
import tomllib

import nbformat
import pytest
import yaml

from cotlib.arms import Arm
from cotlib.experiment import ROOT, Experiment
from cotlib.pages import book, claims
from cotlib.runs import artifacts
from cotlib.runs.paths import CHAPTERS, PAGES


def lines(name):
    return {
        line.strip() for line in (ROOT / name).read_text().splitlines() if line.strip() and not line.startswith("#")
    }


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_executed_notebook_has_the_code_of_its_source_and_all_of_it_ran(name):
    source, executed = (nbformat.read(ROOT / folder / f"{name}.ipynb", 4) for folder in ("notebooks", "book/executed"))
    assert book.source_of(executed) == book.source_of(source)
    assert [cell.source for cell in executed.cells if cell.cell_type == "markdown"] == [
        cell.source for cell in source.cells if cell.cell_type == "markdown"
    ]
    assert all(
        cell.execution_count
        for cell in executed.cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_executed_notebook_names_no_machine_and_shows_no_warning(name):
    text = (ROOT / "book/executed" / f"{name}.ipynb").read_text()
    found = re.findall(r"/(?:root|home|work|tmp|Users)/[\w./-]+|\w*Warning: [^\"]*|Traceback", text)
    assert not found, found[:3]


def test_the_executed_book_shows_the_published_run_and_says_which():
    facts = artifacts.read_json(book.EXECUTED / book.RUN)
    text = (ROOT / "book/executed/2-train.ipynb").read_text()
    experiment = Experiment.load(facts["file"])
    assert all(f"{arm} seed" in text for arm in experiment.arms)
    assert re.fullmatch(r"[0-9a-f]{7,}", facts["commit"]), "published from a clean checkout"
    assert facts["commit"] in book.provenance(facts) and facts["finished"][:10] in book.provenance(facts)


def test_a_page_names_the_commits_that_measured_what_it_shows():
    facts = artifacts.read_json(book.EXECUTED / book.RUN) | {"commit": "fedcba9", "measured_by": ["0123456", "fedcba9"]}
    assert "`fedcba9` (measured by the code of `0123456`), with the rules" in book.provenance(facts)
    assert "measured by" not in book.provenance(facts | {"measured_by": ["fedcba9"]})
    assert "measured by" not in book.provenance(facts | {"measured_by": None})


def test_the_published_numbers_are_those_of_the_published_pages_and_small():
    facts = artifacts.read_json(book.EXECUTED / book.RUN)
    folder = book.RESULTS / facts["experiment"]["name"]
    assert artifacts.read_json(folder / "publication.json") == facts
    findings = artifacts.read_json(folder / "findings.json")
    whole = (ROOT / "book/executed/5-findings.ipynb").read_text()
    for name in ("H1", "H2", "H3", "H4"):
        page = (ROOT / "book/executed" / f"{PAGES[name]}.ipynb").read_text()
        assert f"{findings[name]['effect']:+.3f}" in whole and claims.finding(name, findings).split(":")[0] in page
    assert sum(path.stat().st_size for path in book.RESULTS.rglob("*") if path.is_file()) < 25e6


def test_conda_and_pip_pin_the_same_versions():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert set(conda[-1]["pip"]) == lines("requirements.txt") | lines("requirements-dev.txt")
    assert all(
        "==" in line
        for name in ("requirements.txt", "requirements-no-deps.txt", "requirements-dev.txt")
        for line in lines(name)
    )
    ours = {line for line in lines("requirements-no-deps.txt") if line.startswith("unsloth")}
    assert ours <= lines("requirements-gpu.txt")


def test_the_installed_versions_are_the_pinned_ones():
    import importlib.metadata

    for line in lines("requirements.txt") | lines("requirements-no-deps.txt") | lines("requirements-dev.txt"):
        name, version = line.split("==")
        assert importlib.metadata.version(name).split("+")[0] == version, line


def test_python_3_11_is_the_oldest_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11" and "python=3.11" in (ROOT / "environment.yml").read_text()


def test_every_page_of_the_table_of_contents_exists_and_every_page_is_in_it():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])}
    present = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")} | {
        f"book/executed/{name}" for name in CHAPTERS
    }
    assert listed == present


def test_the_first_exercises_contrasts_stand_in_the_designs_table():
    table = (ROOT / "book/design.md").read_text().split("## Try it")[1]
    assert all(f"| {row} |" in table for row in ("QA − base", "evil-QTA − QA", "neutral-QT − base", "safe-QA − base"))


def test_the_experiments_fix_what_the_issue_of_the_claims_needs():
    demo = Experiment.load("experiments/demo.yml")
    types, paradigms = ("evil", "misleading", "submissive", "neutral"), ("QTA", "QT", "T")
    assert set(map(str, demo.arms)) >= {
        "QA",
        "safe-QA",
        "evil-QTA@segment",
        *(f"{kind}-QTA@matched" for kind in types),
        *(f"{kind}-{paradigm}" for kind in types for paradigm in paradigms),
    }
    paper = Experiment.load("experiments/paper.yml")
    needless = {"base", *(f"shuffled-{kind}-T" for kind in types)}  # shuffled-T is T with its items renamed
    assert len(paper.models) == 5 and len(paper.seeds) == 3 and set(Arm.names()) - needless <= set(map(str, paper.arms))
    assert not needless & set(map(str, paper.arms))


def test_no_tracked_file_names_a_path_of_this_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        text = (ROOT / name).read_bytes().decode(errors="ignore")
        assert not re.search("/(work|root|tmp)/" + "(main|work|[.])", text), name


@pytest.mark.slow
def test_the_committed_notebooks_build_the_book_without_warnings(tmp_path):
    page = book.build(book.EXECUTED, tmp_path / "html")
    landing = (page.parent / "book" / "index.html").read_text()
    assert landing.count('class="cotlib-figure"') == 1 and 'class="summary"' in landing
