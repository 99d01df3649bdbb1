"""Proof that an exported directory is the model: another process loads it without vgpt and computes the same logits."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vgpt.errors import CheckpointError, UsageError
from vgpt.interchange import reload
from vgpt.model.gpt2 import GPT2Model
from vgpt.text.tokenizer import Tokenizer

TEXTS = (
    "The quick brown fox jumps over the lazy dog.\n\n    def f(x):\n\treturn x ** 2  # 1,234.5\n",
    "Grüße, 你好, مرحبا, привет! \U0001f600 naïve   spaces  \r\n don't won't I'LL 2026-11-26",
)
"""Texts whose ids the exported tokenizer must give as vgpt does."""
_ROWS = 2
_MOST_LOGITS = 1 << 26
"""Most numbers of logits that are compared: 256 MiB of them."""
_SEED = 1337


@dataclass(frozen=True)
class Reloaded:
    """What came of loading a directory.

    Attributes:
        architecture: the class that transformers made of it.
        difference: largest difference of logits, float32.
        tokens: on how many tokens.
    """

    architecture: str
    difference: float
    tokens: int


def require_transformers() -> None:
    """Refuse to go on without the library that the directory is for.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            "transformers is not installed: an export is checked by loading it again",
            "Install it: pip install 'vgpt[hf]'",
        )


def reference(model: GPT2Model) -> dict[str, torch.Tensor]:
    """Return random token ids (B, T) and a model's logits for them (B, T, V), float32, on the CPU."""
    config = model.config
    tokens = max(1, min(config.block_size, _MOST_LOGITS // (_ROWS * config.vocab_size)))
    draws = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(config.vocab_size, (_ROWS, tokens), generator=draws)
    with torch.no_grad():
        return {"ids": ids, "logits": model.eval()(ids).float().contiguous()}


def reload_directory(
    directory: Path, wanted: dict[str, torch.Tensor], tokenizer: Tokenizer, *, own_code: bool
) -> Reloaded:
    """Load a directory in a process that has no vgpt, and compare.

    Args:
        directory: what was exported.
        wanted: ids and logits, as `reference` makes them.
        tokenizer: whose ids are wanted.
        own_code: whether code of the directory has to run: it is what vgpt wrote there itself.

    Raises:
        CheckpointError: transformers cannot load it, or its tokenizer gives other ids.
    """
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "reference.safetensors"
        save_file(wanted, file)
        words = [str(directory), str(file), "trust" if own_code else "plain"]
        found = _run([sys.executable, "-P", str(reload.__file__), *words], Path(temporary))
    for text, ids in zip(TEXTS, found["ids"], strict=True):
        if ids != (expected := tokenizer.encode(text)):
            place = next((i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), len(expected))
            raise CheckpointError(
                f"transformers reads the tokenizer otherwise: other ids of {text!r} from token {place} on",
                f"This is a fault of vgpt or of tokenizer.json; the tokenizer is {tokenizer.name}.",
            )
    difference = float(found["difference"])
    difference = math.inf if math.isnan(difference) else difference
    return Reloaded(found["class"], difference, wanted["ids"].numel())


def _run(command: Sequence[str], temporary: Path) -> dict[str, Any]:
    # Nothing is looked for in the network, and code of the directory leaves no copy behind.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_MODULES_CACHE": str(temporary / "modules")}
    environment = {**os.environ, **offline, "TOKENIZERS_PARALLELISM": "false", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, input=json.dumps(TEXTS), capture_output=True, text=True, encoding="utf-8", env=environment, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        if os.environ.get("VGPT_DEBUG") == "1":
            sys.stderr.write(done.stderr)
        told = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise CheckpointError(
            f"transformers cannot load what was written: {told[-1] if told else f'exit code {done.returncode}'}",
            "Nothing is left of it, and the run is as it was. VGPT_DEBUG=1 shows all that transformers said.",
        )
    return json.loads(lines[-1])
