"""Freed memory is kept: seen by the pages that the kernel hands to a process anew."""

import json
import os
import platform
import subprocess
import sys

import pytest

MIB = 2**20
PROGRAM = """
import json, resource, torch
from vgpt.settings.train import SystemSettings
from vgpt.training.allocator import keep_freed_memory
from vgpt.training.devices import resolve
if {prepared}:
    resolve(SystemSettings(device="cpu"))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones({floats})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(json.dumps([faults(), keep_freed_memory()]))
"""


def outcome(prepared: bool, **environment: str) -> tuple[int, bool]:
    """Return the pages that ten tensors of 48 MiB cost, one after another, and whether memory can be kept."""
    program = PROGRAM.format(prepared=prepared, floats=48 * MIB // 4)
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_a_prepared_process_takes_a_tensors_memory_once():
    plain, _ = outcome(prepared=False)
    kept, possible = outcome(prepared=True)
    assert possible
    assert plain > 100  # 480 MiB, even in huge pages of 2 MiB
    assert kept < plain / 10


@pytest.mark.parametrize(
    "setting", [{"MALLOC_MMAP_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}]
)
def test_what_the_environment_says_stands(setting):
    taken, kept = outcome(prepared=True, **setting)
    assert not kept
    assert platform.libc_ver()[0] != "glibc" or taken > 100
