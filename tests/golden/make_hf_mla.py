"""Write hf_mla.safetensors: small random latent-attention layers of transformers, their inputs and outputs.

Run again only when a format changes: python tests/golden/make_hf_mla.py
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

SIZES = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 10}
SIZES |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "attention_bias": True}
OTHERS = {"vocab_size": 31, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 32}
EXPERTS = {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
TOKENS = 11


def build(version: str, q_lora_rank: int | None, seed: int, **sizes: Any) -> tuple[nn.Module, nn.Module]:
    """Return DeepSeek's attention layer of "v2" or "v3" with every tensor random, and its rotary embedding."""
    name = f"Deepseek{version.upper()}"
    modeling = getattr(transformers.models, f"deepseek_{version}")
    code = __import__(f"{modeling.__name__}.modeling_deepseek_{version}", fromlist=[name])
    options = {**SIZES, **OTHERS, **EXPERTS, **sizes}
    config = getattr(transformers, f"{name}Config")(q_lora_rank=q_lora_rank, attn_implementation="eager", **options)
    layer = getattr(code, f"{name}Attention")(config, 0).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            # Norms too, because a norm's weight that is left out goes unseen at 1.
            parameter.copy_(torch.empty(parameter.shape).normal_(0.1, 0.3, generator=generator))
    return layer, getattr(code, f"{name}RotaryEmbedding")(config)


def output(layer: nn.Module, rotary: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run a layer on (B, T, C) with the causal mask."""
    T = x.shape[1]
    mask = torch.full((T, T), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        positions = rotary(x, torch.arange(T)[None])
        return layer(hidden_states=x, attention_mask=mask, position_embeddings=positions)[0]


def main() -> None:
    """Build each layer, run it on random numbers, and store weights, inputs and outputs."""
    stored: dict[str, torch.Tensor] = {}
    for version in ("v2", "v3"):
        for rank in (None, 7):
            layer, rotary = build(version, rank, seed=len(stored))
            x = torch.empty(2, TOKENS, SIZES["hidden_size"]).normal_(generator=torch.Generator().manual_seed(1))
            key = f"{version}.{rank or 0}"
            stored |= {f"{key}.weights.{name}": tensor for name, tensor in layer.state_dict().items()}
            stored |= {f"{key}.x": x, f"{key}.y": output(layer, rotary, x)}
    metadata = {"transformers": transformers.__version__, "torch": torch.__version__}
    save_file(stored, Path(__file__).with_name("hf_mla.safetensors"), metadata)


if __name__ == "__main__":
    main()
