"""Generation: the cache changes nothing but the time, rows stand alone, and every limit is stated."""

import pytest
import torch

from vgpt.errors import UsageError, VgptError
from vgpt.model.config import GPT2Config
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

VOCABULARY = 61
ATTENTIONS = ["mha", "mqa", "gqa:n_kv_head=2"]


def tiny(attn="mha", pos="learned", block_size=32, **settings):
    config = GPT2Config.model_validate(
        {
            "attn": attn,
            "pos": pos,
            "n_layer": 2,
            "n_head": 4,
            "n_embd": 32,
            "block_size": block_size,
            "vocab_size": VOCABULARY,
            "tie_weights": False,  # a tied random model repeats its last token
            **settings,
        }
    )
    model = GPT2Model(config)
    initialize(model, 3)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(8)  # far from uniform, so that greedy choices are clear-cut
    return model


def prompts(rows, length, seed=0):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def by_the_formula(model, prompt, new, context):
    """Greedy text of one row from full forward passes alone, with the context halved whenever it is over-full."""
    ids, start = list(prompt), max(0, len(prompt) - context)
    for _ in range(new):
        if len(ids) - start > context:
            start = len(ids) - context // 2
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids[start:]]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("pos", ["learned", "rope", "none"])
@pytest.mark.parametrize("attn", ATTENTIONS)
def test_cached_greedy_text_is_the_text_of_full_passes_also_across_a_sliding_context(attn, pos):
    model = tiny(attn, pos)
    given = prompts(3, 7)
    cached = generate(model, given, max_new_tokens=60, temperature=0, seed=0)
    plain = generate(model, given, max_new_tokens=60, temperature=0, seed=0, use_cache=False)
    assert cached.tokens == plain.tokens
    assert cached.tokens == [by_the_formula(model, row, 60, 32) for row in given.tolist()]
    assert len({token for row in cached.tokens for token in row}) > 4  # a constant text would prove nothing
    assert any("filled up 2 times" in note for note in cached.notes)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_any_prompt_length_works_and_a_cut_prompt_is_noted(length):
    model = tiny()
    given = prompts(2, length)
    made = generate(model, given, max_new_tokens=5, temperature=0, seed=0)
    assert made.tokens == [by_the_formula(model, row, 5, 32) for row in given.tolist()]
    assert any("reads the last 32" in note for note in made.notes) == (length > 32)


def test_a_context_of_one_token_still_generates():
    model = tiny(block_size=1)
    assert generate(model, prompts(2, 3), max_new_tokens=4, temperature=0, seed=0).steps == 4


def test_a_row_is_the_same_alone_and_among_others():
    model = tiny()
    given = prompts(4, 6)
    settings = {"max_new_tokens": 20, "temperature": 1.3, "top_p": 0.95, "seed": 5}
    together = generate(model, given, **settings).tokens
    assert together == [generate(model, given[i : i + 1], first_row=i, **settings).tokens[0] for i in range(len(given))]
    assert together == generate(model, given, **settings).tokens


def test_rows_with_one_prompt_differ_and_so_do_seeds():
    model = tiny()
    given = prompts(1, 6).expand(3, -1)
    texts = generate(model, given, max_new_tokens=12, temperature=1.5, seed=1).tokens
    texts += generate(model, given, max_new_tokens=12, temperature=1.5, seed=2).tokens
    assert len({tuple(text) for text in texts}) == 6


def test_no_global_random_state_is_used_or_changed():
    model = tiny()
    state = torch.get_rng_state()
    generate(model, prompts(1, 4), max_new_tokens=5, seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_a_row_ends_at_its_stop_token_while_others_go_on():
    model = tiny()
    given = prompts(3, 5)
    free = generate(model, given, max_new_tokens=30, temperature=0, seed=0).tokens
    stop = free[0][4]
    ended = generate(model, given, max_new_tokens=30, temperature=0, seed=0, stop_token=stop)
    for row, text in enumerate(free):
        cut = text.index(stop) if stop in text else len(text)
        assert ended.tokens[row] == text[:cut]
        assert ended.stopped[row] == (stop in text)
    assert ended.stopped[0]
    alone = generate(model, given[:1], max_new_tokens=30, temperature=0, seed=0, stop_token=stop)
    assert alone.steps == free[0].index(stop) + 1  # nothing is computed after the last row has ended


def test_tokens_are_handed_out_as_they_are_made_without_the_stop_token():
    model = tiny()
    given = prompts(2, 5)
    stop = generate(model, given, max_new_tokens=9, temperature=0, seed=0).tokens[0][3]
    seen = {0: [], 1: []}
    made = generate(
        model,
        given,
        max_new_tokens=9,
        temperature=0,
        seed=0,
        stop_token=stop,
        on_token=lambda row, token: seen[row].append(token),
    )
    assert [seen[0], seen[1]] == made.tokens


@pytest.mark.parametrize("attn", ATTENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measured_cache_is_the_analytic_one(attn, dtype):
    model = tiny(attn)
    made = generate(model, prompts(3, 7), max_new_tokens=9, seed=0, cache_dtype=dtype)
    kv_heads = {"mha": 4, "mqa": 1}.get(attn, 2)
    assert made.cache_tokens == 15  # the last token is never read
    assert made.cache_nbytes == made.cache_analytic == 3 * 2 * 15 * 2 * kv_heads * 8 * dtype.itemsize


def test_dropout_is_off_and_the_models_mode_is_left_alone():
    model = tiny(dropout=0.5).train()
    given = prompts(1, 5)
    texts = [generate(model, given, max_new_tokens=10, temperature=0, seed=0).tokens for _ in range(2)]
    assert texts[0] == texts[1]
    assert model.training
    assert model.h[0].training
    assert all(p.requires_grad for p in model.parameters())


def test_generation_between_training_steps_leaves_gradients_whole():
    model = tiny(pos="rope")
    generate(model, prompts(1, 5), max_new_tokens=3, seed=0)
    model(prompts(2, 8)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_longer_context_is_refused_where_positions_are_learned_and_noted_elsewhere():
    with pytest.raises(UsageError, match="32 learned positions"):
        generate(tiny(), prompts(1, 3), max_new_tokens=3, seed=0, context=64)
    made = generate(tiny(pos="rope"), prompts(1, 3), max_new_tokens=50, temperature=0, seed=0, context=64)
    assert made.cache_tokens == 52
    assert any("trained on 32 tokens" in note for note in made.notes)


def test_no_new_tokens_is_an_empty_answer():
    made = generate(tiny(), prompts(2, 3), max_new_tokens=0, seed=0)
    assert (made.tokens, made.steps, made.cache_nbytes) == ([[], []], 0, 0)


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), {}, "no tokens"),
        (torch.zeros(3, dtype=torch.int64), {}, "no tokens"),
        (torch.tensor([[5, VOCABULARY]]), {}, f"id {VOCABULARY}"),
        (torch.tensor([[-1]]), {}, "id -1"),
        (torch.tensor([[1]]), {"max_new_tokens": -1}, "max_new_tokens -1"),
        (torch.tensor([[1]]), {"temperature": -0.1}, "temperature -0.1"),
        (torch.tensor([[1]]), {"temperature": float("nan")}, "temperature nan"),
        (torch.tensor([[1]]), {"top_k": 0}, "top_k 0"),
        (torch.tensor([[1]]), {"top_p": 0.0}, "top_p 0.0"),
        (torch.tensor([[1]]), {"top_p": 1.5}, "top_p 1.5"),
        (torch.tensor([[1]]), {"context": 0}, "context 0"),
    ],
)
def test_wrong_input_is_named(given, settings, message):
    with pytest.raises(UsageError, match=message):
        generate(tiny(), given, **{"max_new_tokens": 3, "seed": 0, **settings})


def test_a_diverged_model_is_reported_not_sampled_from():
    model = tiny()
    with torch.no_grad():
        model.ln_f.weight.fill_(float("nan"))
    with pytest.raises(VgptError, match="not finite"):
        generate(model, prompts(1, 3), max_new_tokens=3, seed=0)


def test_a_decoder_is_used_as_it_is():
    model = tiny()
    decoder = Decoder(model, torch.float64)
    made = generate(decoder, prompts(1, 4), max_new_tokens=6, temperature=0, seed=0)
    assert made.cache_nbytes == 2 * 9 * 2 * 32 * 8
