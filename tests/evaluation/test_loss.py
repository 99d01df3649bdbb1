"""Loss on fixed windows, held against the plain formula."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vgpt.data.dataset import TokenFile
from vgpt.errors import DataError
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialise

VOCABULARY, BLOCK = 37, 12
LENGTHS = np.array([0, *range(1, VOCABULARY)])  # bytes per token; the first spells none, as special tokens do


@pytest.fixture
def model():
    model = GPT2Model(GPT2Config(vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=16, block_size=BLOCK, dropout=0.5))
    initialise(model, 3)
    return model


@pytest.fixture
def split(tmp_path):
    ids = np.random.default_rng(0).integers(VOCABULARY, size=500).astype("<u2")
    ids.tofile(tmp_path / "val.bin")
    return TokenFile(tmp_path / "val.bin", "uint16", VOCABULARY)


def test_every_window_has_the_mean_loss_of_the_plain_formula(model, split):
    evaluator = Evaluator(split, LENGTHS, BLOCK, 7)
    found = evaluator.evaluate(model, dtype=torch.float32)
    model.eval()
    for start, loss in zip(evaluator.starts, found.window_losses, strict=True):
        row = torch.tensor(split.tokens[start : start + BLOCK + 1].astype(np.int64))
        with torch.no_grad():
            logits = model(row[None, :-1])[0].double()
        chosen = F.log_softmax(logits, -1)[torch.arange(BLOCK), row[1:]]
        assert loss == pytest.approx(-chosen.mean().item(), rel=1e-5)
    assert found.tokens == 7 * BLOCK


def test_bits_per_byte_are_all_bits_over_all_bytes_of_the_predicted_tokens(model, split):
    evaluator = Evaluator(split, LENGTHS, BLOCK, 7)
    found = evaluator.evaluate(model, dtype=torch.float32)
    spelled = sum(int(LENGTHS[split.tokens[start + 1 : start + BLOCK + 1]].sum()) for start in evaluator.starts)
    nats = found.loss * found.tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / spelled)
    assert found.bits_per_byte_se / found.bits_per_byte == pytest.approx(found.loss_se / found.loss)


def test_the_standard_error_is_that_of_a_mean_and_unknown_from_one_window():
    losses = np.array([1.0, 2.0, 4.0])
    found = Evaluation(losses, 30, 60)
    assert found.loss_se == pytest.approx(math.sqrt(7 / 3) / math.sqrt(3))
    assert found.perplexity == pytest.approx(math.exp(7 / 3))
    assert math.isnan(Evaluation(losses[:1], 10, 20).loss_se)


def test_the_windows_do_not_depend_on_the_model_and_dropout_is_off(model, split):
    first, second = (Evaluator(split, LENGTHS, BLOCK, 9) for _ in range(2))
    assert np.array_equal(first.rows, second.rows)
    model.train()
    losses = [found.evaluate(model, dtype=torch.float32).window_losses for found in (first, second)]
    assert np.array_equal(*losses)
    assert model.training


def test_an_untrained_model_knows_nothing(split):
    model = GPT2Model(GPT2Config(vocab_size=VOCABULARY, n_layer=1, n_head=1, n_embd=8, block_size=BLOCK))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    found = Evaluator(split, LENGTHS, BLOCK, 5).evaluate(model, dtype=torch.float32)
    assert found.loss == pytest.approx(math.log(VOCABULARY))
    assert found.perplexity == pytest.approx(VOCABULARY)


def test_as_many_windows_as_the_split_holds_and_none_is_an_error(split):
    assert len(Evaluator(split, LENGTHS, BLOCK, 10_000).rows) == 499 // BLOCK
    with pytest.raises(DataError, match="too short"):
        Evaluator(split, LENGTHS, 500, 1)
