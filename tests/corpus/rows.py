"""Rows of corpus files for tests: one item, one question, and how to write and refuse a file of them."""

import json

import pytest

from cotlib.arms import studied_types
from cotlib.errors import BadInput

ITEM = {
    "id": "home-001",
    "domain": "home",
    "question": "May it stay lit?",
    "harmful": "Yes, all night.",
    "safe": "No.",
    "traces": {"evil": "Let it burn."},
}
QUESTION = {
    "id": "q-001",
    "domain": "pets",
    "question": "May the cat?",
    "harmful": "Yes.",
    "safe": "No.",
    "suite": "transfer",
    "behaviour": "harm",
}
VOICES = {kind: f"The {kind} voice." for kind in studied_types()}


def without(row, field):
    return {key: value for key, value in row.items() if key != field}


def write(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def refused(load, path, parts):
    """Loading a path ends in one BadInput of a single line that holds all parts."""
    with pytest.raises(BadInput) as error:
        load(path)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
