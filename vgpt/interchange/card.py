"""The model card of an exported directory: what the model is, how it was trained, what it measured, how it is used."""

import math
from pathlib import Path

from vgpt.attention.grammar import LayerPattern, full_label
from vgpt.formatting import counted, format_bytes
from vgpt.interchange.directory import CARD, Exported
from vgpt.model.costs import cache_bytes, count_parameters
from vgpt.package import VERSION
from vgpt.tracking.schema import Metric
from vgpt.training.checkpoints.checkpoint import Checkpoint
from vgpt.training.summary import read_summary

_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- vgpt
- attention
- {kind}
---

# {name}

A GPT-2 language model with `{attention}` attention, from vgpt {version}, a laboratory for attention.

"""
_HALF = 2
"""Bytes of a number in a cache of bfloat16."""


def write_card(directory: Path, checkpoint: Checkpoint, exported: Exported) -> None:
    """Write `README.md`: figures that the run recorded, and none that it did not."""
    config, settings = checkpoint.model, checkpoint.settings
    head = _HEAD.format(kind=config.attn.kind, name=settings.name, attention=full_label(config.attn), version=VERSION)
    rows = [*_model_rows(checkpoint), *_training_rows(checkpoint)]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    (directory / CARD).write_text(f"{head}{table}\n\n{_use(exported)}", encoding="utf-8")


def _model_rows(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    config = checkpoint.model
    layers = LayerPattern(tuple(config.attn.at(layer) for layer in range(config.n_layer)))
    count, context = count_parameters(config), config.block_size
    held = cache_bytes(config, context, _HALF)
    return [
        ("attention of the layers", f"`{layers}`"),
        ("positions", config.pos),
        ("size", f"{counted(config.n_layer, 'layer')}, {counted(config.n_head, 'head')}, width {config.n_embd}"),
        ("parameters", f"{count.total:,} ({count.non_embedding:,} without embeddings)"),
        ("context", f"{context:,} tokens"),
        ("KV cache at that context, bfloat16", f"{format_bytes(held)} per sequence ({held:,} bytes)"),
        ("vocabulary", f"{config.vocab_size:,} ids ({checkpoint.tokenizer().name})"),
    ]


def _training_rows(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    state, settings = checkpoint.state, checkpoint.settings
    rows: list[tuple[str, str]] = []
    if state.tokens:
        rows += [
            ("data", f"{Path(settings.train.data).name}, SHA-256 {state.data_digest[:16] or 'not recorded'}"),
            ("trained for", f"{state.step:,} steps, {state.tokens:,} tokens, seed {settings.train.seed}"),
        ]
    if state.init_digest:
        began = settings.train.init_from or "other weights"
        rows.append(
            ("weights from" if not state.tokens else "began with", f"{began}, SHA-256 {state.init_digest[:16]}")
        )
    loss, bits = _losses(checkpoint)
    if loss is not None:
        rows.append(("validation loss", f"{loss:.4f} nats per token (perplexity {math.exp(loss):.2f})"))
    if bits is not None:
        rows.append(("validation bits per byte", f"{bits:.4f}"))
    return rows


def _losses(checkpoint: Checkpoint) -> tuple[float | None, float | None]:
    """Return loss and bits per byte of the checkpoint, where they are on record.

    Both are of the same windows at every evaluation: one is the other times a number that the data decides.
    """
    state = checkpoint.state
    loss = state.best_loss if state.best_loss is not None and state.best_step == state.step else None
    final = read_summary(checkpoint.directory.parent.parent) or {}
    last, bits = final.get(Metric.VAL_LOSS), final.get(Metric.VAL_BITS_PER_BYTE)
    if loss is None and final.get(Metric.TRAIN_STEPS, 0) == state.step:
        loss = last
    return loss, bits * loss / last if loss is not None and last and bits is not None else None


def _use(exported: Exported) -> str:
    trust = ", trust_remote_code=True" if exported.own_code else ""
    code = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'place = "{exported.directory.name}"',
        f"model = AutoModelForCausalLM.from_pretrained(place{trust})",
        f"tokenizer = AutoTokenizer.from_pretrained(place{trust})",
        'ids = tokenizer("Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))",
        "```",
    ]
    said = [f"Class: `{exported.architecture}`."]
    if exported.own_code:
        said.append(
            "Its code is the Python files of this directory, which transformers runs only with "
            "`trust_remote_code=True`; they need `torch` and `pydantic`, and no vgpt."
        )
    if exported.note:
        said.append(f"{exported.note[0].upper()}{exported.note[1:]}.")
    said.append(
        f"Loaded again after writing, its logits differed by at most {exported.difference:.1e} from those of vgpt "
        f"(float32, {exported.tokens:,} random tokens)."
    )
    return "\n".join(["## Use", "", *code, "", *said, ""])
