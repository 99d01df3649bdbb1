"""Write hf_mistral_window.safetensors: an attention layer of a small random Mistral with a window of 5 tokens.

Run again only when a format changes: python tests/golden/make_hf_mistral.py
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file


def mistral_attention(window: int, tokens: int) -> dict[str, torch.Tensor]:
    """Run a random one-layer Mistral and return its attention layer's weights, input `x` and output `y`."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        rope_theta=10_000.0,
        sliding_window=window,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.MistralModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    layer = model.layers[0].self_attn
    seen: dict[str, torch.Tensor] = {}

    def record(module: torch.nn.Module, arguments: tuple, options: dict, output: tuple) -> None:
        seen.update(x=options["hidden_states"].clone(), y=output[0].clone())

    layer.register_forward_hook(record, with_kwargs=True)
    with torch.no_grad():
        model(torch.randint(31, (2, tokens)))
    return {**{name: tensor.clone() for name, tensor in layer.state_dict().items()}, **seen}


def main() -> None:
    """Store one layer's numbers."""
    metadata = {"transformers": transformers.__version__, "torch": torch.__version__}
    file = Path(__file__).with_name("hf_mistral_window.safetensors")
    save_file(mistral_attention(window=5, tokens=19), file, metadata)


if __name__ == "__main__":
    main()
