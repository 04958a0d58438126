"""Files that are whole or absent: atomic writes, locks, hashes and manifests.

Knows nothing about experiments or models. Every other file of the package writes through it, so a run
that is killed at any moment leaves only finished files and folders behind, and a second run can trust
what it finds.
"""

import contextlib
import fcntl
import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from cotlib.errors import BadInput

VERSIONED = ("torch", "transformers", "peft", "trl", "unsloth", "papermill", "snakemake", "jupyter-book", "pandas")
MANIFEST = "manifest.json"


def _umask():
    """What tempfile ignores: the permissions that this process withholds from new files."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _make_folder(folder):
    """Make a folder and those above it. Raises BadInput if that is not allowed or no folder can stand there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder, error):
    return BadInput(
        f"folder {str(folder)!r} cannot be written to ({error.strerror}); make it writable, or choose another one: "
        "COTLIB_CACHE names the folder of converted models, the parameter `results` that of the results"
    )


@contextlib.contextmanager
def atomic_file(path):
    """Yield a temporary path beside `path`; it takes `path`'s place only if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Hold an exclusive lock named after `path` (a sibling `.lock` file); the kernel frees it when the process dies."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_json(path, value):
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path):
    """The value of a JSON file. Raises BadInput, which names file and place, if it is damaged or repeats a key."""
    return _parsed(_text(path), str(path))


def write_jsonl(path, rows):
    """Write an iterable of mappings, one JSON object a line."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")


def read_jsonl(path):
    """The values of a JSON Lines file, in its order; empty lines are skipped. Raises BadInput as `numbered_rows` does."""
    return [value for _, value in numbered_rows(path)]


def numbered_rows(path):
    """Pairs (line number from 1, value) of a JSON Lines file; empty lines are skipped.

    Raises:
        BadInput: the file is no UTF-8 text, or a line is no JSON or repeats a key; it names file and line.
    """
    # Not splitlines: it would also cut at U+2028, which may stand in a text.
    lines = enumerate(_text(path).split("\n"), 1)
    return [(number, _parsed(line, f"{path} line {number}")) for number, line in lines if line.strip()]


def _line(row):
    return json.dumps(row, ensure_ascii=False) + "\n"


def _text(path):
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # a byte-order mark is not part of the text
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _parsed(text, where):
    """The value of a JSON text; `where` names its place in messages."""

    def unique(pairs):
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise BadInput(f"{where}: the key {repeated!r} stands more than once in an object; keep one of them")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{where} is not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply to be read; give it fewer levels") from None


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
        with self._guard:
            _make_folder(self.path.parent)
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


@functools.cache
def versions():
    """Installed versions of the libraries a result depends on: name → version."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware():
    """What this run ran on: processor, cores, memory in GiB, accelerator."""
    import psutil
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def peak_memory():
    """The most memory this process has held so far, in GiB."""
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 2**20 / (1024 if sys.platform == "darwin" else 1)


def release_memory():
    """Give what was freed back to the system. glibc is told to keep it (see `cotlib`), and from unit to unit the heap would
    grow, torn by what stays: sixteen arms of the demo's evaluation held 2.8 GiB, of which 1 was in use between them."""
    import ctypes

    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a system without glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_current(folder, key):
    """True if `folder` is a finished artifact made from the inputs that `key` stands for; a damaged manifest is none."""
    try:
        return read_json(Path(folder) / MANIFEST).get("key") == key
    except (OSError, ValueError, AttributeError):
        return False


def write_manifest(folder, *, started, **facts):
    """Write `folder`'s manifest: the given facts, seconds since `started` (a `time.time()`), peak memory, versions, hardware."""
    manifest = {
        **facts,
        "seconds": round(time.time() - started, 1),
        "peak_memory_gib": round(peak_memory(), 2),
        "versions": versions(),
        "hardware": hardware(),
    }
    write_json(Path(folder) / MANIFEST, manifest)
    return manifest


def plain_records(frame):
    """A data frame's rows as mappings that JSON can hold: a missing value becomes None."""
    return [
        {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
