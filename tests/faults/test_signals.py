"""Signals in the midst of a run: what was asked for is done, and stopping changes no bit of what is learned."""

import os
import signal
import subprocess
import sys
import time
from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from vgpt.tracking.journal import read_events, read_metrics
from vgpt.tracking.lock import lock_owner
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, steps
from vgpt.training.display import Quiet
from vgpt.training.parallel.distributed import World
from vgpt.training.run import train_run


class Signaling(Quiet):
    """Sends this process signals when steps are done: {step: signal}."""

    def __init__(self, signals):
        self.signals = signals

    def advance(self, step):
        if step in self.signals:
            os.kill(os.getpid(), self.signals[step])


def learned(config) -> dict[str, torch.Tensor]:
    place = find_checkpoint(config.directory, which="last").directory
    return {
        f"{file}/{name}": tensor
        for file in ("model", "optimizer")
        for name, tensor in load_file(place / f"{file}.safetensors").items()
    }


def record(config) -> list[tuple[int, str, float]]:
    """Return all metrics but those of speed and of the machine."""
    return [
        (point.step, name, value)
        for point in read_metrics(config.directory)
        for name, value in sorted(point.metrics.items())
        if not name.startswith(("perf/", "speed/", "memory/", "system/", "train/seconds", "flops/peak"))
    ]


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def await_training(config, times=1) -> None:
    """Return when a run has begun, or gone on, for the given number of times, and listens to signals."""
    deadline = time.monotonic() + 120
    while sum(event["kind"] in ("started", "resumed") for event in read_events(config.directory)) < times:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)


@pytest.mark.parametrize(
    ("dropout", "dtype", "accumulate"),
    [
        (0.1, "bfloat16", 1),
        (0.0, "float32", 3),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in product([0.0, 0.1], ["float32", "bfloat16"], [1, 3])
            if one not in ((0.1, "bfloat16", 1), (0.0, "float32", 3))
        ),
    ],
)
def test_stopped_at_any_step_and_run_again_nothing_learned_or_recorded_differs(
    settings, memory, dropout, dtype, accumulate
):
    changes = {
        "model__dropout": dropout,
        "system__dtype": dtype,
        "train__grad_accum": accumulate,
        "run__runs_dir": str(memory),
        "run__log_interval": 3,
        "run__save_interval": 5,
    }
    whole = settings(run__run_name="whole", **changes)
    train_run(whole, Quiet())
    expected, written = learned(whole), record(whole)
    for step in range(1, 8):
        parts = settings(run__run_name=f"stopped-{step}", **changes)
        stopped = train_run(parts, Signaling({step: signal.SIGTERM}))
        assert (stopped.status, stopped.exit_code) == ("stopped", 75)
        assert newest(parts.directory / "ckpt")[0].state.step == step
        assert train_run(parts, Quiet()).status == "finished"
        assert same(learned(parts), expected)
        assert record(parts) == written


def test_stopped_after_every_single_step_it_still_ends_in_the_same_bits(settings, memory):
    changes = {"model__dropout": 0.1, "run__runs_dir": str(memory), "run__log_interval": 3}
    whole, parts = (settings(run__run_name=name, **changes) for name in ("whole", "parts"))
    train_run(whole, Quiet())
    for step in range(1, 8):
        assert train_run(parts, Signaling({step: signal.SIGINT})).exit_code == 130
    assert train_run(parts, Quiet()).status == "finished"
    assert same(learned(parts), learned(whole))
    assert record(parts) == record(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_comes_while_the_processes_agree_is_not_forgotten(settings, monkeypatch, number):
    agree, calls = World.agree, []

    def signaled(world, *values, device):
        agreed = agree(world, *values, device=device)
        calls.append(agreed)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return agreed

    monkeypatch.setattr(World, "agree", signaled)
    train_run(settings(), Quiet())
    assert calls[3] == [number == signal.SIGTERM and number, number == signal.SIGUSR1]


def test_sigusr1_saves_at_once_and_goes_on(settings):
    config = settings(run__save_interval=100, train__eval_interval=100)
    assert train_run(config, Signaling({3: signal.SIGUSR1, 5: signal.SIGUSR1})).status == "finished"
    saved = [event["step"] for event in read_events(config.directory) if event["kind"] == "checkpoint"]
    assert saved == [3, 5, 8]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 75, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_ends_and_a_second_one_ends_at_once(settings, nursery, number, code):
    config = settings(train__max_steps=10**6, run__save_interval=10**6, train__eval_interval=10**6)
    pid = nursery.start(config)
    await_training(config)
    os.kill(pid, number)
    assert nursery.ended() == code
    stopped = newest(config.directory / "ckpt")[0].state.step
    assert stopped > 0
    assert [event["kind"] for event in read_events(config.directory)][-2:] == ["checkpoint", "killed"]
    assert lock_owner(config.directory) is None

    # A step of a long accumulation is where a second signal finds the first one waiting.
    slow = settings(run__run_name="slow", train__max_steps=10, train__grad_accum=3000, run__save_interval=10**6)
    pid = nursery.start(slow)
    await_training(slow)
    os.kill(pid, number)
    time.sleep(0.2)
    os.kill(pid, number)
    assert nursery.ended() == 130
    # It did not wait for the end of the step, which is where the first signal would have saved.
    assert steps(slow.directory / "ckpt") == []


@pytest.mark.slow
def test_at_a_hundred_random_times_a_signal_finds_a_run_that_saves(settings, nursery, memory):
    import random

    chance = random.Random(5)
    config = settings(train__max_steps=10**6, run__save_interval=50, run__runs_dir=str(memory))
    step = 0
    for turn in range(1, 101):
        pid = nursery.start(config)
        await_training(config, turn)
        time.sleep(chance.uniform(0, 0.2))
        number = chance.choice([signal.SIGTERM, signal.SIGINT])
        os.kill(pid, number)
        assert nursery.ended() == (75 if number == signal.SIGTERM else 130)
        checkpoint, problems = newest(config.directory / "ckpt")
        assert problems == []
        assert checkpoint.state.step > step
        step = checkpoint.state.step


@pytest.mark.slow
def test_the_second_of_two_runs_of_one_name_is_refused_with_its_owner(settings, nursery):
    config = settings(train__max_steps=10**6)
    pid = nursery.start(config)
    while not steps(config.directory / "ckpt"):
        time.sleep(0.02)
    before = (config.directory / "settings.json").read_bytes()
    command = [sys.executable, "-m", "vgpt", "train", "--data", config.train.data, "--run-name", "run"]
    words = ["--runs-dir", str(config.run.runs_dir), "--device", "cpu", "--tracker", "journal", "--n-layer", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    told = " ".join(done.stderr.replace("│", " ").split())
    assert f"is being trained by process {pid}" in told
    assert "--run-name" in told
    assert "Traceback" not in done.stderr
    assert (config.directory / "settings.json").read_bytes() == before
    # A lock goes with its holder, however that ends.
    os.kill(pid, signal.SIGKILL)
    assert nursery.ended() == -signal.SIGKILL
    assert lock_owner(config.directory) is None
