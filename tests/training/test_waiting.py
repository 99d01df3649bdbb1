"""How long waiting threads spin: in real processes, with and without others that compute."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vgpt.threads import bound_cpus, spins_by_default, wait_asleep
from vgpt.training.hardware.others import Processors, cores_of_others, crowded, read_processors
from vgpt.training.hardware.threads import openmp_library

needs_gnu = pytest.mark.skipif(openmp_library() is None, reason="torch computes with another OpenMP library here")


def python(code, **environment):
    """Run a program in a process of its own, with nothing said of threads but what is given."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_", "KMP_"))
    }
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_others_get_what_the_processors_worked_and_this_process_did_not():
    before, after = Processors(10.0, 3.0, 100.0), Processors(12.0, 4.0, 104.0)
    assert cores_of_others(before, after) == 1.5
    assert cores_of_others(before, Processors(12.0, 4.0, 100.5)) == 0.0
    assert cores_of_others(before, Processors(12.0, 4.0, None)) is None


@pytest.mark.skipif(not list(Path("/proc/self/task").glob("*/children")), reason="the system lists no children")
def test_a_process_that_this_one_started_is_none_of_the_others_whether_it_runs_or_has_ended():
    before, alone = read_processors(children=True), read_processors()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        end = time.monotonic() + 20
        while psutil.Process(child.pid).cpu_times().user < 0.5 and time.monotonic() < end:
            time.sleep(0.05)
        running = read_processors(children=True)
    finally:
        child.kill()
        child.wait()
    ended = read_processors(children=True)
    assert running.own - before.own >= 0.5
    assert ended.own >= running.own
    assert read_processors().own - alone.own < 0.5


def test_processors_that_this_process_leaves_idle_may_be_used_by_others():
    assert crowded(1.5, threads=2, cpus=2) == 1.5
    assert crowded(1.5, threads=2, cpus=3) == 0.5
    assert crowded(1.5, threads=2, cpus=8) == 0.0
    assert crowded(None, threads=2, cpus=2) == 0.0


def test_what_a_user_says_of_waiting_threads_is_left_alone():
    environment = {}
    wait_asleep(environment)
    assert spins_by_default(environment)
    for name, value in {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5", "KMP_LIBRARY": "throughput"}.items():
        said = {name: value}
        wait_asleep(said)
        assert not spins_by_default(said)
        assert not spins_by_default(environment | said)


@needs_gnu
def test_the_threads_that_sleep_come_and_go_and_no_bit_changes():
    code = """
import os, time, torch
from vgpt.training.hardware.threads import ShortWaits, openmp_library
torch.set_num_threads(2)
torch.manual_seed(0)
x = torch.randn(512, 512)
def result():
    return (torch.nn.functional.layer_norm(x @ x, (512,)).softmax(-1) @ x).sum(0)
def tasks():
    return len(os.listdir("/proc/self/task"))
def settled(wanted):
    end = time.monotonic() + 20
    while tasks() != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return tasks() == wanted
first, before = result(), tasks()
waits = ShortWaits(openmp_library(), 2)
for _ in range(3):
    waits.switch(True)
    waits.switch(True)
    assert waits.on and settled(before + max(2, len(os.sched_getaffinity(0)))), (before, tasks())
    assert torch.equal(result(), first)
    waits.switch(False)
    assert not waits.on and settled(before), (before, tasks())
    assert torch.equal(result(), first)
print("same")
"""
    assert python(code) == ["same"]


@needs_gnu
@pytest.mark.skipif(len(bound_cpus()) < 2, reason="one processor has no threads that wait for each other")
def test_beside_other_work_they_spin_shortly_and_the_watch_is_one():
    code = """
import os, threading, time
from vgpt.threads import wait_asleep
wait_asleep()
import torch
from vgpt.training.hardware.threads import use_threads
use_threads(len(os.sched_getaffinity(0)))
use_threads(len(os.sched_getaffinity(0)))
names = [thread.name for thread in threading.enumerate()]
assert names.count("watch of waits") == 1, names
end = time.monotonic() + 60
while time.monotonic() < end and "short waits" not in [thread.name for thread in threading.enumerate()]:
    time.sleep(0.1)
print("short waits" in [thread.name for thread in threading.enumerate()])
"""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in bound_cpus()]
    try:
        assert python(code) == ["True"]
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.slow
@needs_gnu
def test_nothing_is_watched_where_one_thread_computes_or_a_user_says_how_threads_wait():
    code = """
import threading
from vgpt.threads import wait_asleep
wait_asleep()
import torch
from vgpt.training.hardware.threads import use_threads
use_threads({})
print([thread.name for thread in threading.enumerate()].count("watch of waits"))
"""
    assert python(code.format(1)) == ["0"]
    assert python(code.format(2), OMP_WAIT_POLICY="passive") == ["0"]
