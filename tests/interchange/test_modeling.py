"""The model's code for transformers, as it is before it is carried: forward pass, loss, padding and generation."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from vgpt.model.config import GPT2Config
from vgpt.model.generation import generate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

from vgpt.interchange.remote.configuration_vgpt import VgptConfig
from vgpt.interchange.remote.modeling_vgpt import VgptForCausalLM

pytestmark = pytest.mark.oracle
SMALL = {"vocab_size": 61, "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 96}
GREEDY = {"do_sample": False, "pad_token_id": 0}


def make(attn: str, **changes: object) -> VgptForCausalLM:
    config = GPT2Config.model_validate({**SMALL, "attn": attn, **changes})
    torch.manual_seed(0)
    model = VgptForCausalLM(VgptConfig(config.model_dump(mode="json"), tie_word_embeddings=config.tie_weights)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def ids(rows: int = 2, tokens: int = 20) -> torch.Tensor:
    return torch.randint(1, 61, (rows, tokens), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("attn", "changes"),
    [
        ("mha", {}),
        ("mqa", {"pos": "alibi"}),
        ("gqa:n_kv_head=2", {"pos": "rope", "tie_weights": False}),
        ("local:window_size=5", {}),
        ("sparse:sparse_block_size=4", {}),
        ("linear", {}),
        ("mla:kv_lora_rank=12", {}),
        ("local:window_size=5+linear", {"pos": "none"}),
    ],
)
def test_text_is_the_same_through_the_caches_of_every_variant(attn, changes):
    model, prompts = make(attn, **changes), ids()
    mine = generate(model.transformer, prompts, max_new_tokens=64, temperature=0, seed=0)
    text = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=64, **GREEDY)
    assert text[:, 20:].tolist() == mine.tokens
    assert len(mine.tokens[0]) == 64


def test_each_step_reads_the_new_token_alone(monkeypatch):
    model, lengths = make("linear"), []
    monkeypatch.setattr(model.transformer, "hidden", counted(model.transformer.hidden, lengths))
    model.generate(ids(), max_new_tokens=4, **GREEDY)
    assert lengths == [20, 1, 1, 1]
    lengths.clear()
    model.generate(ids(), max_new_tokens=4, use_cache=False, **GREEDY)
    assert lengths == [20, 21, 22, 23]


def counted(function, lengths):
    def call(tokens, *rest):
        lengths.append(tokens.shape[1])
        return function(tokens, *rest)

    return call


def test_beams_that_change_places_are_read_anew():
    model = make("mha")
    with_cache = model.generate(ids(), max_new_tokens=12, num_beams=4, **GREEDY)
    without = model.generate(ids(), max_new_tokens=12, num_beams=4, use_cache=False, **GREEDY)
    assert torch.equal(with_cache, without)


def test_text_goes_on_beyond_the_context_where_positions_have_no_end():
    model = make("gqa:n_kv_head=2", pos="rope", block_size=16)
    with_cache = model.generate(ids(tokens=10), max_new_tokens=30, **GREEDY)
    without = model.generate(ids(tokens=10), max_new_tokens=30, use_cache=False, **GREEDY)
    assert torch.equal(with_cache, without)
    assert with_cache.shape == (2, 40)


@pytest.mark.parametrize("attn", ["mha", "sparse:sparse_block_size=2,random_blocks=1,window_blocks=1", "linear"])
def test_padding_on_either_side_changes_nothing(attn):
    model, rows = make(attn), ids()
    mask = torch.ones_like(rows)
    mask[0, :3], mask[1, 15:] = 0, 0
    with torch.no_grad():
        both = model(rows, attention_mask=mask).logits
        torch.testing.assert_close(both[0, 3:], model(rows[:1, 3:]).logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(both[1, :15], model(rows[1:, :15]).logits[0], rtol=0, atol=1e-5)
    mask[1] = 1
    padded = model.generate(rows, attention_mask=mask, max_new_tokens=8, **GREEDY)
    alone = model.generate(rows[:1, 3:], max_new_tokens=8, **GREEDY)
    assert torch.equal(padded[0, 20:], alone[0, 17:])
    mask[0, 10] = 0
    with pytest.raises(ValueError, match="hides tokens between others"):
        model(rows, attention_mask=mask)


def test_the_loss_is_the_mean_over_labels_that_are_there():
    model, rows = make("mla:kv_lora_rank=12"), ids()
    labels = rows.clone()
    labels[0, :7] = -100
    with torch.no_grad():
        found = model(rows, labels=labels)
        each = F.cross_entropy(model(rows).logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")
    wanted = torch.cat([each[0, 6:], each[1]]).mean()
    torch.testing.assert_close(found.loss, wanted)
    assert torch.equal(model(rows, logits_to_keep=2).logits, found.logits[:, -2:])


def test_a_text_longer_than_learned_positions_is_refused():
    with pytest.raises(Exception, match="learned positions end"):
        make("mha", block_size=16)(ids())
