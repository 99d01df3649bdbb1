"""Rounds: who comes when, what is made again, and what is said where quiet never comes."""

import multiprocessing
import os
import time

import pytest

from vgpt.bench.disturbance import Evidence, Watch, evidence
from vgpt.bench.disturbance import _read_counters as look
from vgpt.bench.rounds import Patience, interleave, order


class Judged(Watch):
    """Says of the n-th measurement what a list says; the measuring is real."""

    def __init__(self, disturbed):
        super().__init__(threads=1, cpus=2)
        self.disturbed = iter(disturbed)

    def judge(self, name, found):
        busy = Evidence(1.0, 1.0, others=1.9)
        return super().judge(name, busy if next(self.disturbed, False) else Evidence(1.0, 1.0, others=0.0))

    def quiet(self, seconds):
        return True


def counted(names):
    """Subjects that note who was measured, and return the number of the measurement."""
    seen = []

    def subject(name):
        def measure():
            seen.append(name)
            return float(len(seen))

        return measure

    return {name: subject(name) for name in names}, seen


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_subject_comes_first_equally_often_and_before_each_other_one_as_often_as_after(count):
    names = [chr(65 + n) for n in range(count)]
    orders = [order(names, turn) for turn in range(2 * count)]
    assert {name: sum(one[0] == name for one in orders) for name in names} == dict.fromkeys(names, 2)
    for one in names:
        for other in names:
            if one != other:
                assert sum(found.index(one) < found.index(other) for found in orders) == count


def test_a_disturbed_round_is_made_again_and_none_of_its_figures_counts():
    subjects, seen = counted("ab")
    series = interleave(subjects, 3, Judged([False, False, False, True]), Patience(60))
    # Rounds: a b | b a(disturbed) | b a | b a, the order of the repeated one kept.
    assert (series.repeated, series.reasons) == (1, ())
    assert len(seen) == 8
    assert {len(figures) for figures in series.figures.values()} == {3}
    assert not {3.0, 4.0} & {figure for figures in series.figures.values() for figure in figures}


def test_where_quiet_never_comes_the_rounds_are_taken_and_called_disturbed():
    subjects, seen = counted("ab")
    series = interleave(subjects, 8, Judged([True] * 1000), Patience(0))
    assert series.disturbed
    assert series.reasons == ("other processes used 1.9 cores",)
    assert {len(figures) for figures in series.figures.values()} == {8}
    assert len(seen) == 16


def test_enough_quiet_rounds_count_alone_where_the_last_ones_were_disturbed():
    subjects, _ = counted("ab")
    series = interleave(subjects, 8, Judged([False] * 14 + [True] * 100), Patience(0))
    assert not series.disturbed
    assert {len(figures) for figures in series.figures.values()} == {7}
    assert series.repeated == 1


def test_each_sign_of_disturbance_counts_and_a_process_that_is_left_alone_has_none():
    def judged(**signs):
        watch = Watch(threads=2, cpus=2)
        watch.judge("a", Evidence(1.0, own=1.8, others=0.0))
        return [reason.kind for reason in watch.judge("a", Evidence(1.0, **{"own": 1.8, "others": 0.0, **signs}))]

    assert judged(pressure=0.05, switches=20.0) == []
    assert judged(others=0.3) == ["others"]
    assert judged(own=1.0) == ["slower"]
    assert judged(pressure=0.5, others=0.08) == ["pressure"]
    assert judged(pressure=0.5) == []  # tasks that wait for other processors than those of this process
    assert judged(switches=900.0, others=0.08) == ["switches"]
    assert judged(switches=900.0) == []  # threads of its own that take turns


def test_cores_that_a_subject_leaves_idle_may_do_what_they_like():
    assert Watch(threads=1, cpus=4).judge("a", Evidence(1.0, own=1.0, others=2.9)) == []
    assert [r.kind for r in Watch(threads=2, cpus=4).judge("a", Evidence(1.0, own=2.0, others=2.9))] == ["others"]


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells of each CPU")
def test_the_system_tells_own_work_from_that_of_another_process():
    before = look()
    spin(0.5)
    own = evidence(before, look())
    assert 0 < own.own < 1.2
    other = multiprocessing.get_context("spawn").Process(target=spin, args=(300,))
    other.start()
    try:
        deadline = time.monotonic() + 200
        while True:  # until the other process has come to its work
            before = look()
            time.sleep(0.5)
            found = evidence(before, look())
            assert found.own < 0.2
            if found.others is not None and found.others > 0.25:
                break
            assert time.monotonic() < deadline
    finally:
        other.kill()
        other.join()


def test_gpu_clocks_and_strangers_are_asked_of_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$*" in *clocks*) cat clock;; *pid*) cat pids;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    watch = Watch(threads=1, gpu=0)

    def judged(clock, pids):
        (tmp_path / "clock").write_text(f"{clock}\n")
        (tmp_path / "pids").write_text("\n".join(map(str, pids)))
        return [reason.kind for reason in watch.measure("a", lambda: None)[1]]

    assert judged(1980, [os.getpid()]) == []
    assert judged(1410, [os.getpid()]) == ["clock"]
    assert judged(1980, [os.getpid(), 1]) == ["strangers"]
