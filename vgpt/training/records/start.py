"""Where a run starts: digests of the first weights outside of the attention, and how large its branch is at first.

Variants share every tensor but their own, so these digests must be equal between runs of one seed. How much the
attention adds to the residual stream before training is the variant's own, and may explain early differences.
"""

import hashlib

import numpy as np
import torch

from vgpt.model.gpt2 import GPT2Block, GPT2Model

START, START_MLP, ATTENTION_RMS = "vgpt.start", "vgpt.start_mlp", "start/attention_rms"
_MOST_TOKENS = 1024


def few_windows(count: int, block_size: int) -> np.ndarray:
    """Return which of `count` evaluation windows a model is looked at on before training: the first, 1,024 tokens."""
    return np.arange(min(count, max(1, _MOST_TOKENS // block_size)))


def measure_start(model: GPT2Model, rows: np.ndarray) -> dict[str, str]:
    """Return digests and figures of a model's random first weights, as text by name.

    Args:
        model: on the CPU, in float32, before its first step.
        rows: evaluation windows (N, T + 1) with the target of the last token, the same for every run.
    """
    ids = torch.from_numpy(rows[:, :-1].astype(np.int64))
    return {
        START: _digest(model, mlp=False),
        START_MLP: _digest(model, mlp=True),
        ATTENTION_RMS: f"{attention_rms(model, ids):.6g}",
    }


@torch.no_grad()
def attention_rms(model: GPT2Model, ids: torch.Tensor) -> float:
    """Return the root mean square of what the attention layers add to the residual stream, averaged over layers.

    Args:
        model: the model; it is left in the mode that it is in.
        ids: token ids (B, T).
    """
    found: list[float] = []
    blocks: list[GPT2Block] = list(model.h)  # type: ignore[arg-type]  # ModuleList forgets its element type

    def note(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        found.append(float(output.double().square().mean().sqrt()))

    hooks = [block.attn.register_forward_hook(note) for block in blocks]
    training = model.training
    model.eval()  # dropout would draw from the global random state
    try:
        model.hidden(ids)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sum(found) / len(found)


def _digest(model: GPT2Model, *, mlp: bool) -> str:
    """Return the digest of all tensors outside of the attention layers, of MLPs or of everything else.

    MLPs stand apart because matched budgets give them other widths.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        if ".attn." not in name and (".mlp." in name) == mlp:
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()
