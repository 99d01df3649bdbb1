"""Weights of other libraries' GPT-2: mapped to vgpt's names and back, and read from a local directory.

GPT-2 (`mha`) keeps linear weights transposed (input, output). GPTBigCode with `multi_query` is GPT-2 with `mqa`; its
linear weights lie as vgpt's do. All other names and layouts agree, so mapping is prefix and transpose.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgpt.errors import CheckpointError
from vgpt.files import parse_json
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model

_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}
_ATTENTION = {"gpt2": "mha", "gpt_bigcode": "mqa"}


def from_hf(weights: Mapping[str, Tensor], *, kind: str = "mha", tie: bool = True) -> dict[str, Tensor]:
    """Return vgpt's state of a GPT-2 (`kind` "mha") or multi-query GPTBigCode ("mqa") state dict.

    With or without the prefix `transformer.`; stored causal masks are dropped, and with `tie` the copy of the embedding
    that stands for the output layer.
    """
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    state: dict[str, Tensor] = {}
    for name, tensor in bare.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if tie and name == "lm_head.weight" and torch.equal(tensor, bare["wte.weight"]):
            continue
        state[name] = _turned(name, tensor, kind)
    return state


def to_hf(model: GPT2Model) -> dict[str, Tensor]:
    """Return the state dict of a `GPT2LMHeadModel` (from `mha`) or `GPTBigCodeForCausalLM` (from `mqa`).

    Raises:
        CheckpointError: no published architecture computes what this model computes.
    """
    config = model.config
    kind = config.attn.kind
    switched = config.qk_norm or config.out_gate != "none" or config.sinks
    if kind not in _ATTENTION.values() or config.pos != "learned" or not config.bias or switched:
        asked = f"--attn {kind} --pos {config.pos} {'--bias' if config.bias else '--no-bias'}"
        raise CheckpointError(
            f"{asked}{' with its switches' if switched else ''} has no GPT-2 format to go to",
            "mha becomes GPT-2 and mqa becomes GPTBigCode, both with learned positions and biases.",
        )
    state = model.state_dict()
    out = {
        (name if name == "lm_head.weight" else f"transformer.{name}"): _turned(name, tensor, kind)
        for name, tensor in state.items()
    }
    out.setdefault("lm_head.weight", state["wte.weight"])
    return out


def config_from_hf(values: Mapping[str, Any]) -> GPT2Config:
    """Return the settings of a GPT-2 or GPTBigCode `config.json`.

    Raises:
        CheckpointError: another architecture, or one of its options that vgpt does not compute.
    """
    model_type = values.get("model_type", "gpt2")
    if model_type not in _ATTENTION:
        raise CheckpointError(
            f"weights of model type {model_type!r} cannot be read", f"Readable: {', '.join(_ATTENTION)}."
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
    return GPT2Config.model_validate(
        {
            "vocab_size": values.get("vocab_size", 50_257),
            "block_size": values.get("n_positions", 1024),
            "n_layer": values.get("n_layer", 12),
            "n_head": values.get("n_head", 12),
            "n_embd": values.get("n_embd", 768),
            "mlp_hidden": values.get("n_inner"),
            "activation": _ACTIVATIONS.get(activation, activation),
            "tie_weights": values.get("tie_word_embeddings", True),
            "attn": _ATTENTION[model_type],
        }
    )


def load_gpt2_safetensors(directory: Path) -> GPT2Model:
    """Build a model from `config.json` and `model.safetensors` in a local directory, such as a snapshot of `gpt2`.

    Raises:
        CheckpointError: a file is missing or unreadable, or the weights do not fit the settings.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = config_from_hf(parse_json((directory / "config.json").read_bytes()))
        weights = load_file(directory / "model.safetensors")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename or directory}: not found",
            "Give a directory that holds config.json and model.safetensors.",
        ) from error
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: not a readable GPT-2 model: {error}") from error
    model = GPT2Model(config)
    try:
        model.load_state_dict(from_hf(weights, kind=config.attn.kind, tie=config.tie_weights))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{directory}: the weights do not fit config.json: {error}") from error
    return model


def _turned(name: str, tensor: Tensor, kind: str) -> Tensor:
    return tensor.t().contiguous() if kind == "mha" and name.endswith(_TRANSPOSED) else tensor
