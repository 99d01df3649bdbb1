"""Steps that are recorded once and replayed decode what single steps decode; no GPU is needed to try them."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.model.test_generation import prompts, tiny
from vgpt.conformance.recording import record
from vgpt.errors import VgptError
from vgpt.model import decoding, generation
from vgpt.model.costs import cache_bytes
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.readback import Readback
from vgpt.model.steps import NotRecordedError, Steps, room_for

VARIANTS = ["mha", "gqa:n_kv_head=2", "mqa", "local:window_size=5", "linear", "mla"]
SWITCHED = {"qk_norm": True, "out_gate": "elem", "sinks": True}


@pytest.fixture
def replayed(monkeypatch):
    """Steps on a CPU repeat the operations of the first, as a graph does: what Python decides there stays decided."""
    monkeypatch.setattr(decoding, "run_again", record)


def pair(model, rows, tokens, recorder=record):
    """Single steps, and recorded ones over other caches."""
    return [Steps(model, model.logits, rows, tokens, dtype=torch.float32, recorder=r) for r in (None, recorder)]


def both(steps, ids):
    single, replayed = (each.next_logits(ids) for each in steps)
    torch.testing.assert_close(replayed, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("pos", ["learned", "rope", "none", "alibi"])
@pytest.mark.parametrize("attn", VARIANTS)
def test_replayed_steps_predict_what_single_steps_predict(attn, pos, rows):
    switches = {name: value for name, value in SWITCHED.items() if (attn, name) != ("mla", "qk_norm")}
    if attn == "linear":
        del switches["sinks"]
    model = tiny(attn, pos, block_size=100, **(switches if rows == 3 else {})).eval()
    steps, given = pair(model, rows, 100), prompts(rows, 100)
    both(steps, given[:, :58])
    for at in range(58, 70):  # over the border of a page
        both(steps, given[:, at : at + 1])
    both(steps, given[:, 70:77])  # several at once in between
    both(steps, given[:, 77:78])
    assert [cache.nbytes for cache in steps[0].caches] == [cache.nbytes for cache in steps[1].caches]
    assert sum(cache.nbytes for cache in steps[1].caches) == rows * cache_bytes(model.config, 78, 4)
    for each in steps:
        each.reset()
    for at in range(7):
        both(steps, given[:, at : at + 1])
    if attn == "mha":
        for cache in [*steps[0].caches, *steps[1].caches]:
            cache.rewind(3)
        for at in range(50, 57):
            both(steps, given[:, at : at + 1])


@pytest.mark.parametrize(
    ("attn", "layouts"),
    [("mha", 3), ("local:window_size=300", 2), ("mla", 3), ("local:window_size=40+mha+linear+mqa", 3)],
)
def test_a_sequence_may_grow_from_room_to_room(attn, layouts):
    model = tiny(attn, block_size=500, n_layer=4 if "+" in attn else 1).eval()
    steps, given = pair(model, 2, 500), prompts(2, 500)
    both(steps, given[:, :250])
    for at in (*range(250, 260), *range(380, 388)):
        if at == 380:
            both(steps, given[:, 260:380])
        both(steps, given[:, at : at + 1])
    assert len(steps[1]._recordings) == layouts


def test_rooms_are_as_large_as_they_must_be_and_few():
    rooms = [room_for(tokens) for tokens in range(1, 5000)]
    assert sorted(set(rooms)) == [256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144]
    assert all(256 <= room < 1.5 * tokens + 256 and room >= tokens for tokens, room in enumerate(rooms, 1))


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.2, "top_p": 0.9}, {"top_k": 7}])
@pytest.mark.parametrize("attn", VARIANTS)
def test_a_text_is_the_same_with_and_without_graphs(attn, settings, replayed):
    model, given = tiny(attn), prompts(3, 6)
    plain = generate(model, given, max_new_tokens=60, seed=4, **settings)  # slides twice
    made = generate(Decoder(model, graphs=True), given, max_new_tokens=60, seed=4, **settings)
    assert made.tokens == plain.tokens
    assert (made.notes, made.steps, made.cache_tokens) == (plain.notes, plain.steps, plain.cache_tokens)
    assert made.cache_nbytes == made.cache_analytic == plain.cache_nbytes
    assert len({token for row in made.tokens for token in row}) > 4


@pytest.mark.parametrize("new", [1, 2, 40])
@pytest.mark.parametrize("graphs", [False, True])
def test_reading_tokens_a_step_late_changes_no_text(monkeypatch, replayed, graphs, new):
    model, given = tiny(), prompts(3, 5)
    free = generate(model, given, max_new_tokens=new, seed=3).tokens
    for stop in {None, free[0][0], free[0][-1], free[1][new // 2]}:
        settings = {"max_new_tokens": new, "seed": 3, "stop_token": stop}
        now, late = [], []
        prompt = given[:1] if stop == free[0][-1] else given
        plain = generate(model, prompt, **settings, on_token=lambda *one, heard=now: heard.append(one))
        with monkeypatch.context() as patch:
            patch.setattr(generation, "Readback", partial(Readback, ahead=1))
            decoder = Decoder(model, graphs=graphs)
            made = generate(decoder, prompt, **settings, on_token=lambda *one, heard=late: heard.append(one))
        assert (made.tokens, made.stopped, made.steps) == (plain.tokens, plain.stopped, plain.steps)
        assert (made.notes, late) == (plain.notes, now)
        assert made.cache_nbytes == made.cache_analytic


def test_a_diverged_model_is_reported_also_a_step_late(monkeypatch):
    model = tiny()
    with torch.no_grad():
        model.wpe.weight[9] = torch.nan
    monkeypatch.setattr(generation, "Readback", partial(Readback, ahead=1))
    heard = []
    with pytest.raises(VgptError, match="not finite"):
        generate(model, prompts(1, 4), max_new_tokens=20, seed=0, on_token=lambda *one: heard.append(one))
    assert len(heard) == 6  # those of the positions before


def test_what_a_text_recorded_serves_the_next(monkeypatch):
    recorded = []

    def noted(run):
        recorded.append(run)
        return record(run)

    monkeypatch.setattr(decoding, "run_again", noted)
    model = tiny(pos="rope")
    decoder = Decoder(model, graphs=True)
    for seed, new in ((1, 20), (2, 20), (3, 25)):  # as many pages
        made = generate(decoder, prompts(2, 6, seed), max_new_tokens=new, seed=seed)
        assert made.tokens == generate(model, prompts(2, 6, seed), max_new_tokens=new, seed=seed).tokens
        assert made.cache_tokens == 5 + new
    assert len(recorded) == 1
    assert generate(decoder, prompts(3, 6), max_new_tokens=9, seed=0).steps == 9  # another batch
    assert len(recorded) == 2


def test_replayed_steps_see_weights_that_were_trained_meanwhile(replayed):
    model, given = tiny(), prompts(1, 6)
    decoder = Decoder(model, graphs=True)
    before = generate(decoder, given, max_new_tokens=12, temperature=0, seed=0).tokens
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    after = generate(decoder, given, max_new_tokens=12, temperature=0, seed=0).tokens
    assert after == generate(model, given, max_new_tokens=12, temperature=0, seed=0).tokens != before


@pytest.mark.parametrize("attn", ["linear", "mha+linear"])
def test_a_step_that_cannot_be_recorded_is_not_lost_and_the_reason_is_said(monkeypatch, attn):
    def fails(run):
        run()
        raise NotRecordedError("out of memory")

    monkeypatch.setattr(decoding, "run_again", fails)
    model, given = tiny(attn), prompts(2, 6)
    made = generate(Decoder(model, graphs=True), given, max_new_tokens=20, seed=1)
    assert made.tokens == generate(model, given, max_new_tokens=20, seed=1).tokens
    assert [note for note in made.notes if "out of memory" in note and "one by one" in note]


def test_a_layer_without_a_step_decodes_as_before_and_is_named():
    model, given = tiny("sparse:sparse_block_size=4+mha"), prompts(1, 6)
    made = generate(Decoder(model, graphs=True), given, max_new_tokens=20, seed=1)
    plain = generate(model, given, max_new_tokens=20, seed=1)
    assert made.tokens == plain.tokens
    assert [note for note in made.notes if note.endswith("no step of fixed shapes: sparse")]
    assert plain.notes == []  # on a CPU there are no graphs to miss


def test_the_formula_is_computed_where_it_is_asked_for():
    model = tiny()
    for block in model.blocks:
        block.attn.shape = replace(block.attn.shape, flash=False)
    assert Decoder(model, graphs=True).steps(1, 8).note


def test_replayed_steps_end_where_learned_positions_end():
    model = tiny(block_size=10)
    steps = pair(model, 1, 40)[1]
    steps.next_logits(prompts(1, 9))
    steps.next_logits(prompts(1, 1))
    with pytest.raises(VgptError, match="context length of 10"):
        steps.next_logits(prompts(1, 1))


def test_a_full_cache_refuses_a_replayed_step():
    steps = pair(tiny(pos="rope"), 1, 64)[1]
    steps.next_logits(prompts(1, 63))
    steps.next_logits(prompts(1, 1))
    with pytest.raises(VgptError, match="cannot take 65"):
        steps.next_logits(prompts(1, 1))
