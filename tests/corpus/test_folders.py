"""Files are written where a reader says, whole, and never over content that is not ours."""

import json

import pytest

from cotlib.corpus import folders
from cotlib.errors import BadInput


def test_rows_come_back_from_any_reader_of_lines():
    rows = [{"text": "one\u2028two\x85three\u2029four\nfive"}, {"text": "é"}]
    text = folders.jsonl(rows)
    assert [json.loads(line) for line in text.splitlines()] == rows


def test_files_are_written_into_a_new_folder_and_the_same_ones_again(tmp_path):
    files = {"a.jsonl": "1\n", "b.jsonl": "2\n"}
    for _ in range(2):
        folder = folders.write(tmp_path / "new" / "place", files)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


def test_a_file_with_other_content_stops_all_writing(tmp_path):
    (tmp_path / "b.jsonl").write_text("mine\n")
    with pytest.raises(BadInput, match="holds another b.jsonl already; give a new folder with --to"):
        folders.write(tmp_path, {"a.jsonl": "1\n", "b.jsonl": "2\n"})
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]
    assert (tmp_path / "b.jsonl").read_text() == "mine\n"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BadInput, match="is a file; give a folder with --to"):
        folders.write(tmp_path / "taken", {"a": ""})
