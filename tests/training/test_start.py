import pytest
import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.records.start import ATTENTION_RMS, START, START_MLP, attention_rms, measure_start

ROWS = torch.randint(64, (12, 32), generator=torch.Generator().manual_seed(0))
WINDOWS = torch.cat([ROWS, ROWS[:, :1]], 1).numpy().astype("uint16")


def model(attn, seed=1, **changes):
    config = GPT2Config(
        **{"attn": attn, "vocab_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 32, **changes}
    )
    built = GPT2Model(config)
    initialize(built, seed)
    return built


def test_variants_start_from_the_same_backbone_and_other_seeds_from_another():
    mha, mqa, other = (measure_start(model(*one), WINDOWS) for one in (("mha",), ("mqa",), ("mha", 2)))
    assert (mha[START], mha[START_MLP]) == (mqa[START], mqa[START_MLP])
    assert mha[START] != other[START]
    assert mha[START_MLP] != other[START_MLP]


def test_a_wider_mlp_starts_elsewhere_and_nothing_else_does():
    narrow, wide = (measure_start(model("mha", mlp_hidden=width), WINDOWS) for width in (128, 160))
    assert narrow[START] == wide[START]
    assert narrow[START_MLP] != wide[START_MLP]


def test_the_size_of_the_branch_is_that_of_what_the_layers_add():
    built = model("mha")
    with torch.no_grad():
        x = built.wte(ROWS) + built.wpe.weight[:32]
        sizes = []
        for block in built.h:
            added = block.attn(block.ln_1(x), None)
            sizes.append(float(added.square().mean().sqrt()))
            x = block(x, None)
    assert attention_rms(built, ROWS) == pytest.approx(sum(sizes) / 2, rel=1e-5)


def test_scaling_the_output_of_attention_scales_its_size():
    built = model("mha")
    before = attention_rms(built, ROWS)
    with torch.no_grad():
        for block in built.h:
            block.attn.c_proj.weight *= 3
            block.attn.c_proj.bias *= 3
    assert attention_rms(built, ROWS) == pytest.approx(3 * before, rel=0.15)


def test_dropout_has_no_part_in_it():
    plain, dropping = (model("mha", dropout=rate).train() for rate in (0.0, 0.5))
    state = torch.get_rng_state()
    assert attention_rms(dropping, ROWS) == attention_rms(dropping, ROWS) == attention_rms(plain, ROWS)
    assert torch.equal(torch.get_rng_state(), state)
    assert dropping.training


def test_measuring_leaves_the_model_as_it_was():
    built = model("mla")
    before = {name: value.clone() for name, value in built.state_dict().items()}
    found = measure_start(built, WINDOWS)
    assert float(found[ATTENTION_RMS]) > 0
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert not any(block.attn._forward_hooks for block in built.h)
