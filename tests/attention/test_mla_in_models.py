"""mla inside a model: low precision, the decoding copy, initial weights, compilation."""

import pytest
import torch

from vgpt.attention.latent.module import LatentAttention
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes
from vgpt.model.decoding import Decoder, can_pack
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": 128, "vocab_size": 211}
PLAIN, LATENT_QUERIES = "mla:kv_lora_rank=24", "mla:kv_lora_rank=24,q_lora_rank=20,v_head_dim=12"


def small(attn: str, **settings) -> GPT2Model:
    model = GPT2Model(GPT2Config.model_validate({**SIZES, "attn": attn, **settings}))
    initialize(model, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(211, (rows, length), generator=torch.Generator().manual_seed(9))


def stepwise(decoder: Decoder, given: torch.Tensor, prefill: int) -> torch.Tensor:
    caches = decoder.make_caches(given.shape[0], given.shape[1])
    logits = [decoder.next_logits(given[:, :prefill], caches)]
    logits += [decoder.next_logits(given[:, t : t + 1], caches) for t in range(prefill, given.shape[1])]
    return torch.stack(logits, 1)


@pytest.mark.parametrize("attn", [PLAIN, LATENT_QUERIES])
@pytest.mark.parametrize("pos", ["learned", "rope", "none", "alibi"])
def test_steps_predict_what_the_model_predicts_in_one_pass(attn, pos):
    model = small(attn, pos=pos, sinks=True, out_gate="head")
    given = ids(2, 100)
    with torch.no_grad():
        expected = model(given)[:, 29:]
    torch.testing.assert_close(stepwise(Decoder(model), given, 30), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attn", [PLAIN, LATENT_QUERIES])
@pytest.mark.parametrize("prefill", [1, 70])
@pytest.mark.parametrize("pack", [True, False])
def test_bfloat16_steps_are_as_near_to_float32_as_the_models_own_bfloat16(attn, prefill, pack):
    model = small(attn)
    given = ids(3, 100)
    with torch.no_grad():
        truth = model(given)[:, prefill - 1 :]
        plain = small(attn).bfloat16()(given)[:, prefill - 1 :].float()
    steps = stepwise(Decoder(model, torch.bfloat16, pack=pack), given, prefill)
    allowed = 1.5 * (plain - truth).abs().max()
    assert (steps - truth).abs().max() <= allowed
    assert allowed < 0.1 * truth.abs().max()


@pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.bfloat16), reason="no native bfloat16 products")
def test_packing_changes_the_copy_alone_and_none_of_its_numbers():
    model = small(PLAIN)
    given = ids(2, 40)
    packed, plain = (Decoder(model, torch.bfloat16, pack=pack) for pack in (True, False))
    gap = (stepwise(packed, given, 10) - stepwise(plain, given, 10)).abs().max()
    assert gap < 0.02
    ours = [block.attn for block in packed._model.h]
    assert all(isinstance(attn, LatentAttention) and attn._packed is not None for attn in ours)
    assert all(half.is_contiguous() for attn in ours for half in (attn._packed[0], attn._packed[1].mT))
    assert all(block.attn._packed is None for block in model.h)


def test_autocast_and_a_bfloat16_cache_stay_near_float32(layer, noise):
    module = layer(PLAIN, pos="rope")
    x = noise(2, 20, 32)
    full = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), full, rtol=0, atol=0.1)
    cache = module.make_cache(2, 20, dtype=torch.bfloat16, device="cpu")
    with torch.no_grad():
        parts = [module(piece, cache) for piece in x.split([9, 1, 1, 4, 5], 1)]
    assert parts[1].dtype == torch.float32
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=0.1)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 1e4), (torch.float16, 1e2)])
def test_large_inputs_give_finite_outputs(layer, noise, dtype, size):
    module = layer(PLAIN, pos="rope").to(dtype)
    x = (noise(2, 12, 32) * size).to(dtype)
    cache = module.make_cache(2, 12, dtype=dtype, device="cpu")
    with torch.no_grad():
        assert module(x).isfinite().all()
        assert all(module(piece, cache).isfinite().all() for piece in x.split([7, 1, 4], 1))


def test_generation_measures_the_cache_that_is_charged():
    model = small(PLAIN)
    made = generate(model, ids(2, 30), max_new_tokens=20, temperature=0, seed=0)
    assert made.cache_nbytes == made.cache_analytic == 2 * cache_bytes(model.config, 49, 4)
    slow = generate(model, ids(2, 30), max_new_tokens=20, temperature=0, seed=0, use_cache=False)
    assert made.tokens == slow.tokens


def test_swapping_mha_for_mla_leaves_every_other_tensor_bit_equal():
    def state(attn: str) -> dict[str, torch.Tensor]:
        model = GPT2Model(GPT2Config.model_validate({**SIZES, "attn": attn}))
        initialize(model, 3)
        return model.state_dict()

    mha, mla, wider = state("mha"), state(PLAIN), state("mla:kv_lora_rank=32")
    shared = {name for name in mha if ".attn." not in name} | {f"h.{i}.attn.c_proj.weight" for i in range(3)}
    assert all(torch.equal(mha[name], mla[name]) for name in shared)
    assert all(torch.equal(mla[f"h.{i}.attn.q_proj.weight"], wider[f"h.{i}.attn.q_proj.weight"]) for i in range(3))
    for i in range(3):
        assert (mla[f"h.{i}.attn.kv_a_layernorm.weight"] == 1).all()
        assert (mla[f"h.{i}.attn.kv_a_proj.bias"] == 0).all()
        assert 0.015 < mla[f"h.{i}.attn.kv_b_proj.weight"].std() < 0.025


@pytest.mark.slow
@pytest.mark.parametrize("attn", [PLAIN, LATENT_QUERIES])
@pytest.mark.parametrize("pos", ["learned", "alibi"])
def test_a_layer_compiles_without_a_graph_break(layer, noise, attn, pos):
    module = layer(attn, pos=pos, sinks=True, out_gate="elem")
    x = noise(2, 20, 32).requires_grad_()
    compiled = torch.compile(module, fullgraph=True)
    want, got = module(x), compiled(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    inputs = [x, *module.parameters()]
    for a, b in zip(
        torch.autograd.grad(got.square().mean(), inputs),
        torch.autograd.grad(want.square().mean(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
