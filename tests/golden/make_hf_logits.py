"""Write hf_gpt2.safetensors and hf_gpt_bigcode.safetensors: small random models of transformers and their logits.

Run again only when a format changes: python tests/golden/make_hf_logits.py
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SIZES = {"vocab_size": 31, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}


def main() -> None:
    """Build each model, randomise every tensor, and store weights, ids and logits."""
    for kind, config_class, model_class in (
        ("gpt2", transformers.GPT2Config, transformers.GPT2LMHeadModel),
        ("gpt_bigcode", transformers.GPTBigCodeConfig, transformers.GPTBigCodeForCausalLM),
    ):
        torch.manual_seed(0)
        config = config_class(**SIZES, attn_implementation="eager", bos_token_id=0, eos_token_id=0)
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.2)
        ids = torch.randint(31, (2, 12))
        with torch.no_grad():
            logits = model(ids).logits
        weights = {f"weights.{k}": v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        file = Path(__file__).with_name(f"hf_{kind}.safetensors")
        metadata = {"transformers": transformers.__version__, "torch": torch.__version__}
        save_file({**weights, "ids": ids, "logits": logits}, file, metadata)


if __name__ == "__main__":
    main()
