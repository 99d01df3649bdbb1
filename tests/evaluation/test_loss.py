"""Loss on fixed windows, held against the plain formula."""

import hashlib
import math
import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vgpt.data.dataset import TokenFile
from vgpt.errors import DataError
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.loss import token_losses

VOCABULARY, BLOCK = 37, 12
LENGTHS = np.array([0, *range(1, VOCABULARY)])  # bytes per token; the first spells none, as special tokens do


@pytest.fixture
def model():
    model = GPT2Model(GPT2Config(vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=16, block_size=BLOCK, dropout=0.5))
    initialize(model, 3)
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
    assert np.array_equal(first.starts, second.starts)
    assert first.name == second.name
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
    assert len(Evaluator(split, LENGTHS, BLOCK, 10_000)) == 499 // BLOCK
    with pytest.raises(DataError, match="too short"):
        Evaluator(split, LENGTHS, 500, 1)


def test_windows_are_named_by_the_hash_of_all_their_ids(split, monkeypatch):
    evaluator = Evaluator(split, LENGTHS, BLOCK, 7)
    rows = np.stack([split.tokens[start : start + BLOCK + 1] for start in evaluator.starts]).astype("<i8")
    expected = f"7x{BLOCK}:{hashlib.sha256(rows.tobytes()).hexdigest()[:12]}"
    assert evaluator.name == expected
    monkeypatch.setattr("vgpt.evaluation.loss._IDS_AT_ONCE", 2 * (BLOCK + 1))  # read two by two
    again = Evaluator(split, LENGTHS, BLOCK, 7)
    assert (again.name, again.bytes) == (expected, evaluator.bytes)


def test_losses_do_not_depend_on_how_many_windows_are_read_at_once(model, split, monkeypatch):
    evaluator = Evaluator(split, LENGTHS, BLOCK, 30)
    model.eval()
    monkeypatch.setattr("vgpt.evaluation.loss._TOKENS_AT_ONCE", 8 * (BLOCK + 1))
    found = evaluator.evaluate(model, dtype=torch.float32)
    whole = evaluator.evaluation(evaluator.token_losses(model, dtype=torch.float32))
    assert np.array_equal(found.window_losses, whole.window_losses)
    assert found.position_losses == pytest.approx(whole.position_losses, rel=1e-14)
    assert (found.loss, found.tokens, found.bits_per_byte) == (whole.loss, whole.tokens, whole.bits_per_byte)


def test_memory_does_not_grow_with_the_text(tmp_path):
    count, vocabulary = 4_000_000, 11
    np.random.default_rng(0).integers(vocabulary, size=count).astype("<u2").tofile(tmp_path / "val.bin")
    split = TokenFile(tmp_path / "val.bin", "uint16", vocabulary)
    model = GPT2Model(GPT2Config(vocab_size=vocabulary, n_layer=1, n_head=1, n_embd=4, block_size=1_000))
    tracemalloc.start()
    try:
        evaluator = Evaluator(split, np.arange(vocabulary), 1_000, count)
        assert len(evaluator.name) > 10
        evaluator.documents(3)
        found = evaluator.evaluate(model, dtype=torch.float32, losses=lambda _, ids, targets: targets.double())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.window_losses) == 3_999
    kept = split.tokens[1:3_999_001].astype(np.float64)
    assert found.loss == pytest.approx(kept.mean())
    assert evaluator.bytes == kept.sum()
    assert peak < 28e6  # all ids as int64 would be 32 MB, their indices as much again


def test_the_document_of_a_window_is_the_ends_of_text_before_its_first_target(tmp_path, monkeypatch):
    ids = [1, 2, 0, 3, 4, 5, 6, 0, 0, 7, 8, 9, 1]  # ends after 2, after 6, and an empty document
    np.array(ids, dtype="<u2").tofile(tmp_path / "val.bin")
    evaluator = Evaluator(TokenFile(tmp_path / "val.bin", "uint16", 10), np.ones(10), 2, 6)
    assert evaluator.starts.tolist() == [0, 2, 4, 6, 8, 10]
    # First targets: 2 of the first document; 3, where the end just before it closes the first; 5; an end; 7; 9.
    assert evaluator.documents(0).tolist() == [ids[: start + 1].count(0) for start in evaluator.starts.tolist()]
    assert evaluator.documents(0).tolist() == [0, 1, 1, 1, 3, 3]
    monkeypatch.setattr("vgpt.evaluation.loss._IDS_AT_ONCE", 2)
    assert evaluator.documents(0).tolist() == [0, 1, 1, 1, 3, 3]


def test_the_losses_of_a_share_are_those_of_every_nth_window(model, split):
    evaluator = Evaluator(split, LENGTHS, BLOCK, 7)
    model.eval()
    share = evaluator.token_losses(model, dtype=torch.float32, losses=token_losses, part=1, parts=3)
    whole = evaluator.token_losses(model, dtype=torch.float32)
    assert torch.allclose(share, whole[[1, 4, 0]])
