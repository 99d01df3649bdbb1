"""The figures of a finished run: what comparisons read, from the trainer and from the run's directory."""

import json
from pathlib import Path
from typing import Any

import torch

from vgpt.evaluation.loss import Evaluation
from vgpt.model.costs import cache_bytes, cache_read_bytes, count_parameters
from vgpt.model.gpt2 import GPT2Model
from vgpt.training.devices import Compute
from vgpt.training.hardware import Peak, peak_memory
from vgpt.training.replica import FSDPReplica
from vgpt.training.trainer import Trainer


def summarise(trainer: Trainer, final: Evaluation, compute: Compute, peak: Peak) -> dict[str, float]:
    """Return the figures that comparisons read, under their names in the tracking schema."""
    state, architecture = trainer.state, trainer.model.config
    rate = state.tokens / state.seconds if state.seconds else 0.0
    element = torch.finfo(compute.dtype).bits // 8
    context = architecture.block_size
    measured = measured_cache_bytes(trainer, context, compute.dtype)
    count = count_parameters(architecture)
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
        "memory/peak_bytes": peak_memory(compute.device),
        "train/tokens": state.tokens,
        "train/steps": state.step,
        "train/skipped_steps": state.skipped_steps,
        "train/seconds": state.seconds,
        "perf/tokens_per_second": rate,
        "perf/mfu": trainer.costs.mfu(rate),
        "perf/mfu_palm": trainer.costs.mfu_palm(rate),
    }


def measured_cache_bytes(trainer: Trainer, tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes in use in real caches after `tokens` tokens of one sequence went through them."""
    # Where the weights are shared out, a model of the same shape will do: sizes do not depend on weights.
    model = GPT2Model(trainer.model.config) if isinstance(trainer.replica, FSDPReplica) else trainer.model
    caches = model.make_caches(1, tokens, dtype=dtype)
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=model.wte.weight.device)
    training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(ids.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        model.hidden(ids, caches)
    model.train(training)
    return sum(cache.nbytes for cache in caches)


def read_summary(directory: Path) -> dict[str, float] | None:
    """Return the figures of a run that has ended, or None where there are none."""
    try:
        value: Any = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return {name: float(figure) for name, figure in value["metrics"].items()} or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
