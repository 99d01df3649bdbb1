"""Decoding through real CUDA graphs; what needs no GPU is tried in test_steps.py."""

import pytest
import torch

from tests.model.test_generation import prompts, tiny
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.steps import Steps
from vgpt.training.optimizer import build_optimizer

pytestmark = pytest.mark.gpu
MIX = "local:window_size=40+mla+linear+mqa"
VARIANTS = [
    "mha",
    "gqa:n_kv_head=2",
    "mqa",
    "local:window_size=5",
    "linear",
    "mla",
    "local:window_size=40+mla+linear+mqa",
]
GREEDY = {"max_new_tokens": 60, "temperature": 0, "seed": 0}


def on_gpu(*arguments, **settings):
    return tiny(*arguments, **settings).cuda()


def texts(model, given, dtype=torch.float32, **settings):
    """The same text by single steps and by graphs, which must really have been recorded."""
    plain = generate(Decoder(model, dtype, graphs=False), given, **settings)
    decoder = Decoder(model, dtype)
    made = generate(decoder, given, **settings)
    assert made.notes == plain.notes
    assert decoder._kept is not None
    assert decoder._kept._recordings
    return plain, made


@pytest.mark.parametrize("pos", ["learned", "rope", "alibi"])
@pytest.mark.parametrize("attn", VARIANTS)
def test_graphs_give_the_tokens_of_single_steps_also_across_a_sliding_context(attn, pos):
    model = on_gpu(attn, pos, n_layer=4 if "+" in attn else 2)
    for rows in (1, 3):
        plain, made = texts(model, prompts(rows, 7).cuda(), **GREEDY)
        assert made.tokens == plain.tokens
        assert made.cache_nbytes == made.cache_analytic == plain.cache_nbytes


@pytest.mark.parametrize("settings", [{"temperature": 1.2, "top_p": 0.9}, {"temperature": 0.8}, {"top_k": 9}])
def test_sampled_texts_are_the_same_and_end_at_the_same_stop_token(settings):
    model, given = on_gpu(qk_norm=True, out_gate="head", sinks=True), prompts(3, 5).cuda()
    free, _ = texts(model, given, max_new_tokens=50, seed=5, **settings)
    for stop in {free.tokens[0][3], free.tokens[1][20]}:
        plain, made = texts(model, given, max_new_tokens=50, seed=5, stop_token=stop, **settings)
        assert (made.tokens, made.stopped, made.steps) == (plain.tokens, plain.stopped, plain.steps)
        cpu = generate(model.cpu(), given.cpu(), max_new_tokens=50, seed=5, stop_token=stop, **settings)
        assert (cpu.tokens, cpu.stopped, cpu.steps) == (made.tokens, made.stopped, made.steps)
        model.cuda()


def stepped(model, given, dtype, graphs):
    """Logits of the last 40 tokens, one after the other, over the border of a room."""
    steps = Decoder(model, dtype, graphs=graphs).steps(2, 600)
    steps.next_logits(given[:, :500])
    logits = torch.stack([steps.next_logits(token).clone() for token in given[:, 500:].split(1, 1)], 1)
    assert not steps.note
    return logits


@pytest.mark.parametrize("attn", VARIANTS)
def test_half_precision_logits_are_near_those_of_float32(attn):
    model = on_gpu(attn, block_size=700, n_layer=4 if "+" in attn else 2, n_embd=64)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(0.3)
    given = prompts(2, 540).cuda()
    truth = stepped(model, given, torch.float32, graphs=False)
    torch.testing.assert_close(stepped(model, given, torch.float32, graphs=True), truth, atol=1e-4, rtol=1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        plain, replayed = ((stepped(model, given, dtype, graphs) - truth).abs().max() for graphs in (False, True))
        assert replayed < 2 * plain + 1e-3
        assert plain < 0.1 * truth.abs().max()


def test_two_decoders_keep_apart_and_one_may_go():
    models = [on_gpu(), on_gpu("mla")]
    decoders, given = [Decoder(model) for model in models], prompts(2, 6).cuda()
    want = [generate(Decoder(model, graphs=False), given, **GREEDY).tokens for model in models]
    for _ in range(2):
        assert [generate(decoder, given, **GREEDY).tokens for decoder in decoders] == want
    del decoders[0]
    torch.cuda.empty_cache()
    assert generate(decoders[0], given, **GREEDY).tokens == want[1]


def test_decoding_between_training_steps_sees_the_new_weights():
    model, given = on_gpu(), prompts(2, 6).cuda()
    optimizer, decoder = build_optimizer(model, lr=0.05, device=torch.device("cuda")), Decoder(model)
    seen = []
    for _ in range(3):
        made = generate(decoder, given, **GREEDY).tokens
        assert made == generate(Decoder(model, graphs=False), given, **GREEDY).tokens
        seen.append(made)
        model(given).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert seen[0] != seen[2]


def test_without_memory_for_a_graph_decoding_goes_on_and_says_so(monkeypatch):
    model, given = on_gpu(), prompts(2, 6).cuda()
    want = generate(Decoder(model, graphs=False), given, **GREEDY).tokens

    def hungry(self, run=Steps._run):
        run(self)
        if torch.cuda.is_current_stream_capturing():
            torch.empty(1 << 50, device="cuda")

    monkeypatch.setattr(Steps, "_run", hungry)
    made = generate(Decoder(model), given, **GREEDY)
    assert made.tokens == want
    assert any("out of memory" in note for note in made.notes)
