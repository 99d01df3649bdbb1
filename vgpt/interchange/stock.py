"""The classes of transformers that compute what a model computes: which one, its settings, the weights as it has them.

    mha                     GPT2LMHeadModel        the same weights, linear ones transposed
    mqa                     GPTBigCodeForCausalLM  the same weights
    gqa, mixes of these     GPT2LMHeadModel        each key/value head repeated for the query heads that it serves
    local, also with these  GPTNeoForCausalLM      scores are not scaled and queries, keys, values have no biases there

All of them have learned positions, layer norms with biases and an MLP of two layers. Llama and its like have none of
these (rotary positions, RMS norms, gated MLPs): no model of vgpt fits them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vgpt.attention.config import AttentionConfig
from vgpt.attention.grouped.config import GQAConfig, GroupedConfig, MHAConfig, MQAConfig
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.options import chosen
from vgpt.errors import CheckpointError
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model

ACTIVATIONS = ("gelu_new", "gelu", "silu", "relu", "relu2")
"""Activations that transformers has under the same names."""
_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_GROUPED: tuple[type[AttentionConfig], ...] = (MHAConfig, MQAConfig, GQAConfig)


@dataclass(frozen=True)
class Form:
    """A model as a class of transformers has it.

    Attributes:
        architecture: name of the class.
        config: what `config.json` says beside it.
        weights: its whole state dict, `lm_head.weight` included.
        note: what else than its own layout was needed to make it; empty where nothing was.
        shift: largest number that was added to a bias of a layer norm, where others were folded into it; None where
            nothing was folded.
    """

    architecture: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    note: str = ""
    shift: float | None = None


def stock_form(model: GPT2Model) -> Form:
    """Return a model as a class that transformers brings with it.

    Raises:
        CheckpointError: there is none that computes what this model computes; the message says why.
    """
    config = model.config
    if obstacle := stock_obstacle(config):
        raise CheckpointError(
            f"no class of transformers computes this model: {obstacle}",
            "mha becomes GPT-2, mqa GPTBigCode, gqa GPT-2 with repeated heads and local GPT-Neo, all of them with "
            "learned positions and without switches.",
        )
    layers = list(_plain_layers(config))
    if any(isinstance(layer, LocalConfig) for layer in layers):
        return _gpt_neo(model, layers)
    shared = all(isinstance(layer, GroupedConfig) and layer.kv_heads(config.shape) == 1 for layer in layers)
    if shared and config.n_head > 1:
        return _gpt_bigcode(model)
    return _gpt2(model, layers)


def to_hf(model: GPT2Model) -> dict[str, Tensor]:
    """Return the state dict of a model in the class that `stock_form` finds for it.

    Raises:
        CheckpointError: there is none.
    """
    return stock_form(model).weights


def stock_obstacle(config: GPT2Config) -> str:
    """Return why no class of transformers computes a model of these settings; empty where one does."""
    layers = list(_plain_layers(config))
    kinds = dict.fromkeys(layer.kind for layer in layers if type(layer) not in (*_GROUPED, LocalConfig))
    if kinds:
        return f"none has the attention of {', '.join(kinds)}"
    switches = [option.flag for option, _ in chosen(config) if not option.position]
    if config.pos != "learned" or switches:
        return f"none has {' '.join([*switches, f'--pos {config.pos}'])}"
    if config.activation not in ACTIVATIONS:
        return f"none has the activation {config.activation}"
    if len({layer.window_size for layer in layers if isinstance(layer, LocalConfig)}) > 1:
        return "GPT-Neo has one window for all layers"
    return ""


def _plain_layers(config: GPT2Config) -> Iterator[AttentionConfig]:
    """Yield the settings of each layer; a variant that sees everything of the context is what it comes to."""
    for index in range(config.n_layer):
        layer = config.attn.at(index)
        if type(layer) in (*_GROUPED, LocalConfig):
            yield layer if not isinstance(layer, LocalConfig) else _opened(layer, config)
        else:
            same = layer.same_as(config.shape) if config.pos == "learned" else None
            yield same if isinstance(same, _GROUPED) else layer


def _opened(layer: LocalConfig, config: GPT2Config) -> AttentionConfig:
    """Return full attention for a window over all of the learned positions, which no text goes beyond."""
    return MHAConfig() if config.pos == "learned" and layer.window_size >= config.block_size else layer


def _common(config: GPT2Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tie_weights,
        "use_cache": True,
    }


def _gpt2_config(config: GPT2Config) -> dict[str, Any]:
    return {
        **_common(config),
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.hidden,
        "activation_function": config.activation,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "scale_attn_weights": True,
    }


def _gpt2(model: GPT2Model, layers: list[AttentionConfig]) -> Form:
    config = model.config
    state = _state(model)
    repeated = False
    for index, layer in enumerate(layers):
        assert isinstance(layer, GroupedConfig)
        times = config.n_head // layer.kv_heads(config.shape)
        repeated |= times > 1
        for name in ("weight", "bias"):
            full = f"h.{index}.attn.c_attn.{name}"
            q, k, v = _split(state[full], config, layer)
            state[full] = torch.cat([q, _repeated(k, times, config), _repeated(v, times, config)])
    weights = {name: tensor.t().contiguous() if name.endswith(_CONV1D) else tensor for name, tensor in state.items()}
    note = "key and value heads are repeated for the query heads that share them" if repeated else ""
    own = {"model_type": "gpt2", **_gpt2_config(config)}
    return Form("GPT2LMHeadModel", own, _named(weights), _with_zeros(note, config))


def _gpt_bigcode(model: GPT2Model) -> Form:
    config = model.config
    activation = "gelu_pytorch_tanh" if config.activation == "gelu_new" else config.activation
    own = {"model_type": "gpt_bigcode", **_gpt2_config(config), "activation_function": activation, "multi_query": True}
    return Form("GPTBigCodeForCausalLM", own, _named(_state(model)), _with_zeros("", config))


def _gpt_neo(model: GPT2Model, layers: list[AttentionConfig]) -> Form:
    config = model.config
    windows = [layer.window_size for layer in layers if isinstance(layer, LocalConfig)]
    own = {
        "model_type": "gpt_neo",
        **_common(config),
        "max_position_embeddings": config.block_size,
        "hidden_size": config.n_embd,
        "num_layers": config.n_layer,
        "num_heads": config.n_head,
        "intermediate_size": config.hidden,
        "attention_types": [[["local" if isinstance(layer, LocalConfig) else "global" for layer in layers], 1]],
        "window_size": windows[0],
        "activation_function": config.activation,
        "resid_dropout": config.dropout,
        "embed_dropout": config.dropout,
        "attention_dropout": 0.0,
    }
    state = _state(model)
    weights = {name: tensor for name, tensor in state.items() if ".attn." not in name}
    for index, layer in enumerate(layers):
        assert isinstance(layer, GroupedConfig)
        weights |= _neo_layer(state, f"h.{index}.", layer, config)
    norms = [f"h.{index}.ln_1.bias" for index in range(config.n_layer)]
    shift = max(float((weights[name] - state[name]).abs().max()) for name in norms)
    note = "the scale of scores and the biases of queries, keys and values are folded into other weights"
    return Form("GPTNeoForCausalLM", own, _named(weights), _with_zeros(note, config), shift)


def _neo_layer(state: dict[str, Tensor], prefix: str, layer: GroupedConfig, config: GPT2Config) -> dict[str, Tensor]:
    """Return the attention of one layer, and the bias of its norm, without biases of queries, keys and values.

    With y the norm's output, a shift d of it that solves W_q d = b_q gives the queries their bias. It shifts all keys
    by one vector, which a softmax does not see, no more than the keys' own bias; and the values by W_v d, which the
    output's bias takes back along with b_v, since weights of a softmax sum to 1.
    """
    weight, bias = state[f"{prefix}attn.c_attn.weight"].double(), state[f"{prefix}attn.c_attn.bias"].double()
    times = config.n_head // layer.kv_heads(config.shape)
    (q, k, v), (b_q, _, b_v) = _split(weight, config, layer), _split(bias, config, layer)
    k, v, b_v = (_repeated(part, times, config) for part in (k, v, b_v))
    shift = torch.linalg.lstsq(q, b_q[:, None], driver="gelsd").solution[:, 0] if bool(b_q.any()) else b_q
    out = state[f"{prefix}attn.c_proj.weight"].double()
    norm, out_bias = state[f"{prefix}ln_1.bias"].double(), state[f"{prefix}attn.c_proj.bias"].double()
    inner = f"{prefix}attn.attention."
    found = {
        f"{inner}q_proj.weight": q / config.shape.head_dim**0.5,
        f"{inner}k_proj.weight": k,
        f"{inner}v_proj.weight": v,
        f"{inner}out_proj.weight": out,
        f"{inner}out_proj.bias": out_bias + out @ (b_v - v @ shift),
        f"{prefix}ln_1.bias": norm + shift,
    }
    return {name: tensor.float() for name, tensor in found.items()}


def _split(tensor: Tensor, config: GPT2Config, layer: GroupedConfig) -> tuple[Tensor, ...]:
    """Return the rows of queries, keys and values of `c_attn`."""
    width = layer.kv_heads(config.shape) * config.shape.head_dim
    return tensor.split([config.n_embd, width, width])


def _repeated(rows: Tensor, times: int, config: GPT2Config) -> Tensor:
    """Return the rows (G D, ...) of key/value heads, each head for every query head that it serves: (H D, ...)."""
    heads = rows.unflatten(0, (-1, config.shape.head_dim))
    return heads.repeat_interleave(times, 0).flatten(0, 1)


def _state(model: GPT2Model) -> dict[str, Tensor]:
    """Return the weights, with zeros for the biases that a model without has not."""
    state: dict[str, Tensor] = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.bias:
        return state
    biases = {
        f"{name.removesuffix('.weight')}.bias": torch.zeros(len(tensor))
        for name, tensor in state.items()
        if name not in ("wte.weight", "wpe.weight", "lm_head.weight")
    }
    return {**state, **biases}


def _with_zeros(note: str, config: GPT2Config) -> str:
    zeros = "" if config.bias else "biases, which the model does not have, are zero"
    return "; ".join(filter(None, [note, zeros]))


def _named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of a class with a head on top."""
    found = {name if name == "lm_head.weight" else f"transformer.{name}": tensor for name, tensor in weights.items()}
    found.setdefault("lm_head.weight", found["transformer.wte.weight"])
    return found
