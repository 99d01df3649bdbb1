"""Reading ahead brings the same batches as reading directly, and the records say what the machine was doing."""

import numpy as np
import psutil
import pytest
import torch

from vgpt.data.batches import BatchSource
from vgpt.tracking.journal import read_metrics
from vgpt.tracking.schema import HISTORY_METRICS
from vgpt.training.batch_loader import BatchLoader
from vgpt.training.display import Quiet
from vgpt.training.hardware.memory import Usage
from vgpt.training.parallel.distributed import World
from vgpt.training.run import train_run

CPU = torch.device("cpu")


def source(seed: int = 7) -> BatchSource:
    # 40 windows: a few steps make an epoch.
    return BatchSource(np.arange(40 * 8 + 5, dtype=np.uint16), 8, 3, seed)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("world", [World(), World(1, 2, 1)])
def test_batches_are_those_of_the_source_in_any_order_of_asking(ahead, world):
    feed = BatchLoader(source(), 2, world, CPU, ahead=ahead)
    plain = source()
    for step in [*range(30), 5, 6, 7, 100, 3]:
        found = feed.step(step)
        assert found.digest == plain.digest(step, grad_accum=2, world_size=world.size)
        for micro, (ids, targets) in enumerate(found.micro):
            want = plain.batch(step, micro_step=micro, grad_accum=2, rank=world.rank, world_size=world.size)
            assert np.array_equal(ids.numpy(), want[0])
            assert np.array_equal(targets.numpy(), want[1])
    feed.close()


def test_the_next_step_is_read_before_it_is_asked_for():
    read = []

    class Watched(BatchSource):
        def batch(self, step, **place):
            read.append(step)
            return super().batch(step, **place)

    feed = BatchLoader(Watched(np.arange(400, dtype=np.uint16), 8, 3, 7), 1, World(), CPU, ahead=True)
    feed.step(0)
    feed.close()
    assert read in ([0], [0, 1])  # closing may come before the thread has begun
    feed = BatchLoader(Watched(np.arange(400, dtype=np.uint16), 8, 3, 7), 1, World(), CPU, ahead=True)
    read.clear()
    for step in range(5):
        feed.step(step)
    assert read[:5] == [0, 1, 2, 3, 4]
    feed.close()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_step_is_asked_for():
    class Broken(BatchSource):
        def batch(self, step, **place):
            raise OSError("the disk is gone")

    feed = BatchLoader(Broken(np.arange(400, dtype=np.uint16), 8, 3, 7), 1, World(), CPU, ahead=True)
    with pytest.raises(OSError, match="gone"):
        feed.step(0)
    feed.close()


def test_training_on_batches_read_ahead_ends_in_the_same_bits(settings, monkeypatch):
    from vgpt.training import trainer

    losses = {}
    for name in ("plain", "ahead"):
        config = settings(run__run_name=name, train__grad_accum=2)
        ahead = name == "ahead"
        monkeypatch.setattr(trainer, "BatchLoader", lambda *words, ahead=ahead: BatchLoader(*words, ahead=ahead))
        train_run(config, Quiet())
        log = (config.directory / "mha.log").read_text().splitlines()
        losses[name] = [line.split()[3::8] + line.split()[-1:] for line in log]
    assert losses["plain"] == losses["ahead"]


@pytest.mark.gpu
def test_pinned_batches_arrive_on_the_gpu_unchanged():
    device = torch.device("cuda", 0)
    feed, plain = BatchLoader(source(), 2, World(), device), source()
    for step in range(20):
        for micro, (ids, targets) in enumerate(feed.step(step).micro):
            want = plain.batch(step, micro_step=micro, grad_accum=2)
            assert ids.device == device
            assert np.array_equal(ids.cpu().numpy(), want[0])
            assert np.array_equal(targets.cpu().numpy(), want[1])
    feed.close()


def test_the_use_of_the_machine_is_recorded_with_every_log_line(settings):
    config = settings()
    train_run(config, Quiet())
    points = [point.metrics for point in read_metrics(config.directory) if "train/loss" in point.metrics]
    names = {name for name in HISTORY_METRICS if name.startswith("system/") and "gpu" not in name}
    assert len(names) == 4
    for point in points:
        assert names <= set(point)
        assert 0 < point["system/resident_bytes"] < psutil.virtual_memory().total
        assert 0 <= point["system/cpu_percent"] <= 100


def test_a_machine_that_does_not_tell_costs_the_figures_and_not_the_run(monkeypatch):
    usage = Usage(CPU)

    def refuse(*_):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert usage.measure() == {}
