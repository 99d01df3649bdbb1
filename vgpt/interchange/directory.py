"""The files of a directory that transformers loads, but for code: weights, settings, tokenizer, generation."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from vgpt.files.writing import flush
from vgpt.interchange.stock import Form
from vgpt.model.weights import CONFIG, FILE
from vgpt.text.tokenizer import END_OF_TEXT, JSON_FILE
from vgpt.training.checkpoints.checkpoint import Checkpoint

CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        directory: where.
        checkpoint: of which checkpoint.
        step: its step.
        architecture: the class that transformers makes of it.
        own_code: whether the directory brings code of its own, which transformers runs when it is told to trust it.
        difference: largest difference of logits to vgpt's, float32.
        tokens: on how many random tokens.
        note: what else than the model's own layout was needed; empty where nothing was.
    """

    directory: Path
    checkpoint: Path
    step: int
    architecture: str
    own_code: bool
    difference: float
    tokens: int
    note: str


@dataclass(frozen=True)
class Facts:
    """What the files say of the text that a model is for."""

    end_of_text: int
    block_size: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Facts":
        """Read them from a checkpoint."""
        return cls(checkpoint.tokenizer().end_of_text, checkpoint.model.block_size)

    @property
    def ends(self) -> dict[str, int]:
        """The tokens between texts; padding is none of its own, as in GPT-2."""
        return {"bos_token_id": self.end_of_text, "eos_token_id": self.end_of_text}


def write_model(directory: Path, form: Form, checkpoint: Checkpoint) -> None:
    """Write weights and settings of a model, its tokenizer, and how it generates, into a directory that is there.

    Args:
        directory: an empty one.
        form: the model as a class of transformers has it.
        checkpoint: whose tokenizer it is.

    Raises:
        OSError, SafetensorError: the disk is full or not writable.
    """
    facts = Facts.of(checkpoint)
    tied = form.config.get("tie_word_embeddings", True)
    weights = {name: one.contiguous() for name, one in form.weights.items() if not (tied and name == "lm_head.weight")}
    save_file(weights, directory / FILE, metadata={"format": "pt"})
    config = {"architectures": [form.architecture], **form.config, **facts.ends, "dtype": "float32"}
    write_object(directory / CONFIG, config)
    # Its own ids between texts stand for padding too: generation needs one, and would warn about a choice of its own.
    write_object(directory / "generation_config.json", {**facts.ends, "pad_token_id": facts.end_of_text})
    shutil.copyfile(checkpoint.directory / JSON_FILE, directory / JSON_FILE)
    words = {f"{name}_token": END_OF_TEXT for name in ("bos", "eos", "unk", "pad")}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", **words, "model_max_length": facts.block_size}
    write_object(directory / "tokenizer_config.json", {**told, "clean_up_tokenization_spaces": False})


def write_object(path: Path, table: dict[str, Any]) -> None:
    """Write a JSON object as people read it."""
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def flush_all(directory: Path) -> None:
    """Have everything in a directory on the disk."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            flush(path)
    flush(directory)
