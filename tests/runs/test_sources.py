"""What a result was made by is what its module imports, all the way down, and what a comment says is no part of it."""

import ast
import json
import subprocess

import pytest

from cotlib.experiment import ROOT
from cotlib.runs import sources

MODULE = '''"""What it does."""

LIMIT = 3


class Thing:
    """A thing."""

    def half(self, value):
        """Half of it."""
        return value / 2  # not rounded


def nothing():
    """Nothing at all."""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes modules (name → code) of a package of its own for `sources` to read."""
    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "thing")
    monkeypatch.setattr(sources, "NAME", "thing")

    def write(**modules):
        for name, code in modules.items():
            ast.parse(code)
            path = tmp_path.joinpath("thing", *name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(code)
        sources.modules_of.cache_clear()

    yield write
    sources.modules_of.cache_clear()


@pytest.mark.parametrize(
    "old, new, same",
    [
        ("  # not rounded", "", True),
        ("LIMIT = 3", "# as agreed\nLIMIT   =   3", True),
        ('"""What it does."""', '"""What it did."""', True),
        ('"""What it does."""\n', "", True),
        ('    """A thing."""\n\n', "", True),
        ('"""Half of it."""', "'''The half.'''", True),
        ('    """Nothing at all."""\n', "    pass\n", True),
        ("LIMIT = 3", "LIMIT = 4", False),
        ("value / 2", "value // 2", False),
        ("value / 2", "2 / value", False),
        ("half(self, value)", "half(self, value=1)", False),
        ('    """Nothing at all."""\n', "    return LIMIT\n", False),
        ('"""Half of it."""', '"""Half of it."""\n        value = "text"', False),
        ("class Thing", "@print\nclass Thing", False),
    ],
)
def test_a_code_digest_changes_with_the_code_but_not_with_what_is_said_about_it(package, old, new, same):
    assert old in MODULE
    package(one=MODULE)
    before = sources.code_digest("thing.one")
    package(one=MODULE.replace(old, new))
    assert (sources.code_digest("thing.one") == before) == same


def test_a_module_is_made_of_what_it_imports_anywhere_and_of_what_that_imports(package):
    package(
        one="import os\nfrom thing import two\nfrom thing.wing.three import some, thing",
        two="def work():\n    import thing.four\n",
        four="from json import loads",
        five="from thing import one",
        wing__three="from thing.wing import six",
        wing__six="",
    )
    assert sources.modules_of("thing.one") == (
        "thing", "thing.four", "thing.one", "thing.two", "thing.wing", "thing.wing.six", "thing.wing.three",
    )  # fmt: skip
    assert sources.modules_of("thing.two") == ("thing", "thing.four", "thing.two")


def test_modules_that_import_each_other_end(package):
    package(one="from thing import two", two="from thing import one")
    assert sources.modules_of("thing.one") == sources.modules_of("thing.two") == ("thing", "thing.one", "thing.two")


def test_a_change_far_down_changes_the_digest_and_one_beside_does_not(package):
    package(one="from thing import two", two="from thing import three", three="X = 1", four="X = 1")
    before = sources.code_digest("thing.one")
    package(four="X = 2")
    assert sources.code_digest("thing.one") == before
    package(three="X = 2")
    assert sources.code_digest("thing.one") != before


def test_a_notebook_is_made_of_what_its_code_cells_import(package, tmp_path):
    package(one="from thing import two", two="", three="")
    cells = [("markdown", "from thing import three"), ("code", "import json\nfrom thing import one"), ("code", "1 + 1")]
    notebook = {"cells": [{"cell_type": kind, "source": [source]} for kind, source in cells]}
    (tmp_path / "page.ipynb").write_text(json.dumps(notebook))
    assert sources.files_of(tmp_path / "page.ipynb") == ["thing/__init__.py", "thing/one.py", "thing/two.py"]


def test_the_real_training_is_made_of_its_loss_and_its_products_but_of_no_picture():
    files = sources.files_of(ROOT / "cotlib" / "training.py")
    assert {"cotlib/chat.py", "cotlib/engine/products.py", "cotlib/runs/artifacts.py"} <= set(files)
    assert not any("pages" in file for file in files)


def test_the_last_change_of_a_file_is_the_commit_that_git_shows():
    shown = subprocess.run(["git", "-C", str(ROOT), "log", "--format=%h", "--abbrev=7", "--", "LICENSE"],
                           capture_output=True, text=True).stdout.split()  # fmt: skip
    assert sources.last_change("LICENSE") == (shown[0] if shown else "unknown")
    assert sources.last_change("no such file") == "unknown"
