"""What a run says of itself at its end: the same in its journal, in MLflow and in its summary; speeds; memory."""

import json
import math
import shutil

import pytest
import torch

from vgpt.tracking.journal import read_metrics
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.schema import HISTORY_METRICS, SUMMARY_METRICS
from vgpt.tracking.store import read_local_run, read_runs
from vgpt.training.checkpoints.checkpoint import find_checkpoint
from vgpt.training.display import Quiet
from vgpt.training.hardware.devices import resolve
from vgpt.training.hardware.memory import StepMemory
from vgpt.training.hardware.peak import Peak, peak_again, peak_flops
from vgpt.training.run import train_run


class Stop(Quiet):
    """Ends training like a process that is killed at a step."""

    def __init__(self, step):
        self.step = step

    def advance(self, step):
        if step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stores(corpus, empty_store, tmp_path_factory):
    """A run that was interrupted and resumed, in its journal and in a real SQLite store."""
    from vgpt.settings.train import TrainConfig

    place = tmp_path_factory.mktemp("stores")
    tables = {
        "model": {"attn": "mha", "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
        "train": {"data": str(corpus), "batch_size": 4, "max_steps": 26, "eval_interval": 6, "eval_windows": 8},
        "system": {"device": "cpu", "dtype": "float32"},
        "run": {"runs_dir": str(place / "runs"), "tracker": "journal", "log_interval": 2, "save_interval": 5},
    }
    config = TrainConfig.model_validate(tables)
    with pytest.raises(KeyboardInterrupt):
        train_run(config, Stop(13))
    shutil.copy(empty_store, place / "mlflow.db")
    uri = f"sqlite:///{place}/mlflow.db"
    sync_run(config.directory, tracking_uri=uri)  # steps that are then repeated are in the store already
    summary = train_run(config, Quiet()).summary
    sync_run(config.directory, tracking_uri=uri)
    (stored,) = read_runs(tracking_uri=uri)
    return config, summary, stored


def test_every_figure_of_the_summary_is_the_same_in_journal_and_mlflow(stores):
    config, summary, stored = stores
    local = read_local_run(config.directory)
    told = json.loads((config.directory / "summary.json").read_text())["metrics"]
    assert {"speed/tokens_per_second", "speed/mfu", "speed/intervals", "train/seconds", "val/loss"} <= summary.keys()
    assert told == summary
    assert {name: local.metrics[name] for name in summary} == summary
    assert {name: stored.metrics[name] for name in summary} == summary


def test_a_figure_of_the_summary_is_no_metric_of_log_lines(stores):
    _, summary, _ = stores
    evaluation = {name for name in HISTORY_METRICS if name.startswith("val/")}
    assert summary.keys() & HISTORY_METRICS.keys() <= evaluation  # those are of the last evaluation in both
    assert summary.keys() - evaluation <= SUMMARY_METRICS.keys()


def test_the_speed_is_that_of_the_journal_and_counts_no_interval_of_a_start(stores):
    config, summary, _ = stores
    rates = {
        point.step: point.metrics["perf/tokens_per_second"]
        for point in read_metrics(config.directory)
        if "perf/tokens_per_second" in point.metrics
    }
    assert sorted(rates) == list(range(2, 27, 2))
    kept = sorted(rates[step] for step in rates if step not in (2, 4, 14))  # two of 13; resumed at 12
    assert summary["speed/intervals"] == len(kept) == 10
    assert summary["speed/tokens_per_second"] == pytest.approx((kept[4] + kept[5]) / 2)
    assert kept[0] <= summary["speed/tokens_per_second_low"] <= kept[4]
    assert kept[5] <= summary["speed/tokens_per_second_high"] <= kept[-1]
    mfu = summary["speed/tokens_per_second"] * summary["flops/train_per_token"] / summary["flops/peak"]
    assert summary["speed/mfu"] == pytest.approx(mfu)


def test_the_time_of_an_unfinished_interval_survives_a_resume(settings):
    config = settings(run__log_interval=10, run__save_interval=7, train__eval_interval=100)
    with pytest.raises(KeyboardInterrupt):
        train_run(config, Stop(9))
    state = find_checkpoint(config.directory, which="last").state
    assert (state.step, state.interval_steps, state.seconds) == (7, 7, 0)
    assert state.interval_seconds > 0
    summary = train_run(config, Quiet()).summary
    first = next(p for p in read_metrics(config.directory) if "perf/tokens_per_second" in p.metrics)
    assert first.seconds > state.interval_seconds
    assert first.tokens / first.seconds == pytest.approx(first.metrics["perf/tokens_per_second"])
    assert summary["train/tokens"] == 12 * 4 * 16


def test_a_summary_says_nothing_anew_of_what_its_step_has_already(tmp_path):
    from vgpt.tracking.journal import Journal, Point

    journal = Journal(tmp_path, resume_step=None)
    journal.log(Point(4, 0, {"a": 1.0}))
    journal.log(Point(5, 0, {"a": 2.0}))
    journal.log(Point(5, 0, {"b": 3.0}))
    journal.close()
    journal = Journal(tmp_path, resume_step=5)
    journal.log(Point(5, 0, {"a": 9.0, "b": 9.0, "c": 4.0}, summary=True))
    journal.close()
    assert read_metrics(tmp_path)[-1].metrics == {"c": 4.0}


def test_memory_of_steps_is_what_they_take_and_not_what_was_there_before():
    before = torch.ones(8 << 20)  # 32 MiB
    del before
    held = [torch.ones(2 << 20)]  # 8 MiB
    memory = StepMemory(torch.device("cpu"))
    evaluation = torch.ones(32 << 20)  # 128 MiB that are gone before the first step
    del evaluation
    memory.begin(held)
    if memory._left == 0:
        pytest.skip("the system does not let a process set its peak back")
    step = torch.ones(16 << 20)  # 64 MiB
    del step
    memory.step()
    memory.end()
    larger = torch.ones(64 << 20)
    del larger
    memory.step()
    assert memory.peak / 2**20 == pytest.approx(64 + 8, abs=6)


def test_memory_of_training_follows_the_size_of_the_step_and_not_of_the_evaluation(settings):
    """Weights, gradients and AdamW's two moments are four times the weights; activations grow with the batch."""
    sizes = {}
    for batch in (4, 64):
        config = settings(
            model__n_embd=128,
            model__block_size=64,
            train__batch_size=batch,
            train__max_steps=3,
            run__run_name=f"b{batch}",
        )
        summary = train_run(config, Quiet()).summary
        if "memory/train_bytes" not in summary:
            pytest.skip("the system does not let a process set its peak back")
        sizes[batch] = summary["memory/train_bytes"]
        assert summary["memory/peak_bytes"] > summary["memory/train_bytes"]
    assert sizes[4] > 4 * 4 * summary["params/total"]
    assert sizes[64] > 4 * sizes[4]


def test_the_peak_is_the_best_of_both_ends_of_a_run(settings):
    compute = resolve(settings().system)
    first = peak_flops(compute)
    assert first.source == "measured"
    again = peak_again(compute, first)
    assert again.flops >= first.flops
    assert math.isfinite(again.flops)
    assert peak_again(compute, Peak(1e30, "measured")).flops == 1e30
    assert peak_again(compute, Peak(5.0, "published")) == Peak(5.0, "published")
