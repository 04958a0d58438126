"""Which files a result was made by: read from the imports, so that nobody keeps a list.

A module is made of itself and of every module of this package that it imports, wherever the import stands, and so on
down. `code_digest` turns that into the part of a unit's key that says by which code it was made; `files_of` gives the
same files to the workflow, for a module or a notebook.
"""

import ast
import functools
import subprocess
from pathlib import Path

import cotlib
from cotlib.runs import artifacts

PACKAGE = Path(cotlib.__file__).parent
NAME = PACKAGE.name


@functools.cache
def modules_of(name):
    """The modules that module `name` is made of, itself and the packages around them included: sorted names."""
    found, open_names = set(), {name}
    while open_names:
        name = open_names.pop()
        found.add(name)
        parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
        open_names |= (imports(_source(name)) | parents) - found
    return tuple(sorted(found))


def imports(code):
    """Modules of this package that some Python code imports, at its top or within a function: a set of dotted names."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == NAME and _path(name)}


def files_of(*paths):
    """The files that notebooks or modules (paths) are made of, beside themselves: paths from the book's top folder."""
    names = set()
    for path in map(Path, paths):
        names |= {inner for name in imports(_code(path)) for inner in modules_of(name)}
    return sorted(str(_path(name).relative_to(PACKAGE.parent)) for name in names)


def code_digest(name):
    """SHA-256 (hex) of the code that module `name` is made of, without comments and docstrings.

    A result depends on the code that made it, so this is part of what decides whether it can be kept;
    rewording a comment must not cost a reader a quarter of an hour.
    """
    return _digest(tuple((module, _source(module)) for module in modules_of(name)))


@functools.cache  # every unit asks for the same modules
def _digest(modules):
    return artifacts.digest([(module, _bare_code(source)) for module, source in modules])


def _path(name):
    """The file of a module or package of ours; None if there is none, as for a function imported from a module."""
    place = PACKAGE.parent.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _source(name):
    return _path(name).read_text(encoding="utf-8")


def _code(path):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = artifacts.read_json(path)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _bare_code(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def commit():
    """The commit that the code was taken from, short; with a `+` where files differ from it; `unknown` without git."""
    return _git("describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*") or "unknown"


def last_change(*paths):
    """The commit that last changed one of these files (from the top folder), short; `unknown` without git."""
    return _git("log", "-1", "--format=%h", "--abbrev=7", "--", *paths) or "unknown"


def _git(*command):
    try:
        command = ["git", "-C", str(PACKAGE.parent), *command]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
