"""Loads an exported directory as anybody would, and says how far its logits are from those that vgpt computed.

A program of its own, started by `vgpt.interchange.check` in another process: it imports nothing of vgpt, and sees to it
that nothing else can.

    python -P reload.py DIRECTORY REFERENCE trust|plain

REFERENCE is a safetensors file with token ids (B, T) and logits (B, T, V). Texts to encode come on stdin, as a JSON
list; one line of JSON goes to stdout: the largest difference, and the ids of every text.
"""

import json
import sys
from typing import Any, cast


def main(directory: str, reference: str, trust: str) -> None:
    """Load, compute, compare, and print."""
    cast(dict[str, Any], sys.modules)["vgpt"] = None  # an import of it fails from here on, installed or not
    import torch
    import transformers  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    transformers.logging.set_verbosity_error()
    wanted = load_file(reference)
    options = {"trust_remote_code": True} if trust == "trust" else {}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, **options)
    with torch.no_grad():
        logits = model.float().eval()(wanted["ids"]).logits
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory, **options)
    encoded = [tokenizer(text)["input_ids"] for text in json.load(sys.stdin)]
    found = {
        "class": type(model).__name__,
        "difference": (logits - wanted["logits"]).abs().max().item(),
        "ids": encoded,
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
