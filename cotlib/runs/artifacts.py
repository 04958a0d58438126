"""Atomic writing of files and folders; locks, digests, JSON, journals and manifests.

Knows nothing about experiments or models. Every other module of the package writes through it. A run that is killed
at any moment leaves only finished files and folders behind, and the next run can use what it finds.
"""

import contextlib
import glob
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import filelock

from cotlib.errors import BadInput
from cotlib.runs import documents, machine

MANIFEST = "manifest.json"


def _umask():
    """The permission bits that this process withholds from new files; `tempfile` does not apply them by itself."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def _writing_to(folder):
    """Make `folder`, and turn a refusal of the system, within the block too, into a BadInput that says what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BadInput(
            f"folder {str(folder)!r} cannot be written to ({error.strerror or error}); make it writable or choose "
            "another one: for converted models by COTLIB_CACHE=FOLDER, for results by the parameter 'results'"
        ) from None


@contextlib.contextmanager
def atomic_file(path):
    """Yield a temporary path beside `path`; it takes `path`'s place only if the block ends well."""
    path = Path(path)
    with _writing_to(path.parent):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    os.chmod(temporary, 0o666 & ~_umask())
    try:
        yield Path(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Yield a temporary folder beside `path`; it replaces `path` only if the block ends well.

    What a killed process left behind is removed first, so hold `lock(path)` where two processes may write.
    """
    path = Path(path)
    with _writing_to(path.parent):
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*"):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.chmod(temporary, 0o777 & ~_umask())
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock(path):
    """Hold an exclusive lock named after `path` while the block lasts; another process that asks for it waits.

    The lock is a sibling file, `.NAME.lock`, which stays. The system frees the lock when the process ends or dies.

    Raises:
        BadInput: the folder cannot be written to.
    """
    path = Path(path)
    held = filelock.FileLock(path.parent / f".{path.name}.lock")
    with _writing_to(path.parent):
        held.acquire()
    try:
        yield
    finally:
        held.release()


def write_json(path, value):
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path):
    """The value of a JSON file. Raises BadInput, which names file and place, if it is damaged or repeats a key."""
    return documents.parse_json(documents.read_text(path), str(path))


def write_jsonl(path, rows):
    """Write an iterable of mappings, one JSON object a line; compressed where the name ends in `.gz`."""
    content = "".join(_line(row) for row in rows).encode()
    with atomic_file(path) as temporary:
        # Without a time in its header, so that the same rows give the same bytes.
        temporary.write_bytes(gzip.compress(content, mtime=0) if Path(path).suffix == ".gz" else content)


def read_jsonl(path):
    """The values of a JSON Lines file, in its order, without empty lines; errors as in `documents.json_lines`."""
    return [value for _, value in documents.json_lines(path)]


def _line(row):
    return json.dumps(row, ensure_ascii=False) + "\n"


class Journal:
    """A JSON Lines file that grows row by row, for results that must not be paid for twice.

    A row is in the file as soon as `append` returns. A process that is killed while it writes may leave half a row at
    the end; the next `append` or `rows` removes it. Threads of one process may append at once; for two processes, hold
    `lock` around the whole use.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._guard = threading.Lock()

    def append(self, row):
        """Write one row, a mapping that JSON can hold, behind the others."""
        line = _line(row).encode()
        with self._guard, _writing_to(self.path.parent):
            self._remove_half_row()
            with open(self.path, "ab") as file:
                file.write(line)

    def rows(self):
        """All whole rows, in the order they were appended; none if the file does not exist.

        Raises:
            BadInput: a whole line is damaged, which no killed process does; the message names file and line.
        """
        with self._guard:
            self._remove_half_row()
            return read_jsonl(self.path) if self.path.exists() else []

    def _remove_half_row(self):
        """Cut the file behind its last line break; a row without one is not whole."""
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                os.truncate(self.path, file.read().rfind(b"\n") + 1)


def write_table(path, frame):
    """Write a data frame as Parquet, without its index."""
    with atomic_file(path) as temporary:
        frame.to_parquet(temporary, index=False)


def digest(*parts):
    """SHA-256 (hex) of JSON-able values; equal values give equal digests whatever their key order."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path):
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_current(folder, value, name="key"):
    """True if `folder` has a manifest with this `key`, the digest of all it was made from; False if it is damaged.

    Args:
        name: another field of the manifest to compare with.
    """
    try:
        return read_json(Path(folder) / MANIFEST).get(name) == value
    except (OSError, ValueError, AttributeError):
        return False


def write_manifest(folder, *, started, **facts):
    """Write and return `folder`'s manifest.

    It holds the given facts, the seconds since `started` (a `time.time()`), peak memory in GiB, versions and hardware.
    """
    manifest = {
        **facts,
        "seconds": round(time.time() - started, 1),
        "peak_memory_gib": round(machine.peak_memory(), 2),
        "versions": machine.versions(),
        "hardware": machine.hardware(),
    }
    write_json(Path(folder) / MANIFEST, manifest)
    return manifest


def plain_records(frame):
    """A data frame's rows as mappings that JSON can hold: a missing value becomes None."""
    return [
        {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
