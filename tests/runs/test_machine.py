"""What is recorded about the machine is true, and memory goes back to it."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from cotlib.runs import machine


def test_versions_are_those_of_the_installed_libraries():
    versions = machine.versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["torch"] == importlib.metadata.version("torch")
    assert set(versions) <= {"python", *machine.VERSIONED}


def test_hardware_is_that_of_this_machine():
    hardware = machine.hardware()
    assert hardware["cores"] == os.cpu_count() and hardware["torch_threads"] == torch.get_num_threads()
    assert abs(hardware["memory_gib"] - psutil.virtual_memory().total / 2**30) <= 0.5
    assert (hardware["accelerator"] == "none") == (not torch.cuda.is_available())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux names the processor there")
def test_the_processor_is_named_as_linux_names_it():
    text = Path("/proc/cpuinfo").read_text()
    assert "model name" not in text or machine.hardware()["processor"] in text


@pytest.mark.slow
def test_peak_memory_is_in_gib_and_grows_with_what_is_held():
    """In a process of its own: in one that has freed much, new tensors may fit into what its heap still holds.

    A new process counts its parent's peak as its own, so the tensor fills what lies between.
    """
    code = (
        "import psutil, torch; from cotlib.runs import machine; before = machine.peak_memory();"
        "gap = max(0, before - psutil.Process().memory_info().rss / 2**30);"
        "piece = torch.ones(int((gap + 0.5) * 2**28)); print(before, machine.peak_memory(), piece.sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, _ = map(float, done.stdout.split())
    assert before > 0.05 and 0.4 < after - before < 0.7  # half a GiB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system's allocator decides")
def test_freed_memory_goes_back_to_the_system_when_asked():
    mebibyte, process = 1 << 20, psutil.Process()
    pieces = [torch.ones(mebibyte // 4) for _ in range(300)]
    last = pieces.pop()  # it stays at the end of the heap, so that glibc keeps all before it
    del pieces
    held = process.memory_info().rss
    machine.release_memory()
    assert process.memory_info().rss < held - 200 * mebibyte
    assert last.sum() == mebibyte // 4
