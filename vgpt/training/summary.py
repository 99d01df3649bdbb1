"""The figures of a finished run: what comparisons read, from the trainer and from the run's directory."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vgpt.evaluation.loss import Evaluation
from vgpt.model.costs import cache_bytes, cache_read_bytes, count_parameters
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.tracking.speed import Speed, logged_speed
from vgpt.training.hardware.devices import Compute
from vgpt.training.hardware.peak import Costs, Peak, peak_again, peak_memory
from vgpt.training.parallel.replica import FSDPReplica
from vgpt.training.trainer import Trainer

_DECODED = 32
"""Decoding steps that are timed."""


def summarize(trainer: Trainer, final: Evaluation, compute: Compute, peak: Peak) -> dict[str, float]:
    """Return the figures that comparisons read, under their names in the tracking schema."""
    state, architecture = trainer.state, trainer.model.config
    # What was logged, by all processes that took part in the run, in place of a mean over everything.
    speed = logged_speed(trainer.config.directory) if trainer.world.main else None
    element = torch.finfo(compute.dtype).bits // 8
    context = architecture.block_size
    peak_bytes = peak_memory(compute.device)  # before what follows, which needs memory too
    measured, decode_seconds = measure_decoding(trainer, context, compute.dtype)
    count = count_parameters(architecture)
    peak = peak_again(compute, peak)
    costs = replace(trainer.costs, peak_flops=peak.flops * trainer.world.size)
    return {
        **final.metrics(),
        "val/best_loss": state.best_loss if state.best_loss is not None else final.loss,
        "params/total": count.total,
        "params/attention": count.attention,
        "params/non_embedding": count.non_embedding,
        "flops/train_per_token": trainer.costs.flops_per_token,
        "flops/train_per_token_palm": trainer.costs.palm_flops_per_token,
        "flops/peak": peak.flops,
        "kv/bytes_per_token": cache_bytes(architecture, context, element) / context,
        "kv/bytes_at_context": cache_bytes(architecture, context, element),
        "kv/bytes_read": cache_read_bytes(architecture, context, element),
        "kv/bytes_measured": measured,
        "memory/peak_bytes": peak_bytes,
        **({"memory/train_bytes": taken} if (taken := trainer.memory.peak or state.train_bytes) else {}),
        "train/tokens": state.tokens,
        "train/steps": state.step,
        "train/skipped_steps": state.skipped_steps,
        "train/seconds": state.seconds,
        **({} if math.isnan(decode_seconds) else {"perf/decode_seconds": decode_seconds}),
        **(_speed(speed, costs) if speed is not None else {}),
    }


def _speed(speed: Speed, costs: Costs) -> dict[str, float]:
    """Return the run's speed under names of its own: those of log lines are the last interval's."""
    mfu = {"speed/mfu": costs.mfu(speed.median), "speed/mfu_palm": costs.mfu_palm(speed.median)}
    return {**speed.metrics(), **mfu}


def measure_decoding(trainer: Trainer, tokens: int, dtype: torch.dtype) -> tuple[int, float]:
    """Decode the last of `tokens` tokens of one sequence, as `vgpt sample` does.

    Returns:
        The bytes in use in the caches afterwards, and the seconds of a step: the median of up to 32.
    """
    model, device = trainer.model, trainer.compute.device
    if isinstance(trainer.replica, FSDPReplica):
        # Where the weights are shared out, a model of the same shape will do: neither depends on weights.
        model = GPT2Model(model.config).to(device)
    decoding = Decoder(model, dtype).steps(1, tokens)
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=device)
    steps = min(_DECODED, tokens - 1)
    decoding.next_logits(ids[:, : tokens - steps])
    seconds: list[float] = []
    for _ in range(steps):
        begun = time.perf_counter()
        decoding.next_logits(ids[:, :1])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    if decoding.note:
        trainer.reporter.display.notify(decoding.note)
    return sum(cache.nbytes for cache in decoding.caches), median(seconds) if seconds else math.nan


def read_summary(directory: Path) -> dict[str, float] | None:
    """Return the figures of a run that has ended, or None where there are none."""
    try:
        value: Any = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return {name: float(figure) for name, figure in value["metrics"].items()} or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
