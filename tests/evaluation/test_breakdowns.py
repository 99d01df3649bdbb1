"""Losses by position, by length and of repeated bigrams, held against slow loops over the same models."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vgpt.data.dataset import TokenFile
from vgpt.data.progress import Silent
from vgpt.errors import DataError, UsageError
from vgpt.evaluation.lengths import check_lengths, evaluate_lengths
from vgpt.evaluation.loss import Evaluator
from vgpt.evaluation.positions import by_position, spans, tally_all
from vgpt.evaluation.recall import by_recall, repeated
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.tracking.breakdowns.record import Part, pooled

VOCABULARY, BLOCK = 11, 12
LENGTHS = np.ones(VOCABULARY, dtype=np.int64)
QUIET = Silent().advance


def model_of(pos="learned", **settings):
    config = GPT2Config(vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=16, block_size=BLOCK, pos=pos, **settings)
    model = GPT2Model(config)
    initialize(model, 3)
    with torch.no_grad():  # as large as after training: attention looks somewhere
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    path = tmp_path_factory.mktemp("split") / "val.bin"
    np.random.default_rng(0).integers(VOCABULARY, size=500).astype("<u2").tofile(path)
    return TokenFile(path, "uint16", VOCABULARY)


def one_at_a_time(model, ids):
    """The loss of every target of one window, each from a forward pass over what stands before it alone."""
    found = []
    for end in range(1, len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor(ids[None, :end].astype(np.int64)))[0, -1].double()
        found.append(-F.log_softmax(logits, -1)[int(ids[end])].item())
    return found


def slowly_repeated(ids):
    """Whether each target ends a bigram that stood in the window before: a set of the bigrams that were read."""
    seen, found = set(), []
    for before, token in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        found.append((before, token) in seen)
        seen.add((before, token))
    return found


def test_spans_double_cover_every_position_once_and_end_where_training_did():
    assert spans(12) == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 12)]
    assert spans(40, 12) == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 12), (13, 16), (17, 32), (33, 40)]
    for length in (1, 2, 3, 64, 100):
        covered = [place for first, last in spans(length, 7) for place in range(first, last + 1)]
        assert covered == list(range(1, length + 1))


def test_losses_by_position_are_those_of_one_position_at_a_time(split):
    model = model_of()
    evaluator = Evaluator(split, LENGTHS, BLOCK, 5)
    tally = by_position(BLOCK)
    means = tally_all(evaluator, model, [tally], QUIET, dtype=torch.float32)
    slow = np.array([one_at_a_time(model, split.tokens[start : start + BLOCK + 1]) for start in evaluator.starts])
    assert means == pytest.approx(slow.mean(1), rel=1e-5)
    for part, (first, last) in zip(tally.parts(), spans(BLOCK), strict=True):
        assert part.losses == pytest.approx(slow[:, first - 1 : last].mean(1), rel=1e-5)
        assert part.counts.tolist() == [last - first + 1] * 5
        assert part.loss == pytest.approx(slow[:, first - 1 : last].mean(), rel=1e-5)
    assert pooled("all", tally.parts()).losses == pytest.approx(means)


def test_losses_of_repeated_bigrams_are_those_of_a_loop_over_bigrams(split):
    model = model_of()
    evaluator = Evaluator(split, LENGTHS, BLOCK, 9)
    tally = by_recall()
    tally_all(evaluator, model, [tally], QUIET, dtype=torch.float32)
    hits, others = tally.parts()
    sums, counts = {True: [], False: []}, {True: [], False: []}
    for start in evaluator.starts:
        ids = split.tokens[start : start + BLOCK + 1]
        pairs = list(zip(slowly_repeated(ids), one_at_a_time(model, ids), strict=True))
        for kind in (True, False):
            losses = [loss for hit, loss in pairs if hit is kind]
            sums[kind].append(sum(losses))
            counts[kind].append(len(losses))
    assert 0 in counts[True]  # a window without any has no loss of them, and counts for nothing
    for part, kind in ((hits, True), (others, False)):
        assert part.counts.tolist() == counts[kind]
        assert part.loss == pytest.approx(sum(sums[kind]) / sum(counts[kind]), rel=1e-5)
        assert (part.losses * part.counts) == pytest.approx(sums[kind], rel=1e-5)


@given(st.lists(st.lists(st.integers(0, 4), min_size=70, max_size=70), min_size=1, max_size=3))
def test_repeated_bigrams_are_those_of_the_loop_whatever_the_windows(rows):
    ids = np.array(rows)
    assert repeated(ids).tolist() == [slowly_repeated(row) for row in ids]


@pytest.mark.parametrize("pos", ["rope", "alibi", "none"])
@pytest.mark.parametrize("attn", [{"kind": "mha"}, {"kind": "local", "window_size": 4}])
def test_every_length_is_evaluated_on_the_same_tokens_each_with_the_context_of_its_window(split, pos, attn):
    model = model_of(pos, attn=attn)
    found = evaluate_lengths(model, split, LENGTHS, (6, 36, 12), 3, dtype=torch.float32, advance=QUIET)
    starts = found.longest.starts
    assert len(starts) == 3
    assert [part.name for part in found.by_length] == ["6", "12", "36"]
    for part in found.by_length:
        length = part.at
        pieces = [
            [one_at_a_time(model, split.tokens[s : s + length + 1]) for s in range(start, start + 36, length)]
            for start in starts
        ]
        assert part.losses == pytest.approx([np.mean(window) for window in pieces], rel=2e-5)
        assert part.counts.tolist() == [36] * 3
    slow = np.array([one_at_a_time(model, split.tokens[start : start + 37]) for start in starts])
    for part, (first, last) in zip(found.by_position, spans(36, BLOCK), strict=True):
        assert part.losses == pytest.approx(slow[:, first - 1 : last].mean(1), rel=2e-5)


@pytest.mark.parametrize("attn", ["mha", "mqa", "gqa", "linear", "sparse", "mla"])
def test_every_variant_goes_on_past_the_length_of_its_training(split, attn):
    model = model_of("none", attn={"kind": attn})
    found = evaluate_lengths(model, split, LENGTHS, (12, 30), 2, dtype=torch.float32, advance=QUIET)
    slow = [np.mean(one_at_a_time(model, split.tokens[start : start + 31])) for start in found.longest.starts]
    assert found.by_length[1].losses == pytest.approx(slow, rel=1e-4)
    assert found.by_length[0].counts.tolist() == [24, 24]  # 12 does not divide 30: six tokens are left out


def test_learned_positions_end_at_the_length_of_training_and_say_so():
    config = model_of().config
    check_lengths((6, 12), config, 500, "the validation text")
    with pytest.raises(UsageError, match="learned positions") as caught:
        check_lengths((6, 12, 24), config, 500, "the validation text")
    assert "--lengths 6,12" in caught.value.hint
    assert "--pos rope" in caught.value.hint
    check_lengths((24,), config.model_copy(update={"pos": "rope"}), 25, "the validation text")


def test_a_text_shorter_than_a_window_is_refused_with_the_length_that_fits():
    config = model_of("rope").config
    with pytest.raises(DataError, match="has 24 tokens, and a window of --lengths 24 takes 25") as caught:
        check_lengths((24,), config, 24, "the validation text")
    assert "above 23" in caught.value.hint


def test_the_standard_error_of_a_part_is_that_of_a_ratio_over_windows():
    even = Part("a", 0, np.array([1.0, 2.0, 4.0]), np.array([5, 5, 5]))
    assert even.loss_se == pytest.approx(math.sqrt(7 / 3) / math.sqrt(3))
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 30, size=400)
    losses = np.where(counts > 0, 2 + rng.normal(size=400) / np.sqrt(np.maximum(counts, 1)), 0.0)
    part = Part("b", 0, losses, counts)
    assert part.influence.mean() == pytest.approx(part.loss)
    # The jackknife leaves out one window at a time, and knows nothing of a linearization.
    left = [(losses * counts).sum() - losses[i] * counts[i] for i in range(400)] / (counts.sum() - counts)
    jackknife = math.sqrt(399 / 400 * ((left - left.mean()) ** 2).sum())
    assert part.loss_se == pytest.approx(jackknife, rel=0.02)
    assert math.isnan(Part("c", 0, losses[:1], counts[:1]).loss_se)
