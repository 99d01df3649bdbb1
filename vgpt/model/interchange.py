"""Weights of other libraries' GPT-2: mapped to vgpt's names, and read from a local directory.

GPT-2 (`mha`) keeps linear weights transposed (input, output). GPTBigCode with `multi_query` is GPT-2 with `mqa`; its
linear weights lie as vgpt's do. All other names and layouts agree, so mapping is prefix and transpose.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgpt.errors import CheckpointError
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.weights import plain_names, read_config, read_weights, untied
from vgpt.settings.model import ACTIVATIONS

_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}
_ATTENTION = {"gpt2": "mha", "gpt_bigcode": "mqa"}
OWN_TYPE = "vgpt"
"""Model type of directories with vgpt's own code, whose settings and weights are as vgpt has them."""


def from_hf(weights: Mapping[str, Tensor], *, kind: str = "mha", tie: bool = True) -> dict[str, Tensor]:
    """Return vgpt's state of a GPT-2 (`kind` "mha") or multi-query GPTBigCode ("mqa") state dict.

    With or without the prefixes that wrappers leave; stored causal masks are dropped, and of an embedding and an output
    layer that are tied either will do. Linear weights that lie as vgpt's do, as other trainers' may, are left so.

    Raises:
        CheckpointError: the embedding and the output layer differ, though they are tied.
    """
    bare = untied(plain_names(weights), tie=tie)
    kind = "" if _lies_as_ours(bare) else kind
    return {name: _turned(name, tensor, kind) for name, tensor in bare.items()}


def config_from_hf(values: Mapping[str, Any]) -> GPT2Config:
    """Return the settings of a GPT-2 or GPTBigCode `config.json`, or of one that vgpt exported with code of its own.

    Raises:
        CheckpointError: another architecture, or one of its options that vgpt does not compute.
    """
    model_type = values.get("model_type", "gpt2")
    if model_type == OWN_TYPE:
        return GPT2Config.model_validate(values.get("model"))
    if model_type not in _ATTENTION:
        raise CheckpointError(
            f"weights of model type {model_type!r} cannot be read", f"Readable: {', '.join([*_ATTENTION, OWN_TYPE])}."
        )
    unsupported = {
        "layer_norm_epsilon": values.get("layer_norm_epsilon", 1e-5) != 1e-5,
        "scale_attn_weights": not values.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": bool(values.get("scale_attn_by_inverse_layer_idx")),
        "add_cross_attention": bool(values.get("add_cross_attention")),
        "multi_query": model_type == "gpt_bigcode" and not values.get("multi_query", True),
    }
    if wrong := [f"{name} = {values.get(name)!r}" for name, fails in unsupported.items() if fails]:
        raise CheckpointError(f"this {model_type} model uses what vgpt does not compute: {', '.join(wrong)}")
    activation = values.get("activation_function", "gelu_new")
    activation = _ACTIVATIONS.get(activation, activation)
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"this {model_type} model uses what vgpt does not compute: activation_function = {activation!r}",
            f"Known: {', '.join([*ACTIVATIONS, *_ACTIVATIONS])}.",
        )
    return GPT2Config.model_validate(
        {
            "vocab_size": values.get("vocab_size", 50_257),
            "block_size": values.get("n_positions", 1024),
            "n_layer": values.get("n_layer", 12),
            "n_head": values.get("n_head", 12),
            "n_embd": values.get("n_embd", 768),
            "mlp_hidden": values.get("n_inner"),
            "activation": activation,
            "tie_weights": values.get("tie_word_embeddings", True),
            "attn": _ATTENTION[model_type],
        }
    )


def load_gpt2_safetensors(directory: Path) -> GPT2Model:
    """Build a model from `config.json` and safetensors in a local directory, such as a snapshot of `gpt2`.

    Raises:
        CheckpointError: a file is missing or unreadable, or the weights do not fit the settings.
    """
    try:
        config = config_from_hf(read_config(directory))
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{directory}: not a readable GPT-2 model: config.json: {error}") from error
    try:
        state = from_hf(read_weights(directory), kind=config.attn.kind, tie=config.tie_weights)
    except CheckpointError as error:
        named = str(directory) in error.message
        raise CheckpointError(error.message if named else f"{directory}: {error.message}", error.hint) from error
    for name in ("wte.weight", "lm_head.weight"):
        if name in state and state[name].dim() and len(state[name]) > config.vocab_size:
            state[name] = state[name][: config.vocab_size]  # padded to a round number of rows, which nothing refers to
    if faults := _unfitting(config, state):
        raise CheckpointError(
            f"{directory}: the weights do not fit config.json: {'; '.join(faults[:4])}"
            + (f"; and {len(faults) - 4} more" if len(faults) > 4 else ""),
            "Take config.json and the weights from one model.",
        )
    model = GPT2Model(config)
    model.load_state_dict(state)
    return model


def _unfitting(config: GPT2Config, state: Mapping[str, Tensor]) -> list[str]:
    """Return what is missing, unknown or of another shape, before a model of a size that may be nonsense is built."""
    layers = {name.split(".")[1] for name in state if name.startswith("h.")}
    if len(layers) != config.n_layer:
        return [f"{len(layers)} layers, {config.n_layer} expected"]
    embedding = state.get("wte.weight")
    if embedding is None or embedding.shape != (config.vocab_size, config.n_embd):
        found = "missing" if embedding is None else f"of shape {tuple(embedding.shape)}"
        return [f"wte.weight is {found}, {(config.vocab_size, config.n_embd)} expected"]
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in GPT2Model(config).state_dict().items()}
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in wanted]
    return faults + [
        f"{name} is of shape {tuple(state[name].shape)}, {shape} expected"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]


def _lies_as_ours(weights: Mapping[str, Tensor]) -> bool:
    """Return whether GPT-2's linear weights lie (output, input): its widest tells, which is square in no layout."""
    first = weights.get("h.0.attn.c_attn.weight")
    return first is not None and first.dim() == 2 and first.shape[0] > first.shape[1]


def _turned(name: str, tensor: Tensor, kind: str) -> Tensor:
    return tensor.t().contiguous() if kind == "mha" and tensor.dim() == 2 and name.endswith(_TRANSPOSED) else tensor
