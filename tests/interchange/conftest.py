"""Runs without training: real checkpoints of small models whose every tensor is loud, so that none goes unseen."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import TrainConfig
from vgpt.text.bpe import train_bpe
from vgpt.text.tokenizer import Tokenizer
from vgpt.training.checkpoints.checkpoint import TrainingState, point, save_checkpoint

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 96}
TEXT = "The quick brown fox jumps over the lazy dog. " * 8 + "Don't we'll naïve 12,345 \n\n\tdef f(x): return x\n" * 4


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 300 ids."""
    return train_bpe([TEXT], 300)


@pytest.fixture
def make_run(tmp_path, tokenizer) -> Callable[..., Path]:
    """Make the directory of a run with one checkpoint; returns it."""

    def make(attn: str = "mha", name: str = "run", **model: object) -> Path:
        table = {"attn": attn, **SIZES, **model}
        runs = tmp_path / "runs"
        settings = TrainConfig.model_validate({"model": table, "run": {"run_name": name, "runs_dir": runs}})
        config = GPT2Config(**settings.model.concrete(), vocab_size=tokenizer.vocab_size)
        net = loud(GPT2Model(config))
        target = save_checkpoint(
            runs / name / "ckpt",
            model=config,
            weights=dict(net.state_dict()),
            optimizer={},
            state=TrainingState(step=7, tokens=700, best_loss=3.25, best_step=7, data_digest="ab" * 32, finished=True),
            settings=settings,
            tokenizer=tokenizer,
        )
        point(runs / name / "ckpt", "best", target)
        return runs / name

    return make


def loud(net: GPT2Model) -> GPT2Model:
    """Fill every tensor of a model, biases and norms too, with numbers that show."""
    initialize(net, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))
    return net
