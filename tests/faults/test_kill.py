"""kill -9 at any moment: no checkpoint that was acknowledged is lost or unreadable, and not one bit comes out other."""

import contextlib
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from vgpt.tracking.journal import read_events, read_metrics
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest


def acknowledged(config) -> int:
    """Return the step of the newest checkpoint that the journal has named; 0 for none."""
    events = read_events(config.directory)
    return max((event["step"] for event in events if event["kind"] == "checkpoint"), default=0)


def outcome(config) -> tuple:
    """Return all that two runs must have in common to the last bit: tensors, states, pointers, losses."""
    last = find_checkpoint(config.directory, which="last")
    best = find_checkpoint(config.directory, which="best")
    tensors = {
        f"{place.directory.name}/{kind}/{name}": tensor
        for place in (last, best)
        for kind in ("model", "optimizer")
        for name, tensor in load_file(place.directory / f"{kind}.safetensors").items()
    }
    state = last.state
    facts = (state.step, state.tokens, state.best_loss, state.best_step, state.batch_hash, state.loss_sum)
    losses = [
        (point.step, name, value)
        for point in read_metrics(config.directory)
        for name, value in point.metrics.items()
        if name.endswith("/loss") or name == "train/grad_norm"
    ]
    return tensors, facts, losses


def assert_equal(left: tuple, right: tuple) -> None:
    assert left[0].keys() == right[0].keys()
    assert all(torch.equal(left[0][name], right[0][name]) for name in left[0])
    assert left[1:] == right[1:]


@pytest.mark.parametrize("kills", [5, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_killed_at_random_moments_a_run_loses_no_checkpoint_and_not_one_bit(settings, nursery, memory, kills):
    chance = random.Random(kills)
    common = {"train__max_steps": 30, "model__dropout": 0.1, "run__save_interval": 1, "run__runs_dir": str(memory)}
    whole = settings(run__run_name="whole", **common)
    nursery.train(whole)
    expected = outcome(whole)
    killed = torn = finished = reached = 0
    longest = 0.2
    config = settings(run__run_name="run-0", **common)
    # On until the kills have met what they are meant to meet: a save half done.
    while killed < kills or not finished or torn <= kills / 20:
        pid = nursery.start(config)
        # A whole run takes a third of a second; the first hundredths of one are its start. On a busy machine both
        # take longer, and so may a process that got no further than the one before.
        time.sleep(chance.uniform(0.01, longest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = nursery.ended()
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        torn += any((config.directory / "ckpt").glob(".tmp-*"))
        checkpoint, problems = newest(config.directory / "ckpt")
        assert problems == []
        now = acknowledged(config)
        longest, reached = longest if now > reached else min(1.1 * longest, 10), now
        if now:
            assert checkpoint is not None
            assert checkpoint.state.step >= now
        if code == 0:
            assert_equal(outcome(config), expected)
            finished += 1
            config = settings(run__run_name=f"run-{finished}", **common)
            reached, longest = 0, 0.2  # otherwise every run after the first would be let end
