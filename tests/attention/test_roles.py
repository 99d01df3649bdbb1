"""How parameters start and whether they decay: the usual rule, and what a layer says of its own."""

import pytest
import torch
from torch import nn

from vgpt.attention.base import roles_of
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.options import OPTIONS
from vgpt.attention.registry import variants
from vgpt.attention.roles import Role
from vgpt.conformance import failures
from vgpt.errors import VgptError
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.optimizer import build_optimizer


class Tempered(MHAConfig):
    """Multi-head attention with a learned temperature per head and feature."""

    def params(self, shape):
        return super().params(shape) + shape.n_embd


class TemperedModule(GroupedAttention[Tempered]):
    """Its queries are multiplied by exp(temperature), a matrix that is no matrix of products."""

    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.temperature = nn.Parameter(torch.empty(shape.n_head, shape.head_dim))

    def parameter_roles(self):
        return {"temperature": Role.OWN}

    def init_parameters(self, generator):
        self.temperature.normal_(0.0, 0.1, generator=generator)

    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return q * self.temperature.exp()[:, None].to(q.dtype), k, v

    steps = False


def model(attn, **changes):
    settings = {"vocab_size": 11, "n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 6} | changes
    return GPT2Model(GPT2Config(attn=attn, **settings))


def filled(attn, seed=3, **changes):
    net = model(attn, **changes)
    initialize(net, seed)
    return dict(net.named_parameters())


def test_a_layer_fills_its_own_parameters_and_all_others_start_as_beside_mha(register):
    attn = register(Tempered, TemperedModule)
    one, again, other, plain = filled(attn), filled(attn), filled(attn, seed=4), filled(MHAConfig())
    names = [f"h.{i}.attn.temperature" for i in range(2)]
    assert one.keys() - plain.keys() == set(names)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert all(torch.equal(one[name], plain[name]) for name in plain)
    assert not torch.equal(one[names[0]], one[names[1]])
    assert not torch.equal(one[names[0]], other[names[0]])
    wide = filled(attn, n_embd=256, n_head=4)[names[0]]
    assert abs(float(wide.detach().std()) / 0.1 - 1) < 0.15
    assert float(wide.detach().abs().max()) < 0.5


def test_own_weights_start_from_the_same_numbers_in_lower_precision(register):
    attn = register(Tempered, TemperedModule)
    low = model(attn).bfloat16()
    initialize(low, 3)
    for name, parameter in filled(attn).items():
        assert torch.equal(parameter.bfloat16(), low.get_parameter(name)), name


def test_what_a_layer_calls_its_own_does_not_decay(register):
    net = model(register(Tempered, TemperedModule))
    initialize(net, 0)
    groups = build_optimizer(net, lr=1e-3, weight_decay=0.1).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name: decays[id(p)] for name, p in net.named_parameters()}
    assert found["h.0.attn.temperature"] == 0.0
    assert found["h.0.attn.c_attn.weight"] == found["h.0.attn.c_proj.weight"] == 0.1
    assert len(decays) == len(list(net.parameters()))


def test_built_in_variants_start_and_decay_by_names_and_dimensions_as_gpt2_does():
    for kind in [kind for kind, config in variants().items() if issubclass(config, AttentionConfig)]:
        config = variants()[kind]()
        honored = [option.name for option in OPTIONS if config.refusal(option) is None]
        net = model(config, **{name: True for name in ("qk_norm", "sinks") if name in honored})
        roles = roles_of(net)
        for name, parameter in net.named_parameters():
            assert roles[name].decays == (parameter.ndim >= 2), name
            assert (roles[name] is Role.OUTPUT) == name.endswith("c_proj.weight"), name
            assert (roles[name] is Role.BIAS) == name.endswith("bias"), name
            assert roles[name] is not Role.OWN, name


def test_a_role_of_no_parameter_is_refused_with_the_names_there_are(register):
    class Misspelled(TemperedModule):
        def parameter_roles(self):
            return {"temprature": Role.OWN}

    with pytest.raises(VgptError, match=r"(?s)names 'temprature'.*Its parameters: temperature, c_attn"):
        roles_of(model(register(Tempered, Misspelled)))


def test_a_module_with_a_start_of_its_own_keeps_the_contract(register):
    checks = ["initial_weights", "parameters", "construction", "state_dict", "same_trunk", "in_a_model"]
    assert failures(register(Tempered, TemperedModule), only=checks) == []


class LeftOut(TemperedModule):
    def init_parameters(self, generator):
        pass


class FromElsewhere(TemperedModule):
    def init_parameters(self, generator):
        self.temperature.normal_(0.0, 0.1)


class FillsOthers(TemperedModule):
    def init_parameters(self, generator):
        super().init_parameters(generator)
        self.c_attn.weight.normal_(0.0, 0.1, generator=generator)


class NotDeclared(TemperedModule):
    def parameter_roles(self):
        return {}


@pytest.mark.parametrize(
    ("module", "phrase"),
    [
        (LeftOut, "leaves temperature without finite numbers"),
        (FromElsewhere, "draws from the random state of torch"),
        (FillsOthers, "fills c_attn.weight, whose role is"),
        (NotDeclared, "fills temperature, whose role is"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_start_is_caught(register, module, phrase):
    (found,) = failures(register(Tempered, module), only=["initial_weights"])
    assert phrase in found


def test_two_maps_per_head_count_both_scores_and_both_values():
    class TwoMaps(AttentionConfig):
        maps = 2

        def qk_dim(self, shape):
            return shape.head_dim // 2

        def matmul_params(self, shape):
            return 4 * shape.n_embd**2

    shape = Shape(32, 4, 16, out_gate="elem")
    config = TwoMaps()
    assert config.flops(shape, 5).attention == 2 * 15 * 4 * (2 * 4 + 2 * 8)
    assert config.switch_matmul_params(shape) == 32 * 4 * 8
