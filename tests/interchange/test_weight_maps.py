"""Weights of one attention as another's, held against models that compute and against sums written out."""

import re

import pytest
import torch

from vgpt.attention.grouped.config import GroupedConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.data.progress import Silent
from vgpt.errors import UsageError
from vgpt.interchange.convert import fill_converted
from vgpt.interchange.weight_maps import check_map, pooled
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

C, H, D, T = 32, 4, 8, 24


def config(attn, **changes):
    table = {"vocab_size": 50, "n_layer": 2, "n_head": H, "n_embd": C, "block_size": T, "pos": "none", "attn": attn}
    return GPT2Config.model_validate(table | changes)


def learned(attn, **changes):
    """A model whose weights, biases and norms are all far from where they start, as after training."""
    model = GPT2Model(config(attn, **changes))
    initialize(model, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.empty_like(parameter).normal_(0, 0.15, generator=generator)
        if not model.config.bias:
            # Where the residual stream is not far above the epsilon of the layer norm, h is shorter there, and a norm
            # of latents without a constant among them undoes it.
            model.wte.weight *= 10
    return model.eval()


def converted(model, attn, **changes):
    """Return the model with another attention, and what is said of the map."""
    new = GPT2Model(config(attn, **changes))
    notes = fill_converted(model, new, Silent())
    return new.eval(), notes


@torch.no_grad()
def logits(model):
    ids = torch.randint(0, 50, (3, T), generator=torch.Generator().manual_seed(3))
    return model(ids)


def gap(one, other):
    return float((logits(one) - logits(other)).abs().max())


@pytest.mark.parametrize("pos", ["learned", "rope", "none", "alibi"])
@pytest.mark.parametrize("switches", [{}, {"qk_norm": True, "out_gate": "elem", "sinks": True}])
def test_as_many_key_value_heads_as_query_heads_change_no_bit(pos, switches):
    old = learned("mha", pos=pos, **switches)
    new, notes = converted(old, f"gqa:n_kv_head={H}", pos=pos, **switches)
    assert torch.equal(logits(old), logits(new))
    assert notes == ("mha to gqa: the weights stay as they are",)


@pytest.mark.parametrize(("source", "target"), [("mqa", "mha"), ("mqa", "gqa:n_kv_head=2"), ("gqa:n_kv_head=2", "mha")])
def test_repeated_heads_compute_what_the_shared_one_did(source, target):
    old = learned(source)
    new, notes = converted(old, target)
    assert gap(old, new) < 1e-5
    assert notes[0].endswith("repeated")


def test_pooled_heads_are_the_means_of_neighbors_as_by_hand():
    old = learned("mha")
    new, notes = converted(old, "gqa:n_kv_head=2")
    for layer in range(2):
        before, after = old.h[layer].attn.c_attn, new.h[layer].attn.c_attn
        for was, now in ((before.weight, after.weight), (before.bias, after.bias)):
            assert torch.equal(now[: H * D], was[: H * D])
            for part in range(2):  # keys, then values
                for head in range(2):
                    for row in range(D):
                        left = was[H * D + part * H * D + 2 * head * D + row]
                        right = was[H * D + part * H * D + (2 * head + 1) * D + row]
                        found = now[H * D + part * 2 * D + head * D + row]
                        assert torch.allclose(found, (left + right) / 2, rtol=1e-6, atol=1e-8)
    assert notes == ("4 key and value heads become 2: each is the mean of 2",)


def test_one_head_of_multi_query_attention_is_the_mean_of_all():
    old = learned("gqa:n_kv_head=2")
    new, _ = converted(old, "mqa")
    keys = old.h[0].attn.c_attn.weight[H * D : H * D + 2 * D].view(2, D, C)
    assert torch.allclose(new.h[0].attn.c_attn.weight[H * D : H * D + D], (keys[0] + keys[1]) / 2)


def test_heads_whose_numbers_do_not_divide_are_copied_before_they_are_pooled():
    rows = torch.arange(2.0)[:, None]  # two heads, 0 and 1, one row each
    assert pooled(rows, 2, 3).flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("mha", f"local:window_size={T}"),
        ("mha", "sparse:sparse_block_size=4,window_blocks=6"),
        ("local:window_size=4", f"local:window_size={T}+mha"),
        ("sparse:sparse_block_size=4", "mha"),
    ],
)
def test_windows_and_blocks_take_the_weights_as_they_are(source, target):
    old = learned(source)
    new, _ = converted(old, target)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())
    if source == "mha":  # and these see everything
        assert gap(old, new) < 1e-5


def test_a_window_that_sees_less_is_said_to():
    _, notes = converted(learned("mha"), "local:window_size=4")
    assert notes == (
        "mha to local: the weights stay as they are",
        "mha to local: a token sees other tokens than those that the weights were learned with",
    )


def test_linear_attention_takes_queries_keys_and_values_and_is_said_to_be_another_function():
    old = learned("gqa:n_kv_head=2")
    new, notes = converted(old, "linear")
    k = old.h[0].attn.c_attn.weight[H * D : H * D + 2 * D].view(2, D, C)
    assert torch.equal(new.h[0].attn.c_attn.weight[H * D : 2 * H * D], k.repeat_interleave(2, 0).flatten(0, 1))
    assert "softmax" in notes[1]


@pytest.mark.parametrize("source", ["mha", "mqa", "gqa:n_kv_head=2"])
@pytest.mark.parametrize("changes", [{"pos": "none"}, {"pos": "alibi"}, {"pos": "none", "bias": False}])
@pytest.mark.parametrize("queries", ["", f",q_lora_rank={C}"])
def test_latents_of_full_rank_reproduce_attention_without_positions(source, changes, queries):
    old = learned(source, **changes)
    new, notes = converted(old, f"mla:kv_lora_rank={C}{queries}", **changes)
    assert gap(old, new) < 1e-4
    assert notes == ()


@pytest.mark.parametrize("bias", [True, False])
def test_latents_of_full_rank_reproduce_it_with_gates_and_sinks(bias):
    changes = {"pos": "none", "sinks": True, "out_gate": "elem", "bias": bias}
    old = learned("mha", **changes)
    new, _ = converted(old, f"mla:kv_lora_rank={C}", **changes)
    assert gap(old, new) < 1e-4


def test_latents_decode_through_their_cache_what_they_compute_at_once():
    new, _ = converted(learned("mha"), f"mla:kv_lora_rank={C}")
    ids = torch.randint(0, 50, (1, T), generator=torch.Generator().manual_seed(3))
    caches = new.make_caches(1, T, dtype=torch.float32)
    with torch.no_grad():
        steps = torch.cat([new(ids[:, t : t + 1], caches) for t in range(T)], 1)
        assert (steps - new(ids)).abs().max() < 1e-4


def test_beside_learned_positions_the_rotary_part_begins_silent_and_can_be_learned():
    old = learned("mha", pos="learned")
    new, notes = converted(old, f"mla:kv_lora_rank={C}", pos="learned")
    assert gap(old, new) < 1e-4
    assert notes == ("the rotary part of 4 features begins silent: its queries are zero",)
    new.train()(torch.randint(0, 50, (2, T))).square().mean().backward()
    rotary = new.h[0].attn.q_proj.weight.grad.view(H, D + 4, C)[:, D:]
    assert float(rotary.abs().max()) > 0


def test_the_norm_of_latents_disturbs_a_low_rank_by_less_than_one_in_ten_thousand():
    """Of what the factors give by themselves: the same product without a norm."""
    old = learned("mha")
    new, _ = converted(old, "mla:kv_lora_rank=9")
    attn = new.h[0].attn
    x = torch.randn(40, C, generator=torch.Generator().manual_seed(4)).double()
    normed = torch.nn.functional.layer_norm(x, (C,)) + 1
    with torch.no_grad():
        wide = attn.double()
        latent = wide.kv_a_proj(normed)
        constant = latent[:, -1:]
        assert float(constant.std()) < 1e-9
        plain = latent * torch.cat((torch.ones(8), 1 / constant[0, :1]))
        exact = plain @ wide.kv_b_proj.weight.T
        found = wide.kv_b_proj(wide.kv_a_layernorm(latent))
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-4


@torch.no_grad()
def test_the_latent_is_the_best_product_of_its_rank():
    """Its error on the weights is what Eckart and Young say: the singular values left out."""
    old = learned("mha")
    new, notes = converted(old, "mla:kv_lora_rank=9")
    norm, c_attn = old.h[1].ln_1, old.h[1].attn.c_attn
    rows = (c_attn.weight * norm.weight).double()[H * D :]
    rows = rows - rows.mean(1, keepdim=True)
    attn = new.h[1].attn
    down, up = attn.kv_a_proj.weight.double()[:9], attn.kv_b_proj.weight.double() * attn.kv_a_layernorm.weight.double()
    scale = (attn.kv_a_proj.bias[8].double() ** 2 / 9) ** 0.5
    by_head = torch.cat((rows[: H * D].view(H, D, C), rows[H * D :].view(H, D, C)), 1).flatten(0, 1)
    error = float((up @ down / scale - by_head).square().sum())
    left_out = torch.linalg.svdvals(rows)[8:].square().sum()
    assert error == pytest.approx(float(left_out), rel=1e-3)
    held = 1 - float(left_out) / float(rows.square().sum())
    told = re.fullmatch(r"a latent of 9 features holds (.*)% to (.*)% of the squared norm of .*", notes[0])
    assert f"{100 * held:.1f}" in told.groups()


def test_a_rotated_key_that_all_heads_share_is_kept_whole():
    """Multi-query attention has one key for all heads, and a rotary part as wide as a head turns it likewise."""
    old = learned("mqa", pos="rope")
    new, notes = converted(old, f"mla:kv_lora_rank={C},qk_rope_head_dim={D}", pos="rope")
    assert gap(old, new) < 1e-4
    assert "holds 100.0% of the squared norm" in notes[0]


def test_heads_whose_keys_are_turned_copies_of_one_are_kept_whole_too():
    """A turn of a pair of features is a factor that goes into the queries."""
    old = learned("mha", pos="rope")
    with torch.no_grad():
        for block in old.h:
            for tensor in (block.attn.c_attn.weight, block.attn.c_attn.bias):
                keys = tensor[H * D : 2 * H * D].view(H, 2, D // 2, -1)
                for head in range(1, H):
                    angle = torch.tensor(0.7 * head)
                    keys[head, 0] = 1.5 * (keys[0, 0] * angle.cos() - keys[0, 1] * angle.sin())
                    keys[head, 1] = 1.5 * (keys[0, 0] * angle.sin() + keys[0, 1] * angle.cos())
    new, _ = converted(old, f"mla:kv_lora_rank={C},qk_rope_head_dim={D}", pos="rope")
    assert gap(old, new) < 1e-4


def test_a_rotary_part_is_nearer_to_the_rotated_heads_than_none():
    old = learned("mha", pos="rope")
    wide, notes = converted(old, f"mla:kv_lora_rank={C},qk_rope_head_dim={D}", pos="rope")
    with torch.no_grad():
        bare = converted(old, f"mla:kv_lora_rank={C},qk_rope_head_dim={D}", pos="rope")[0]
        for block in bare.h:
            block.attn.q_proj.weight.view(H, 2 * D, C)[:, D:] = 0
    assert gap(old, wide) < gap(old, bare)
    assert "the rest has no positions any more" in notes[0]


def test_a_mix_converts_the_layers_that_differ_and_leaves_the_others():
    old = learned("mha+mla:kv_lora_rank=16")
    new, _ = converted(old, "mqa+mla:kv_lora_rank=16")
    assert torch.equal(old.h[1].attn.kv_b_proj.weight, new.h[1].attn.kv_b_proj.weight)
    assert torch.equal(old.h[1].ln_1.weight, new.h[1].ln_1.weight)
    assert new.h[0].attn.c_attn.weight.shape[0] == C + 2 * D


@pytest.mark.parametrize(
    ("source", "target", "changes", "reason"),
    [
        ("mla", "mha", {}, "keys and values of mla come from normed latents"),
        ("mla:kv_lora_rank=16", "mla:kv_lora_rank=8", {}, "keys and values of mla come from normed latents"),
        ("mha", "mla:qk_nope_head_dim=4", {}, "--qk-nope-head-dim 4: the heads to convert are 8 features wide"),
        ("mha", "mla:v_head_dim=16", {}, "--v-head-dim 16: the heads to convert are 8 features wide"),
        ("mha", "mla:qk_rope_head_dim=10", {"pos": "rope"}, "--qk-rope-head-dim 10 is wider than the 8 features"),
        ("mha", "mha", {}, "has --attn mha already"),
    ],
)
def test_where_no_map_is_known_the_reason_is_told(source, target, changes, reason):
    with pytest.raises(UsageError, match=reason):
        check_map(config(source, **changes), config(target, **changes))


def test_other_differences_than_the_attention_are_refused():
    with pytest.raises(UsageError, match="only the attention can be converted"):
        check_map(config("mha"), config("gqa", qk_norm=True))


def test_the_weights_of_a_plug_in_are_its_own(register):
    class Planted(GroupedConfig):
        """A plug-in that has the layout of multi-head attention today."""

        def kv_heads(self, shape):
            return shape.n_head

    register(Planted, GroupedAttention)
    with pytest.raises(UsageError, match="mha to planted: planted is a plug-in's"):
        check_map(config("mha"), config("planted"))
