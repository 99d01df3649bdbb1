"""mha, mqa and gqa: identities, causality, invariances, step-by-step decoding."""

import pytest
import torch

from vgpt.attention.grammar import resolve_attention
from vgpt.attention.grouped.config import GQAConfig
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.errors import SettingsError

PIECES = {"one by one": [1] * 23, "sevens": [7, 7, 7, 2], "uneven": [5, 1, 1, 9, 3, 4], "at once": [23]}


@pytest.mark.parametrize(("name", "groups"), [("mha", 4), ("mqa", 1)])
def test_mha_and_mqa_are_gqa_at_its_ends(layer, noise, pos, name, groups):
    x = noise(2, 11, 32)
    one, other = layer(name, pos=pos), layer(f"gqa:n_kv_head={groups}", pos=pos)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))


def test_a_layer_is_projections_around_the_loop(layer, noise, attn):
    module = layer(attn, dtype=torch.float64)
    x = noise(2, 9, 32, dtype=torch.float64)
    G = module.config.kv_heads(module.shape)
    q, k, v = module.c_attn(x).split([32, 8 * G, 8 * G], -1)
    heads = [part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in (q, k, v)]
    y = attention_by_loop(*heads, torch.ones(9, 9, dtype=torch.bool).tril())
    want = module.c_proj(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
@pytest.mark.parametrize("flash", [True, False])
def test_decoding_in_pieces_equals_the_full_forward(layer, noise, attn, pos, pieces, flash):
    module = layer(attn, pos=pos, flash=flash)
    x = noise(3, 23, 32)
    with torch.no_grad():
        full = module(x)
        cache = module.make_cache(3, 30, dtype=torch.float32, device="cpu")
        parts = [module(piece, cache) for piece in x.split(pieces, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-5)
    assert cache.length == 23


def test_a_bfloat16_cache_serves_a_float32_layer(layer, noise, attn):
    module = layer(attn)
    x = noise(2, 10, 32)
    cache = module.make_cache(2, 10, dtype=torch.bfloat16, device="cpu")
    with torch.no_grad():
        parts = [module(piece, cache) for piece in x.split([6, 1, 3], 1)]
        full = module(x)
    assert parts[0].dtype == torch.float32
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=0.1)


def test_decoding_may_continue_after_rewinding(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(2, 12, 32)
    with torch.no_grad():
        cache = module.make_cache(2, 12, dtype=torch.float32, device="cpu")
        module(noise(2, 12, 32, seed=5), cache)
        cache.reset()
        module(x[:, :9], cache)
        cache.rewind(4)
        end = module(x[:, 4:], cache)
        torch.testing.assert_close(end, module(x)[:, 4:], rtol=0, atol=1e-5)


def test_the_output_does_not_depend_on_what_follows(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(2, 20, 32)
    changed = x.clone()
    changed[:, 12:] += 100.0
    assert torch.equal(module(x)[:, :12], module(changed)[:, :12])
    torch.testing.assert_close(module(x[:, :12]), module(x)[:, :12], rtol=0, atol=1e-6)


def test_each_sequence_of_a_batch_is_computed_as_if_alone(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(4, 15, 32)
    torch.testing.assert_close(module(x)[2:3], module(x[2:3]), rtol=0, atol=1e-6)


def test_gradients_to_later_inputs_are_exactly_zero(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(2, 17, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 8].sum(), x)
    assert (gradient[:, 9:] == 0).all()
    assert (gradient[:, :9] != 0).any(-1).all()


def test_flash_and_naive_agree_with_their_gradients(layer, noise, attn, pos):
    fast, slow = (layer(attn, pos=pos, flash=flash) for flash in (True, False))
    x = noise(2, 19, 32).requires_grad_()
    outputs = [module(x) for module in (fast, slow)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    one, other = (
        torch.autograd.grad(y.square().sum(), [x, *m.parameters()]) for y, m in zip(outputs, (fast, slow), strict=True)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_layer_passes_gradcheck(layer, noise, attn, pos):
    module = layer(attn, pos=pos, dtype=torch.float64)
    x = noise(1, 4, 32, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["mha", "mqa", "gqa:n_kv_head=2"])
def test_parameters_and_cache_are_as_stated(layer, name, bias):
    module = layer(name, bias=bias)
    assert sum(p.numel() for p in module.parameters()) == module.config.params(module.shape)
    cost = module.config.cache_cost(module.shape)
    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
        cache = module.make_cache(3, 40, dtype=dtype, device="cpu")
        for length in (0, 1, 7, 33):
            cache.reset()
            if length:
                with torch.no_grad():
                    module(torch.zeros(3, length, 32), cache)
            assert cache.nbytes == 3 * cost.nbytes(length, width)
        assert cache.reserved == 3 * cost.nbytes(40, width)


def test_the_mask_counts_the_pairs_that_are_charged(layer, attn):
    module = layer(attn)
    mask = module.mask(0, 12, 0, 12)
    assert int(mask.sum()) == module.config.pairs(12)
    assert torch.equal(module.mask(5, 7, 0, 12), mask[5:])


def test_a_variant_that_only_says_who_sees_whom_can_reuse_the_module(layer, noise):
    class Neighbors(GQAConfig):
        def visible(self, q, k, layer=0, head=0):
            return (k <= q) & (q - k < 2)

    from vgpt.attention.grouped.module import GroupedAttention

    plain = layer("gqa:n_kv_head=2")
    module = GroupedAttention(Neighbors(n_kv_head=2), plain.shape)
    module.load_state_dict(plain.state_dict())
    x = noise(1, 8, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 6].sum(), x)
    assert (gradient[0].abs().sum(-1) != 0).tolist() == [False] * 5 + [True, True, False]
    cache = module.make_cache(1, 8, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        parts = [module(piece, cache) for piece in x.split([3, 1, 4], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=1e-6)


def test_groups_of_unequal_size_are_refused_with_the_way_out(layer):
    with pytest.raises(SettingsError, match=r"--n-kv-head 3 must divide --n-head 4; possible: \[1, 2, 4\]"):
        layer("gqa:n_kv_head=3")
    assert resolve_attention("gqa:n_kv_head=2").n_kv_head == 2
