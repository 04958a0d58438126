"""The machine a run ran on: library versions, hardware, and the memory of this process.

Knows nothing about files or experiments. Manifests record these facts beside every result.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

VERSIONED = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "unsloth",
    "scikit-learn",
    "papermill",
    "snakemake",
    "jupyter-book",
    "pandas",
)


@functools.cache
def versions():
    """Installed versions of the libraries a result depends on: name → version; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def versions_of(*names):
    """The installed versions of the named libraries alone: what a unit's result depends on."""
    return {name: version for name, version in versions().items() if name in names}


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

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def load():
    """How busy the processor was in the last minute: running processes per core; 0 where the system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return 0.0


def release_memory():
    """Give freed memory back to the system; call it between units of work.

    `cotlib` tells glibc to keep freed memory, which makes a unit faster. Over many units the heap would grow, because
    the few objects that stay divide the free space into pieces that the next unit cannot use: sixteen arms of the
    demo's evaluation held 2.8 GiB, of which 1 GiB was in use.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a system without glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
