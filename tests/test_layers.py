"""Imports run downward only: the layers that the README states, from the bottom up, hold for every module."""

import re

import pytest

from cotlib.experiment import ROOT
from cotlib.runs import sources

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "cotlib").rglob("*.py")
)


def layers():
    """The layers in the README's block headed `layers`, lowest first: a list of lists of names below `cotlib`."""
    block = re.search(r"```layers\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    return [re.findall(r"[\w.]+", line) for line in block.strip().split("\n")]


def height(module):
    """The layer of a module, 0 lowest: that of the longest name in the README that it is, or lies in."""
    name = module.removeprefix("cotlib").removeprefix(".")
    places = {part: number for number, line in enumerate(layers()) for part in line}
    fitting = [part for part in places if name == part or name.startswith(f"{part}.")]
    return places[max(fitting, key=len)] if fitting else None


def direct_imports(module):
    """What a module imports of this package, without the packages around it, which hold no code."""
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return {name for name in sources.imports(file.read_text()) if name != module and name.count(".")}


def test_every_module_has_a_layer():
    wings = {"cotlib", "cotlib.__main__", "cotlib.runs"}
    assert [module for module in MODULES if module not in wings and height(module) is None] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.count(".") and "__main__" not in module])
def test_a_module_imports_from_its_own_layer_or_a_lower_one(module):
    mine = height(module)
    upward = {
        name for name in direct_imports(module) if mine is not None and height(name) is not None and height(name) > mine
    }
    assert not upward, f"{module} imports {', '.join(sorted(upward))} from above"


def test_no_modules_import_each_other_in_a_circle():
    waiting = {module: direct_imports(module) for module in MODULES}
    while free := [module for module, needs in waiting.items() if not needs & set(waiting)]:
        for module in free:
            del waiting[module]
    assert not waiting, f"a circle among {', '.join(sorted(waiting))}"


def test_the_tests_mirror_the_modules():
    """Every module has its file of tests in the same place, or is imported by the tests of its neighbours."""
    texts = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    missing = []
    for module in MODULES:
        *wing, name = module.split(".")
        own = ROOT.joinpath("tests", *wing[1:], f"test_{name}.py").is_file()
        imported = re.search(rf"from {re.escape('.'.join(wing))}(\.{name})? import .*", texts) and re.search(
            rf"\b{name}\b", texts
        )
        package = ROOT.joinpath(*module.split("."), "__init__.py").is_file()
        if not (own or imported or package or name == "__main__"):
            missing.append(module)
    assert missing == []
