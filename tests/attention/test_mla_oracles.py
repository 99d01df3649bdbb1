"""mla against DeepSeek's layers in transformers, V2 and V3: expanded, absorbed, live and recorded."""

import runpy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.latent.config import MLAConfig

GOLDEN = Path(__file__).parents[1] / "golden"
LAYERS = [("v2", None), ("v2", 7), ("v3", None), ("v3", 7)]


@pytest.fixture(params=["expanded", "absorbed step by step", "absorbed in pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int] | None:
    """How the tokens arrive; the first piece is always expanded."""
    monkeypatch.setattr(MLAConfig, "absorbing_pays", lambda *_args: True)
    return {"expanded": None, "absorbed step by step": [1] * 11, "absorbed in pieces": [2, 3, 1, 5]}[request.param]


def ours(weights: dict[str, torch.Tensor], heads: int, nope: int, rope: int, value: int, **backbone):
    """Our layer with DeepSeek's weights: other names, and rotary features in halves instead of pairs."""
    halves = torch.arange(rope).view(-1, 2).t().reshape(-1)
    rank = weights["kv_a_layernorm.weight"].numel()
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        moved = tensor.clone()
        if name in ("q_proj.weight", "q_b_proj.weight"):
            moved = moved.unflatten(0, (heads, nope + rope))
            moved[:, nope:] = moved[:, nope:][:, halves]
            moved = moved.flatten(0, 1)
        if name.startswith("kv_a_proj"):
            moved[rank:] = moved[rank:][halves]
        renamed[name.replace("_with_mqa", "").replace("o_proj", "c_proj")] = moved
    config = MLAConfig(
        kv_lora_rank=rank,
        q_lora_rank=weights["q_a_layernorm.weight"].numel() if "q_a_layernorm.weight" in weights else None,
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=value,
    )
    bias = "o_proj.bias" in weights
    width = weights["o_proj.weight"].shape[0]
    module = build_attention(config, Shape(n_embd=width, n_head=heads, block_size=32, bias=bias, **backbone))
    module.load_state_dict(renamed)
    return module


def run(module, x: torch.Tensor, pieces: list[int] | None) -> torch.Tensor:
    with torch.no_grad():
        if pieces is None:
            return module(x)
        cache = module.make_cache(x.shape[0], x.shape[1], dtype=x.dtype, device="cpu")
        return torch.cat([module(piece, cache) for piece in x.split(pieces, 1)], 1)


@pytest.mark.parametrize(("version", "rank"), LAYERS)
@pytest.mark.parametrize("flash", [True, False])
def test_recorded_outputs_of_deepseeks_layers_are_met(version, rank, pieces, flash):
    key = f"{version}.{rank or 0}."
    stored = {name.removeprefix(key): t for name, t in load_file(GOLDEN / "hf_mla.safetensors").items() if key in name}
    weights = {name.removeprefix("weights."): t for name, t in stored.items() if name.startswith("weights.")}
    module = ours(weights, heads=3, nope=6, rope=4, value=5, flash=flash, pos="rope")
    torch.testing.assert_close(run(module, stored["x"], pieces), stored["y"], rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize(("version", "rank"), LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_deepseeks_layers_are_met(noise, version, rank, bias, pieces):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers")
        make = runpy.run_path(str(GOLDEN / "make_hf_mla.py"))
        sizes = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 16}
        sizes |= {"qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10, "attention_bias": bias}
        theirs, rotary = make["build"](version, rank, 3, **sizes)
    x = noise(2, 11, 48)
    module = ours(theirs.state_dict(), heads=4, nope=12, rope=8, value=10)
    torch.testing.assert_close(run(module, x, pieces), make["output"](theirs, rotary, x), rtol=0, atol=1e-5)
