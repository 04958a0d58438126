"""The notebooks as they are stored: they tell, `cotlib` does, and cells by hand show how."""

import ast
import re

import nbformat
import pytest

from cotlib.experiment import ROOT
from cotlib.runs.paths import CHAPTERS, NOTEBOOKS, PAGES

LONGEST_BY_HAND = 12  # lines


def cells(name, kind):
    return [cell for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells if cell.cell_type == kind]


def by_hand(name):
    """Code cells that do a step in plain PyTorch, NumPy or pandas, and check the library against it."""
    return [cell.source for cell in cells(name, "code") if re.search(r"^\s*assert ", cell.source, re.MULTILINE)]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_notebook_is_stored_without_outputs(name):
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(name, "code"))


@pytest.mark.parametrize("name", PAGES.values())
def test_a_page_of_a_claim_says_what_was_found_first_and_folds_its_code(name):
    some = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    assert 12 <= len(some) <= 25 and "**What you will see.**" in some[0].source
    assert any("**The claim.**" in cell.source or "**Question.**" in cell.source for cell in some[:1])
    assert "## What cannot be said" in some[-1].source and "**Try it.**" in some[-1].source
    for cell in cells(name, "code"):
        assert ("hide-input" in cell.metadata.get("tags", [])) is (cell.source not in by_hand(name))


@pytest.mark.parametrize("name", NOTEBOOKS.values())
def test_a_notebook_has_twenty_to_thirty_five_cells(name):
    assert 20 <= len(cells(name, "code")) + len(cells(name, "markdown")) <= 35


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_notebook_defines_nothing_and_hides_no_error(name):
    code = [cell.source for cell in cells(name, "code")]
    assert not [source for source in code if re.search(r"^\s*(def|class|while|try|except)\b", source, re.MULTILINE)]


@pytest.mark.parametrize("name", CHAPTERS)
def test_loops_stand_in_cells_by_hand_alone(name):
    others = [cell.source for cell in cells(name, "code") if cell.source not in by_hand(name)]
    assert not [source for source in others if re.search(r"^\s*(for|with|if)\b", source, re.MULTILINE)]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_cell_by_hand_is_at_most_twelve_lines_and_stands_under_a_heading_that_says_so(name):
    sources = by_hand(name)
    assert sources and max(len(source.split("\n")) for source in sources) <= LONGEST_BY_HAND
    headings = [cell.source for cell in cells(name, "markdown") if "### By hand" in cell.source]
    assert len(headings) == len(sources)


STEPS = {
    "2-train": ["row.labels == [-100]", "log_softmax", "lora_alpha / plan.training.lora_rank * (B @ A)"],
    "3-evaluate": ["log_softmax(-1)[range(len(answer)), answer].mean()", "standard_exponential"],
    "5-findings": ["columns.var(ddof=s > 1)", "stats.t.isf("],
    "h1-amplification": ["cummax()"],
    "h2-semantics": ["block[own].mean(0) - block[~own].mean(0)"],
    "h3-sufficiency": ["stats.t.sf((limit - one.effect) / one.error, one.freedom)"],
}


@pytest.mark.parametrize("name", STEPS)
def test_each_step_of_the_method_is_done_by_hand(name):
    """Labels, LoRA's forward and the loss; a margin and a draw; an interval, Holm, a diagonal, equivalence."""
    code = "\n".join(by_hand(name))
    assert all(step in code for step in STEPS[name])


def test_the_notebooks_use_the_same_names_for_the_same_things():
    """What one notebook imports, none assigns: `models`, `arms` and `seed` are parameters everywhere, never modules."""
    imported, assigned = set(), set()
    for name in CHAPTERS:
        for node in ast.walk(ast.parse("\n".join(cell.source for cell in cells(name, "code")))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imported |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assigned.add(node.id)
    assert {"chat", "draws"} <= imported and {"models", "arms", "seed", "plan"} <= assigned
    assert imported & assigned == set()


def test_no_figure_is_drawn_in_two_notebooks():
    drawn = {}
    for name in CHAPTERS:
        for cell in cells(name, "code"):
            for call in re.findall(r"figures\.\w+\(.*\)", cell.source):
                drawn.setdefault(call, set()).add(name)
    assert len(drawn) > 10
    assert {call: names for call, names in drawn.items() if len(names) > 1} == {}
