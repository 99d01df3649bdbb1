"""Freed memory is kept: seen by the pages that the kernel hands to a process anew."""

import json
import os
import platform
import subprocess
import sys

import pytest

from vgpt.training.hardware.memory import keep_freed_memory

PROGRAM = """
import json, resource, torch
from vgpt.settings.train import SystemSettings
from vgpt.training.hardware.memory import keep_freed_memory
from vgpt.training.hardware.devices import resolve

def faults():
    torch.ones(48 * 2**18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(48 * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
resolve(SystemSettings(device="cpu"))
faults()  # until what else is allocated has found its places
print(json.dumps([plain, faults(), keep_freed_memory()]))
"""


def outcome(**environment: str) -> tuple[int, int, bool]:
    """Return the pages that ten tensors of 48 MiB cost before and after, and whether memory can be kept at all."""
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean | environment, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_a_prepared_process_takes_a_tensors_memory_once():
    plain, kept, possible = outcome()
    assert possible
    assert plain > 100  # 480 MiB, even in huge pages of 2 MiB
    assert kept < plain / 10


@pytest.mark.slow
def test_what_the_environment_says_stands():
    plain, after, possible = outcome(MALLOC_MMAP_THRESHOLD_="65536")
    assert not possible
    assert after > plain / 2


def test_tunables_are_such_words_too(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=65536")
    assert not keep_freed_memory()
