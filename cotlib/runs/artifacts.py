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
import time
from pathlib import Path

VERSIONED = ("torch", "transformers", "peft", "trl", "unsloth", "papermill", "snakemake", "jupyter-book", "pandas")
MANIFEST = "manifest.json"


def _umask():
    """What tempfile ignores: the permissions that this process withholds from new files."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


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
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path, rows):
    """Write an iterable of mappings, one JSON object a line."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]


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
