"""Initial weights: keyed by seed and name, and by nothing else."""

import torch

from vgpt.model.init import initialize


def test_swapping_the_attention_leaves_every_other_tensor_bit_equal(model):
    states = {attn: model(attn=attn, seed=3).state_dict() for attn in ("mha", "mqa", "gqa:n_kv_head=2")}
    base = states.pop("mha")
    for state in states.values():
        assert state.keys() == base.keys()
        differ = {name for name in base if not torch.equal(base[name], state[name])}
        assert differ == {f"h.{i}.attn.c_attn.{part}" for i in range(2) for part in ("weight", "bias")}


def test_tensors_do_not_depend_on_depth_beyond_their_scale(model):
    deep, flat = model(n_layer=4).state_dict(), model(n_layer=2).state_dict()
    for name in ("wte.weight", "wpe.weight", "h.1.mlp.c_fc.weight", "h.0.attn.c_attn.weight"):
        assert torch.equal(deep[name], flat[name])
    torch.testing.assert_close(deep["h.1.mlp.c_proj.weight"] * 2**0.5, flat["h.1.mlp.c_proj.weight"])


def test_the_global_random_state_is_neither_read_nor_moved(model):
    torch.manual_seed(1)
    one = model(seed=5)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    other = model(seed=5)
    fresh = model(seed=6)
    initialize(other, 5)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.wte.weight, fresh.wte.weight)
    net = model()
    torch.random.set_rng_state(before)
    initialize(net, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_tensor_has_the_spread_of_gpt2(model):
    net = model(n_embd=256, n_layer=3, vocab_size=500)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "ln_" in name:
            assert (parameter == 1).all()
        else:
            want = 0.02 / (6**0.5 if name.endswith("c_proj.weight") else 1)
            assert abs(float(parameter.detach().std()) / want - 1) < 0.03, name
            assert abs(float(parameter.detach().mean())) < want / 20, name


def test_no_two_tensors_share_their_numbers(model):
    firsts = [
        round(float(p.detach().flatten()[0]), 9) for p in model(n_layer=1, bias=False).parameters() if p.ndim == 2
    ]
    assert len(set(firsts)) == len(firsts)


def test_lower_precision_starts_from_the_same_numbers(model):
    low = model()
    low.bfloat16()
    initialize(low, 4)
    for a, b in zip(low.parameters(), model(seed=4).parameters(), strict=True):
        assert torch.equal(a, b.bfloat16())
