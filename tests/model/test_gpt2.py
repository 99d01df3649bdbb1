"""The backbone: decoding, causality, invariances, ties, limits."""

import pytest
import torch

from vgpt.errors import VgptError


@pytest.mark.parametrize("pieces", [[1] * 20, [7, 7, 6], [3, 1, 1, 11, 4]], ids=["ones", "sevens", "uneven"])
def test_logits_step_by_step_equal_those_of_the_whole(model, ids, attn, pos, pieces):
    net = model(attn=attn, pos=pos, loud=True)
    with torch.no_grad():
        caches = net.make_caches(3, 20, dtype=torch.float32)
        parts = [net(piece, caches) for piece in ids.split(pieces, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), net(ids), rtol=0, atol=1e-5)


def test_cache_bytes_are_those_of_the_cost_model(model, ids, attn):
    from vgpt.model.costs import cache_bytes

    net = model(attn=attn)
    caches = net.make_caches(3, 24, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for length, piece in zip((1, 8, 20), ids.split([1, 7, 12], 1), strict=True):
            net(piece, caches)
            assert sum(cache.nbytes for cache in caches) == 3 * cache_bytes(net.config, length, 2)


def test_a_loss_at_one_place_leaves_later_embeddings_without_gradient(model, attn, pos):
    net = model(attn=attn, pos=pos, loud=True)
    ids = torch.arange(20)[None]  # every token once, so that a row of the embedding is a position
    net.hidden(ids)[0, 9].square().sum().backward()
    moved = (net.wte.weight.grad != 0).any(-1)
    assert moved[:10].all()
    assert not moved[10:].any()


def test_logits_do_not_depend_on_later_tokens_or_on_the_batch(model, ids, attn, pos):
    net = model(attn=attn, pos=pos, loud=True)
    with torch.no_grad():
        full = net(ids)
        changed = ids.clone()
        changed[:, 13:] = (changed[:, 13:] + 1) % 61
        assert torch.equal(net(changed)[:, :13], full[:, :13])
        torch.testing.assert_close(net(ids[:, :13]), full[:, :13], rtol=0, atol=2e-6)
        torch.testing.assert_close(net(ids[1:2]), full[1:2], rtol=0, atol=2e-6)


def test_without_positions_the_model_cannot_tell_orders_of_the_past_apart(model, ids):
    net = model(pos="none", n_layer=1, loud=True)
    swapped = ids.clone()
    swapped[:, :5] = ids[:, :5].flip(1)
    with torch.no_grad():
        torch.testing.assert_close(net(swapped)[:, 5:], net(ids)[:, 5:], rtol=0, atol=1e-5)
        for pos in ("learned", "rope"):
            net = model(pos=pos, n_layer=1, loud=True)
            assert (net(swapped)[:, 5:] - net(ids)[:, 5:]).abs().max() > 1e-3


def test_a_tied_output_layer_is_stored_once(model):
    assert "lm_head.weight" not in model().state_dict()
    assert model().head_weight is not None
    untied = model(tie_weights=False)
    assert untied.state_dict()["lm_head.weight"].shape == (61, 32)
    assert untied.head_weight is untied.lm_head.weight


def test_learned_positions_end_where_they_end_and_say_what_to_do(model, ids):
    net = model(block_size=16)
    with pytest.raises(VgptError, match=r"20 tokens do not fit.*16") as error:
        net(ids)
    assert "--pos rope" in error.value.hint
    caches = net.make_caches(3, 30, dtype=torch.float32)
    net(ids[:, :16], caches)
    with pytest.raises(VgptError, match="17 tokens do not fit"):
        net(ids[:, :1], caches)


def test_other_positions_go_on_beyond_the_block(model, ids):
    for pos in ("rope", "none"):
        assert model(block_size=16, pos=pos)(ids).isfinite().all()


def test_dropout_acts_in_training_only_and_spares_nothing_else(model, ids):
    net = model(dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(net(ids), net(ids))
    net.eval()
    assert torch.equal(net(ids), net(ids))
    assert torch.equal(net(ids), model()(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_weights_give_finite_numbers(model, ids, attn, dtype):
    net = model(attn=attn, loud=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(100)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = net(ids)
    logits.float().logsumexp(-1).mean().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_autocast_changes_precision_and_little_else(model, ids, attn, pos):
    net = model(attn=attn, pos=pos)
    with torch.no_grad():
        want = net(ids)
        with torch.autocast("cpu", torch.bfloat16):
            got = net(ids)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0, atol=0.02)
