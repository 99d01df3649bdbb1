"""A tiny model with opinions, its tokenizer, and task files with their data."""

import json

import pytest
import torch

from vgpt.data.progress import Silent
from vgpt.evaluation.suites.scoring import Scorer
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.text.bpe import train_bpe

CONTEXT = 48
KINDS = {
    "mha": {"kind": "mha"},
    "gqa": {"kind": "gqa", "n_kv_head": 2},
    "mqa": {"kind": "mqa"},
    "local": {"kind": "local", "window_size": 8},
    "sparse": {"kind": "sparse"},
    "linear": {"kind": "linear"},
    "mla": {"kind": "mla"},
}
LINES = [f"Scene {n}. Enter a reader, {n % 7} books in hand.\n" for n in range(200)]


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(LINES, 300)


@pytest.fixture(scope="session")
def make_model():
    """A model whose weights are so large that its guesses differ from each other."""

    def make(kind: str = "mha") -> GPT2Model:
        size = {"vocab_size": 300, "block_size": CONTEXT, "n_layer": 2, "n_head": 4, "n_embd": 32}
        model = GPT2Model(GPT2Config.model_validate({**size, "attn": KINDS[kind]}))
        initialize(model, 7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(3 if parameter.dim() > 1 else 1)
                if name.endswith("bias"):
                    parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
        return model.eval()

    return make


@pytest.fixture
def scorer(make_model, tokenizer):
    return Scorer(make_model(), tokenizer, torch.float32, Silent())


@pytest.fixture
def suites(tmp_path):
    """A folder with a multiple-choice task, one of whole texts and one of continuations."""
    rows = [
        {"q": f"Scene {n}. Enter a" * (1 + 11 * (n == 4)), "c": ["reader", "writer of many", "book\u00e9"], "g": n % 3}
        for n in range(7)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = ["".join(LINES[: 1 + 3 * n]) for n in range(4)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "choices.yaml").write_text(CHOICES)
    (tmp_path / "whole.yaml").write_text(WHOLE)
    (tmp_path / "goes_on.yaml").write_text(GOES_ON)
    return tmp_path


CHOICES = """
task: choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: rows.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: c
doc_to_target: g
metric_list:
  - metric: acc
"""
WHOLE = """
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: texts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
GOES_ON = r"""
task: goes_on
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{c[g]}}"
generation_kwargs: {until: ["\n"], max_gen_toks: 12, do_sample: false}
metric_list:
  - metric: exact_match
"""
