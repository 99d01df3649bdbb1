"""Costs against published figures, against the modules, and against torch's own counter."""

import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vgpt.model import costs
from vgpt.model.config import GPT2Config


def gpt2(attn: str = "mha", **changes) -> GPT2Config:
    return GPT2Config.model_validate(
        {"vocab_size": 50_257, "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "attn": attn, **changes}
    )


# attention parameters per layer with and without bias, model total, training GFLOPs per token exact and PaLM,
# cache KiB at 1,024 tokens in two bytes
GPT2_SMALL = {
    "mha": (2_362_368, 2_359_296, 124_439_808, 0.7979, 0.8552, 36_864),
    "mqa": (1_279_616, 1_277_952, 111_446_784, 0.7200, 0.7772, 3_072),
    "gqa:n_kv_head=4": (1_574_912, 1_572_864, 114_990_336, 0.7412, 0.7985, 12_288),
    "gqa:n_kv_head=2": (1_378_048, 1_376_256, 112_627_968, 0.7271, 0.7843, 6_144),
}


@pytest.mark.parametrize("attn", GPT2_SMALL)
def test_gpt2_small_costs_what_the_literature_says(attn):
    layer, bare, total, exact, palm, kib = GPT2_SMALL[attn]
    config = gpt2(attn)
    assert config.attn.params(config.shape) == layer
    assert config.attn.params(gpt2(attn, bias=False).shape) == bare
    assert costs.count_parameters(config).total == total
    assert costs.count_parameters(config).attention == 12 * layer
    assert config.attn.flops(config.shape, 1024).attention == 1_574_400 * 1024
    assert config.attn.dense_flops(config.shape, 1024).attention == 3_145_728 * 1024
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == exact
    assert round(costs.palm_flops_per_token(config) / 1e9, 4) == palm
    assert costs.cache_bytes(config, 1024) == kib * 1024
    assert costs.cache_bytes(config, 8192) == 8 * kib * 1024


def test_the_published_notebook_figures_of_gpt2_are_met():
    bare = gpt2(bias=False)
    assert costs.count_parameters(bare).total == 124_337_664
    assert costs.forward_flops(bare, 1024, dense=True) == 291_648_307_200
    assert costs.palm_flops_per_token(bare) * 1024 == 875_062_886_400


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tie", [True, False])
def test_counts_are_what_the_modules_hold(model, attn, pos, bias, tie):
    net = model(attn=attn, pos=pos, bias=bias, tie_weights=tie, mlp_hidden=72)
    count = costs.count_parameters(net.config)
    assert count.total == sum(p.numel() for p in net.parameters())
    assert count.attention == sum(p.numel() for name, p in net.named_parameters() if ".attn." in name)
    assert count.mlp == sum(p.numel() for name, p in net.named_parameters() if ".mlp." in name)
    assert count.norms == sum(p.numel() for name, p in net.named_parameters() if "ln_" in name)
    assert count.embedding == sum(p.numel() for name, p in net.named_parameters() if name.startswith("w"))


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("flash", [True, False])
def test_dense_flops_are_those_that_torch_counts(model, ids, attn, pos, flash):
    net = model(attn=attn, pos=pos, flash=flash, mlp_hidden=72)
    assert counted(lambda: net(ids)) == 3 * costs.forward_flops(net.config, 20, dense=True)


def test_a_training_pass_costs_three_forward_passes(model, ids, attn):
    net = model(attn=attn, flash=False)
    assert counted(lambda: net(ids).sum().backward()) == 3 * costs.train_flops(net.config, 20, dense=True)


def test_reading_a_prompt_and_each_further_token_add_up_to_the_exact_forward(config, attn):
    settings = config(attn=attn)
    steps = sum(costs.decode_flops(settings, t) for t in range(1, 21))
    assert steps == costs.forward_flops(settings, 20)
    head = 2 * 32 * 61
    assert costs.prefill_flops(settings, 20) == steps - 19 * head


def test_one_decode_step_costs_what_torch_counts(model, ids, attn):
    net = model(attn=attn)
    with torch.no_grad():
        caches = net.make_caches(3, 20, dtype=torch.float32)
        net(ids[:, :19], caches)
        assert counted(lambda: net(ids[:, 19:], caches)) == 3 * costs.decode_flops(net.config, 20)


def test_an_untied_token_table_is_not_counted_as_work(config):
    tied, untied = config(), config(tie_weights=False)
    assert costs.palm_flops_per_token(tied) == costs.palm_flops_per_token(untied)
    assert costs.forward_flops(tied, 9) == costs.forward_flops(untied, 9)


def test_costs_need_no_torch():
    code = "import sys, vgpt.model.costs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
