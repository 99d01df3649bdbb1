"""The copy that generates predicts what the model predicts."""

import pytest
import torch
from torch import nn

from vgpt.model.config import GPT2Config
from vgpt.model.decoding import Decoder, PackedLinear, can_pack
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

packs = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.bfloat16), reason="this CPU has no native bfloat16 products"
)


def small(**settings):
    config = GPT2Config.model_validate(
        {"n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": 128, "vocab_size": 211, **settings}
    )
    model = GPT2Model(config)
    initialize(model, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def ids(rows, length):
    return torch.randint(211, (rows, length), generator=torch.Generator().manual_seed(9))


def stepwise(decoder, given, prefill):
    """Logits after the prefill and after each later token."""
    caches = decoder.make_caches(given.shape[0], given.shape[1])
    logits = [decoder.next_logits(given[:, :prefill], caches)]
    logits += [decoder.next_logits(given[:, t : t + 1], caches) for t in range(prefill, given.shape[1])]
    return torch.stack(logits, 1)


@pytest.mark.parametrize("attn", ["mha", "mqa", "gqa"])
@pytest.mark.parametrize("pos", ["learned", "rope", "none"])
def test_steps_predict_what_the_model_predicts_in_one_pass(attn, pos):
    model = small(attn=attn, pos=pos)
    given = ids(2, 100)
    with torch.no_grad():
        expected = model(given)[:, 29:]
    torch.testing.assert_close(stepwise(Decoder(model), given, 30), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"attn": "gqa", "pos": "rope"}, {"tie_weights": False, "bias": False}])
@pytest.mark.parametrize("prefill", [1, 64, 70])
def test_bfloat16_steps_are_as_near_to_float32_as_the_models_own_bfloat16(settings, prefill):
    model = small(**settings)
    given = ids(3, 100)
    with torch.no_grad():
        truth = model(given)[:, prefill - 1 :]
        plain = stepwise(Decoder(model, torch.bfloat16, pack=False), given, prefill)
    packed = stepwise(Decoder(model, torch.bfloat16), given, prefill)
    allowed = 1.5 * (plain - truth).abs().max()
    assert (packed - truth).abs().max() <= allowed
    assert allowed < 0.1 * truth.abs().max()


@packs
@pytest.mark.parametrize("rows", [1, 16, 65])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_numbers_of_the_plain_one(rows, bias):
    layer = nn.Linear(96, 80, bias=bias).bfloat16()
    x = torch.randn(2, rows, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(layer.weight, layer.bias)(x), layer(x))


@packs
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu", "silu", "relu2"])
def test_every_activation_survives_packing(activation):
    model = small(activation=activation)
    given = ids(2, 20)
    plain = stepwise(Decoder(model, torch.bfloat16, pack=False), given, 10)
    packed = stepwise(Decoder(model, torch.bfloat16), given, 10)
    torch.testing.assert_close(packed, plain, atol=0.05, rtol=0.05)


def test_the_model_is_left_as_it_was():
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Decoder(model, torch.bfloat16).next_logits(ids(1, 5))
    assert all(type(m) is not PackedLinear for m in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_in_the_models_own_precision_no_tensor_is_copied():
    model = small()
    decoder = Decoder(model)
    given = ids(1, 5)
    before = decoder.next_logits(given)
    with torch.no_grad():
        model.wte.weight.mul_(2)
    assert not torch.equal(before, decoder.next_logits(given))


def test_an_autocast_around_the_call_changes_nothing():
    decoder = Decoder(small())
    with torch.autocast("cpu", torch.bfloat16):
        inside = decoder.next_logits(ids(1, 5))
    assert torch.equal(inside, decoder.next_logits(ids(1, 5)))
