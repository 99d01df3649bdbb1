"""Numbers that are not finite: the update is left out and counted, the weights stay clean, and too many end the run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vgpt.errors import DivergedError
from vgpt.tracking.journal import read_events
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, steps
from vgpt.training.display import Quiet
from vgpt.training.run import train_run
from vgpt.training.step import LateResults, TrainStep

PLUGIN = """
import os

import torch

from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.registry import register_attention

RANK, STEP, VALUE = int(os.environ.get("RANK", 0)), 0, float(os.environ["BAD_VALUE"])
BAD_STEPS = {int(step) for step in os.environ["BAD_STEPS"].split(",")}
BAD_RANK = int(os.environ.get("BAD_RANK", 0))


class Poison(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        global STEP
        STEP += 1
        return grad * VALUE if STEP in BAD_STEPS and RANK == BAD_RANK else grad


@register_attention("poisoned", module="PoisonedAttention")
class PoisonedConfig(MHAConfig):
    "Multi-head attention whose gradient is not finite at chosen steps."


class PoisonedAttention(GroupedAttention):
    def forward(self, x, cache=None):
        x = super().forward(x, cache)
        return Poison.apply(x) if torch.is_grad_enabled() else x
"""


class Listening(Quiet):
    def __init__(self):
        self.said = []

    def notify(self, message):
        self.said.append(message)


def poison(monkeypatch, value: float, bad: set[int], *, loss: bool = False) -> None:
    """Make the gradient, or the loss with it, of the given updates (counted from 1) not finite."""
    real, calls = TrainStep._backward, []

    def poisoned(self, ids, targets, accumulate, *, last):
        calls.append(1)
        result = real(self, ids, targets, accumulate, last=last)
        if len(calls) in bad:
            self.parameters[3].grad.view(-1)[5] = value
            result = result * value if loss else result
        return result

    monkeypatch.setattr(TrainStep, "_backward", poisoned)


def finite(config) -> bool:
    state = find_checkpoint(config.directory, which="last").load_model().state_dict()
    return all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("loss", [False, True])
def test_an_update_that_is_not_finite_is_left_out_and_counted(settings, monkeypatch, value, dtype, clip, loss):
    config = settings(system__dtype=dtype, train__grad_clip=clip)
    poison(monkeypatch, value, {3, 6}, loss=loss)
    display = Listening()
    result = train_run(config, display)
    assert result.status == "finished"
    assert finite(config)
    state = newest(config.directory / "ckpt")[0].state
    assert (state.skipped_steps, state.bad_steps) == (2, 0)
    assert result.summary["train/skipped_steps"] == 2
    bad = [event for event in read_events(config.directory) if event["kind"] == "bad_step"]
    assert [event["step"] for event in bad] == [3, 6]
    assert all(event["batches"] for event in bad)
    assert sum("is left out" in text for text in display.said) == 2


def test_too_many_in_a_row_end_the_run_with_the_last_good_checkpoint_named(settings, monkeypatch):
    config = settings(train__max_bad_steps=2, train__max_steps=20)
    poison(monkeypatch, float("nan"), {5, 9, 10, 11, 12})
    with pytest.raises(DivergedError) as caught:
        train_run(config, Quiet())
    assert caught.value.exit_code == 3
    assert "3 gradients in a row were not finite, up to step 11" in caught.value.message
    named = Path(caught.value.hint.rpartition("is ")[2].removesuffix("."))
    assert named == steps(config.directory / "ckpt")[-1]
    assert finite(config)
    assert json.loads((config.directory / "summary.json").read_text())["status"] == "diverged"
    assert read_events(config.directory)[-1]["kind"] == "diverged"


def test_the_same_updates_are_left_out_and_counted_where_results_are_read_one_update_late(settings, monkeypatch):
    """As on a GPU, for which the host does not wait after each update."""
    real = LateResults.__init__
    monkeypatch.setattr(LateResults, "__init__", lambda self, device: real(self, device, ahead=1))
    config = settings(run__save_interval=3)
    poison(monkeypatch, float("nan"), {3, 6})
    result = train_run(config, Quiet())
    assert result.summary["train/skipped_steps"] == 2
    bad = [event["step"] for event in read_events(config.directory) if event["kind"] == "bad_step"]
    assert bad == [3, 6]
    assert finite(config)
    other = settings(train__max_bad_steps=2, train__max_steps=20, run__run_name="other")
    poison(monkeypatch, float("nan"), {5, 9, 10, 11, 12})
    with pytest.raises(DivergedError, match="3 gradients in a row were not finite, up to step 11"):
        train_run(other, Quiet())


def test_bad_steps_in_a_row_are_counted_across_a_resumption(settings, monkeypatch):
    """Else a run that is started again and again, by a batch system perhaps, would never end."""

    class Stop(Quiet):
        def advance(self, step):
            if step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    config = settings(train__max_bad_steps=3, train__max_steps=20)
    poison(monkeypatch, float("nan"), set(range(5, 100)))
    assert train_run(config, Stop()).status == "stopped"
    with pytest.raises(DivergedError, match="up to step 8"):
        train_run(config, Quiet())


def test_before_the_first_checkpoint_there_is_none_to_name(settings, monkeypatch):
    config = settings(train__max_bad_steps=0, run__save_interval=100)
    poison(monkeypatch, float("inf"), {1})
    with pytest.raises(DivergedError, match="up to step 1") as caught:
        train_run(config, Quiet())
    assert "no checkpoint yet" in caught.value.hint


def environment(tmp_path, **more: str) -> dict[str, str]:
    (tmp_path / "poisoned.py").write_text(PLUGIN)
    info = tmp_path / "poisoned-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poisoned\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vgpt.attention]\npoisoned = poisoned\n")
    path = f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path}"
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BAD_VALUE": "nan"} | more


def command(config, *words: str) -> list[str]:
    train, run = config.train, config.run
    return [
        *(sys.executable, "-m", "vgpt", "train", "--attn", "poisoned", "--data", train.data, "--device", "cpu"),
        *("--dtype", "float32", "--tracker", "journal", "--runs-dir", str(run.runs_dir), "--run-name", "run"),
        *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--batch-size", "2"),
        *("--max-steps", "8", "--save-interval", "2", "--eval-windows", "4", "--eval-interval", "4", *words),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_of_two_with_a_bad_gradient_makes_both_leave_the_update_out(settings, tmp_path, parallel, rank):
    config = settings()
    words = ["--nproc", "2", "--parallel", parallel]
    more = {"BAD_STEPS": "3,5", "BAD_RANK": rank}
    done = subprocess.run(
        command(config, *words), env=environment(tmp_path, **more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bad = [event["step"] for event in read_events(config.directory) if event["kind"] == "bad_step"]
    assert bad == [3, 5]
    stored = load_file(steps(config.directory / "ckpt")[-1] / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_command_ends_with_exit_code_3_and_a_panel(settings, tmp_path, processes):
    config = settings()
    bad = environment(tmp_path, BAD_STEPS="5,6,7,8")
    words = ["--nproc", processes, "--max-bad-steps", "1"]
    done = subprocess.run(command(config, *words), env=bad, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    told = " ".join(done.stderr.replace("│", " ").split())
    assert "2 gradients in a row were not finite" in told
    assert "Traceback" not in done.stderr
    if processes == "1":
        assert "The last good checkpoint is" in told
