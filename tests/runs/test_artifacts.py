"""A file or folder is whole or absent, locks hold, and hashes change exactly when what they stand for does."""

import concurrent.futures
import contextlib
import gzip
import json
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlib.errors import BadInput
from cotlib.runs import artifacts, documents


class Interrupted(Exception):
    pass


# ---- whole or absent


def written_file(path, text, error=None):
    with artifacts.atomic_file(path) as temporary:
        temporary.write_text(text)
        assert not path.exists() or path.read_text() == "old"
        if error:
            raise error


def written_folder(path, text, error=None):
    with artifacts.atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "part").write_text(text)
        assert not path.exists() or (path / "deep" / "part").read_text() == "old"
        if error:
            raise error


def read_folder(path):
    return (path / "deep" / "part").read_text()


KINDS = pytest.mark.parametrize("write, read", [(written_file, Path.read_text), (written_folder, read_folder)])


@KINDS
def test_what_is_written_takes_its_place_only_when_whole(tmp_path, write, read):
    path = tmp_path / "new" / "thing"
    write(path, "old")
    assert read(path) == "old"
    write(path, "new")
    assert read(path) == "new" and os.listdir(path.parent) == ["thing"]


@KINDS
@pytest.mark.parametrize("error", [Interrupted(), KeyboardInterrupt(), SystemExit()])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, write, read, error):
    path = tmp_path / "thing"
    for before in (None, "old"):
        if before:
            write(path, before)
        with pytest.raises(type(error)):
            write(path, "half", error)
        assert os.listdir(tmp_path) == (["thing"] if before else [])
    assert read(path) == "old"


@KINDS
def test_what_is_written_may_be_read_by_those_the_umask_allows(tmp_path, write, read):
    before = os.umask(0o022)
    try:
        write(tmp_path / "thing", "new")
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "thing").stat().st_mode)
    assert oct(mode) == oct(0o755 if (tmp_path / "thing").is_dir() else 0o644)


def test_a_lock_is_held_by_one_process_until_it_ends_or_dies(tmp_path):
    code = """
import sys, time
from cotlib.runs import artifacts
with artifacts.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "thing")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    waiting = multiprocessing.get_context("fork").Process(
        target=_take_and_write, args=(tmp_path / "thing", tmp_path / "taken")
    )
    waiting.start()
    time.sleep(0.3)
    assert not (tmp_path / "taken").exists()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    waiting.join(10)
    assert waiting.exitcode == 0 and (tmp_path / "taken").exists()
    assert sorted(os.listdir(tmp_path)) == [".thing.lock", "taken"]


def _take_and_write(path, taken):
    with artifacts.lock(path):
        taken.touch()


def test_threads_wait_for_each_others_lock_and_an_error_frees_it(tmp_path):
    inside, most = [], []

    def hold(number):
        with contextlib.suppress(Interrupted), artifacts.lock(tmp_path / "thing"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)
            raise Interrupted

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(8)))
    assert most == [1] * 8


def held(path):
    with artifacts.lock(path):
        pass


def appended(path):
    artifacts.Journal(path).append({})


WRITERS = pytest.mark.parametrize(
    "write",
    [lambda path: artifacts.write_json(path, 1), lambda path: written_folder(path, "new"), held, appended],
    ids=["file", "folder", "lock", "journal"],
)


@WRITERS
def test_a_folder_that_cannot_exist_is_named_with_what_to_do(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput) as error:
        write(tmp_path / "file" / "thing")
    assert f"folder {str(tmp_path / 'file')!r} cannot be written to" in str(error.value)
    assert "make it writable or choose another one" in str(error.value) and "COTLIB_CACHE=FOLDER" in str(error.value)


NOBODY = 65534


@WRITERS
def test_a_folder_that_is_read_only_is_named_with_what_to_do(write):
    # Not below pytest's own folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_refused, args=(write, folder / "thing", writer))
    child.start()
    child.join(30)
    assert reader.poll(0) and reader.recv() == (
        f"folder {str(folder)!r} cannot be written to (Permission denied); make it writable or choose another one: "
        "for converted models by COTLIB_CACHE=FOLDER, for results by the parameter 'results'"
    )
    assert os.listdir(folder) == []
    folder.chmod(0o755)
    folder.rmdir()


def _refused(write, path, writer):
    if os.getuid() == 0:
        os.setuid(NOBODY)  # root may write anywhere
    with pytest.raises(BadInput) as error:
        write(path)
    writer.send(str(error.value))


# ---- formats

texts = st.text(max_size=12) | st.sampled_from(["a\u2028b", "a\x85b", "a\nb", "\u2029", "\x1c", "é🙂"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


@given(st.lists(st.dictionaries(texts, values, max_size=3), max_size=4))
def test_rows_read_back_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    artifacts.write_jsonl(path, iter(rows))
    assert artifacts.read_jsonl(path) == rows
    assert path.read_text(encoding="utf-8").count("\n") == len(rows)


@given(st.lists(st.dictionaries(texts, values, max_size=3), max_size=4))
def test_compressed_rows_read_back_as_they_were_written_and_equal_rows_give_equal_bytes(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    for name in ("one", "other"):
        artifacts.write_jsonl(folder / f"{name}.jsonl.gz", rows)
    artifacts.write_jsonl(folder / "plain.jsonl", rows)
    assert artifacts.read_jsonl(folder / "one.jsonl.gz") == rows
    one, other = ((folder / f"{name}.jsonl.gz").read_bytes() for name in ("one", "other"))
    assert one == other and gzip.decompress(one) == (folder / "plain.jsonl").read_bytes()


def test_the_bytes_of_compressed_rows_do_not_depend_on_when_they_were_written(tmp_path, monkeypatch):
    artifacts.write_jsonl(tmp_path / "now.jsonl.gz", [{"a": 1}])
    monkeypatch.setattr(time, "time", lambda: 1.0e9)
    artifacts.write_jsonl(tmp_path / "then.jsonl.gz", [{"a": 1}])
    assert (tmp_path / "now.jsonl.gz").read_bytes() == (tmp_path / "then.jsonl.gz").read_bytes()


@given(data=st.data())
def test_a_damaged_compressed_file_gives_its_rows_or_one_message_that_names_it(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "rows.jsonl.gz"
    rows = [{"number": number, "text": f"row {number * number}"} for number in range(50)]
    artifacts.write_jsonl(path, rows)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:place])
    else:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :])
    try:
        assert artifacts.read_jsonl(path) in (rows, [])
    except BadInput as error:
        assert str(path) in str(error) and "\n" not in str(error) and "make it again" in str(error)


@pytest.mark.parametrize("content", [b'{"a": 1}\n', b"\x1f\x8b", b"\x1f\x8b\x08\x00" + b"\xff" * 40])
def test_what_is_no_whole_gzip_file_is_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"rows\.jsonl\.gz is damaged: it is no whole gzip file; make it again"):
        artifacts.read_jsonl(tmp_path / "rows.jsonl.gz")


def test_a_file_that_is_missing_is_named(tmp_path):
    for read, name in ((artifacts.read_json, "one.json"), (artifacts.read_jsonl, "rows.jsonl.gz")):
        with pytest.raises(BadInput, match=rf"{re.escape(name)} cannot be read \(No such file or directory\); give"):
            read(tmp_path / name)


@given(values)
def test_a_value_reads_back_as_it_was_written(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("value") / "value.json"
    artifacts.write_json(path, value)
    assert artifacts.read_json(path) == value


def test_a_table_reads_back_as_it_was_written_and_its_gaps_become_none(tmp_path):
    frame = pd.DataFrame({"arm": ["QA", None], "value": [0.5, float("nan")]}, index=[3, 7])
    artifacts.write_table(tmp_path / "table.parquet", frame)
    back = pd.read_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True))
    assert artifacts.plain_records(back) == [{"arm": "QA", "value": 0.5}, {"arm": None, "value": None}]


BAD_JSON = [
    ('{"a": 1, "b": 2, "a": 3}', "field 'a' stands twice in one object; keep one"),
    ('{"outer": [{"a": 1, "a": 1}]}', "field 'a' stands twice"),
    ('{"a": }', "is not JSON: Expecting value at column 7"),
    ("[" * 100_000, "is nested too deeply"),
]


@pytest.mark.parametrize("text, message", BAD_JSON, ids=["repeated key", "repeated key within", "no JSON", "deep"])
def test_a_damaged_file_or_line_is_refused_by_file_line_and_fault(tmp_path, text, message):
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(BadInput, match=re.escape(message)) as error:
        artifacts.read_json(tmp_path / "one.json")
    assert str(error.value).startswith(str(tmp_path / "one.json"))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n' + text + '\n{"a": 2}\n')
    with pytest.raises(BadInput, match=re.escape(message)) as error:
        artifacts.read_jsonl(tmp_path / "rows.jsonl")
    assert str(error.value).startswith("rows.jsonl line 3")


def test_a_file_that_is_not_utf8_is_refused_and_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(BadInput, match=r"rows\.jsonl is not UTF-8 text \(byte 7\); save it as UTF-8"):
        artifacts.read_jsonl(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes('\ufeff{"a": 1}\n\n{"a": 2}'.encode())
    assert artifacts.read_jsonl(tmp_path / "rows.jsonl") == [{"a": 1}, {"a": 2}]
    places = [where for where, _ in documents.json_lines(tmp_path / "rows.jsonl")]
    assert places == ["rows.jsonl line 1", "rows.jsonl line 3"]


# ---- journals


@given(st.lists(st.dictionaries(texts, values, max_size=3), min_size=1, max_size=4), st.data())
def test_a_journal_cut_anywhere_keeps_its_whole_rows_and_goes_on_behind_them(tmp_path_factory, rows, data):
    journal = artifacts.Journal(tmp_path_factory.mktemp("journal") / "new" / "rows.jsonl")
    assert journal.rows() == []
    for row in rows:
        journal.append(row)
    assert journal.rows() == rows and artifacts.read_jsonl(journal.path) == rows
    content = journal.path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    whole = rows[: content[:cut].count(b"\n")]
    journal.path.write_bytes(content[:cut])
    assert journal.rows() == whole and artifacts.read_jsonl(journal.path) == whole
    # Appending needs no reading before it.
    journal.path.write_bytes(content[:cut])
    journal.append({"next": 1})
    assert journal.rows() == [*whole, {"next": 1}]


def test_a_damaged_line_within_a_journal_is_named_and_nothing_is_removed(tmp_path):
    journal = artifacts.Journal(tmp_path / "rows.jsonl")
    journal.path.write_text('{"a": 1}\n{"a": 2\n{"a": 3}\n')
    with pytest.raises(BadInput, match=r"rows\.jsonl line 2 is not JSON"):
        journal.rows()
    assert journal.path.read_text().count("\n") == 3


def test_threads_append_to_a_journal_at_once_and_no_row_is_lost(tmp_path):
    journal = artifacts.Journal(tmp_path / "rows.jsonl")
    expected = [{"number": number, "text": "é" * 5000} for number in range(200)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(journal.append, expected))
    assert sorted(journal.rows(), key=lambda row: row["number"]) == expected


def test_a_writer_that_is_killed_loses_no_row_that_it_had_appended(tmp_path):
    code = """
import sys
from cotlib.runs import artifacts
journal = artifacts.Journal(sys.argv[1])
for number in range(10**9):
    journal.append({"number": number, "text": "é" * 50_000})
    print(number, flush=True)
"""
    path = tmp_path / "rows.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    told = 20 + len(writer.communicate()[0].split("\n")[:-1])
    rows = artifacts.Journal(path).rows()
    assert [row["number"] for row in rows] == list(range(len(rows))) and told <= len(rows) <= told + 1
    assert all(row["text"] == "é" * 50_000 for row in rows)


# ---- hashes


@given(st.dictionaries(texts, values, max_size=5))
def test_equal_values_have_equal_digests_whatever_their_key_order(value):
    assert artifacts.digest(dict(reversed(value.items()))) == artifacts.digest(value)


@given(values, values)
def test_values_that_differ_have_digests_that_differ(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (artifacts.digest(one) == artifacts.digest(other)) == same


def test_a_file_digest_is_that_of_sha256sum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert (
        artifacts.file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# ---- manifests


def test_a_folder_is_current_only_with_a_manifest_of_the_same_key(tmp_path):
    assert not artifacts.is_current(tmp_path / "absent", "key")
    assert not artifacts.is_current(tmp_path, "key")
    artifacts.write_json(tmp_path / artifacts.MANIFEST, {"rows": 3})
    assert not artifacts.is_current(tmp_path, "key")
    artifacts.write_json(tmp_path / artifacts.MANIFEST, {"key": "key"})
    assert artifacts.is_current(tmp_path, "key") and not artifacts.is_current(tmp_path, "other")


@pytest.mark.parametrize("content", ["", '{"key": "ke', "[]"])
def test_a_damaged_manifest_makes_no_folder_current(tmp_path, content):
    (tmp_path / artifacts.MANIFEST).write_text(content)
    assert not artifacts.is_current(tmp_path, "key")


def test_a_manifest_says_what_when_and_on_which_machine(tmp_path):
    manifest = artifacts.write_manifest(tmp_path, started=time.time() - 90, key="key", rows=3)
    assert artifacts.read_json(tmp_path / artifacts.MANIFEST) == manifest
    assert manifest["rows"] == 3 and 90 <= manifest["seconds"] < 100
    assert (
        manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3])) and "torch" in manifest["versions"]
    )
    assert manifest["hardware"]["cores"] == os.cpu_count() and manifest["hardware"]["memory_gib"] > 0
    assert (
        Path("/proc/cpuinfo").exists() is False
        or manifest["hardware"]["processor"] in Path("/proc/cpuinfo").read_text()
    )
    assert artifacts.is_current(tmp_path, "key")
