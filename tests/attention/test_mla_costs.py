"""mla: settings, refusals, and costs against published integers, the modules and torch's own counter."""

import itertools
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.errors import SettingsError
from vgpt.model import costs
from vgpt.model.config import GPT2Config

SMALL = {"vocab_size": 61, "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "mlp_hidden": 72}
ATTNS = ["mla:kv_lora_rank=12", "mla:kv_lora_rank=7,q_lora_rank=5,qk_nope_head_dim=3,v_head_dim=11"]


def gpt2(attn: str = "mla", **changes) -> GPT2Config:
    sizes = {"vocab_size": 50_257, "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}
    return GPT2Config.model_validate({**sizes, "attn": attn, **changes})


def shape(**changes) -> Shape:
    return Shape(**{"n_embd": 32, "n_head": 4, "block_size": 64, **changes})


def test_gpt2_small_costs_what_the_literature_says():
    config = gpt2()
    assert config.attn.params(config.shape) == 1_942_688
    assert config.attn.params(gpt2(bias=False).shape) == 1_941_696
    assert costs.count_parameters(config).total == 119_403_648
    assert config.attn.flops(config.shape, 1024).attention == 1_968_000 * 1024
    assert config.attn.dense_flops(config.shape, 1024).attention == 3_932_160 * 1024
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == 0.7820
    assert round(costs.palm_flops_per_token(config) / 1e9, 4) == 0.8533
    assert costs.cache_bytes(config, 1024) == 5_376 * 1024
    assert costs.cache_bytes(config, 8192) == 43_008 * 1024


def test_gpt2_small_with_a_latent_for_queries_costs_what_the_literature_says():
    config = gpt2("mla:q_lora_rank=384")
    assert config.attn.params(config.shape) == 1_796_000
    assert config.attn.params(gpt2("mla:q_lora_rank=384", bias=False).shape) == 1_794_624
    assert costs.count_parameters(config).total == 117_643_392
    assert config.attn.flops(config.shape, 1024).attention == 1_968_000 * 1024
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == 0.7713
    assert round(costs.palm_flops_per_token(config) / 1e9, 4) == 0.8427
    assert costs.cache_bytes(config, 1024) == 5_376 * 1024


@pytest.mark.parametrize(
    ("attn", "layers", "heads", "width", "elements"),
    [
        ("mla:kv_lora_rank=512,qk_rope_head_dim=64", 27, 16, 2048, 15_552),  # small MoE, MLA
        ("mha", 27, 16, 2048, 110_592),  # small MoE, MHA
        ("mla:kv_lora_rank=512,qk_rope_head_dim=64", 60, 128, 16_384, 34_560),  # large MoE, MLA
    ],
)
def test_the_cache_per_token_is_that_of_table_9_of_deepseek_v2(attn, layers, heads, width, elements):
    backbone = Shape(n_embd=width, n_head=heads, block_size=4096)
    assert backbone.head_dim == 128
    assert layers * resolve_attention(attn).cache_cost(backbone).numbers(1) == elements


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pos", ["learned", "rope", "none", "alibi"])
@pytest.mark.parametrize("attn", ATTNS)
def test_parameters_are_what_the_module_holds(layer, attn, pos, bias):
    for sinks, gate in itertools.product([True, False], ["none", "head", "elem"]):
        module = layer(attn, pos=pos, bias=bias, sinks=sinks, out_gate=gate)
        counts = {name: p.numel() for name, p in module.named_parameters()}
        assert sum(counts.values()) == module.config.params(module.shape)
        matrices = sum(n for name, n in counts.items() if name.endswith("proj.weight") or name == "extra.gate.weight")
        assert matrices == module.config.matmul_params(module.shape)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@pytest.fixture(params=ATTNS)
def net(request):
    from vgpt.model.gpt2 import GPT2Model
    from vgpt.model.init import initialize

    def build(**changes):
        net = GPT2Model(GPT2Config.model_validate({**SMALL, "attn": request.param, **changes}))
        initialize(net, 0)
        return net

    return build


@pytest.mark.parametrize("pos", ["learned", "rope", "none", "alibi"])
def test_dense_flops_are_those_that_torch_counts(net, pos):
    # Without fused kernels, because those pad the narrower of keys and values: work that the model does not ask for.
    model = net(pos=pos, flash=False, out_gate="elem")
    ids = torch.zeros(3, 20, dtype=torch.int64)
    assert counted(lambda: model(ids)) == 3 * costs.forward_flops(model.config, 20, dense=True)
    assert counted(lambda: model(ids).sum().backward()) == 3 * costs.train_flops(model.config, 20, dense=True)


@pytest.mark.parametrize("pos", ["learned", "none"])
def test_one_absorbed_step_costs_what_torch_counts(net, pos):
    model = net(pos=pos)
    ids = torch.zeros(3, 20, dtype=torch.int64)
    with torch.no_grad():
        caches = model.make_caches(3, 20, dtype=torch.float32)
        model(ids[:, :19], caches)
        assert counted(lambda: model(ids[:, 19:], caches)) == 3 * costs.decode_flops(model.config, 20)


def test_a_step_takes_the_products_of_the_absorbed_form():
    attn, backbone, T = resolve_attention("mla"), gpt2().shape, 1024
    H, c, n, e, v, C = 12, 192, 64, 32, 64, 768
    others = C * H * (n + e) + C * (c + e) + H * v * C
    assert attn.decode_flops(backbone, T).total == 2 * (others + H * (n * c + T * (c + e) + T * c + c * v))


def test_absorbing_pays_where_it_takes_fewer_products():
    attn, backbone = resolve_attention("mla"), gpt2().shape
    H, c, n, e, v = 12, 192, 64, 32, 64
    for total, new in itertools.product([1, 2, 50, 300, 4096], [1, 2, 40, 90, 128, 300]):
        if new <= total:
            expanded = 2 * H * (total * c * (n + v) + new * total * (n + e + v))
            absorbed = 2 * H * (new * (n * c + c * v) + new * total * (c + e + c))
            assert attn.absorbing_pays(backbone, new, total) == (absorbed < expanded)
    assert all(attn.absorbing_pays(backbone, 1, total) for total in (2, 64, 8192))
    assert not attn.absorbing_pays(backbone, 512, 1024)


def test_the_rank_alone_is_enough():
    attn, backbone = resolve_attention("mla:kv_lora_rank=192"), gpt2().shape
    assert (attn.nope_dim(backbone), attn.rope_dim(backbone), attn.v_dim(backbone), attn.qk_dim(backbone)) == (
        64,
        32,
        64,
        96,
    )
    assert attn == resolve_attention("mla")
    widths = {attn.rope_dim(Shape(n_embd=d, n_head=1, block_size=8)) for d in (2, 6, 8, 10, 12)}
    assert widths == {2, 4, 6}


@pytest.mark.parametrize(("pos", "rope"), [("learned", 4), ("rope", 4), ("none", 0), ("alibi", 0)])
def test_the_rotary_part_follows_the_positions(pos, rope):
    attn, backbone = resolve_attention("mla:kv_lora_rank=12"), shape(pos=pos)
    assert attn.check(backbone) == []
    assert attn.rope_dim(backbone) == rope
    assert attn.cache_cost(backbone).per_token == 12 + rope


def test_rotary_positions_beside_learned_ones_are_named_as_a_confound():
    attn = resolve_attention("mla")
    (sentence,) = attn.confounds(shape())
    assert "4 of 12 features" in sentence
    assert "beside the learned ones" in sentence
    (sentence,) = attn.confounds(shape(pos="rope"))
    assert "beside the learned ones" not in sentence
    for pos in ("none", "alibi"):
        assert attn.confounds(shape(pos=pos)) == []
    assert resolve_attention("mla:qk_rope_head_dim=0").confounds(shape()) == []


@pytest.mark.parametrize(
    ("attn", "backbone", "fault"),
    [
        ("mla:qk_rope_head_dim=3", {}, "--qk-rope-head-dim 3 must be even"),
        ("mla:qk_rope_head_dim=4", {"pos": "none"}, "--qk-rope-head-dim 4 has no place with --pos none"),
        ("mla:qk_rope_head_dim=4", {"pos": "alibi"}, "--qk-rope-head-dim 4 has no place with --pos alibi"),
        ("mla:qk_rope_head_dim=0", {"pos": "rope"}, "--qk-rope-head-dim 0 leaves --pos rope nothing to rotate"),
        ("mla", {"qk_norm": True}, "--qk-norm does not apply to --attn mla: its latents are normed already"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(layer, attn, backbone, fault):
    with pytest.raises(SettingsError) as caught:
        layer(attn, **backbone)
    assert fault in str(caught.value)


@pytest.mark.parametrize("setting", ["kv_lora_rank=0", "q_lora_rank=0", "qk_nope_head_dim=0", "v_head_dim=0"])
def test_widths_are_positive(setting):
    with pytest.raises(ValidationError):
        resolve_attention(f"mla:{setting}")


def test_settings_come_back_from_their_own_dump():
    attn = resolve_attention("mla:kv_lora_rank=96,q_lora_rank=64,v_head_dim=32")
    assert resolve_attention(attn.model_dump()) == attn
    assert attn.model_dump()["kind"] == "mla"


def test_settings_and_costs_need_no_torch():
    code = "import sys, vgpt.attention.latent.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
