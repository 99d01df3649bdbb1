"""--compile: compiled runs end whole, and what is copied from a compiled model computes with its own weights."""

import math

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention

from vgpt.attention.kernels import block_masks, flex
from vgpt.attention.sparse import block_mask as sparse_block_mask
from vgpt.model.config import GPT2Config
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.loss import cross_entropy
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

# Dynamo looks at what it traces; pytest alone turns what torch then remarks into errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

IDS = torch.arange(2 * 40).view(2, 40) % 61


def small(attn="mha", **settings):
    model = GPT2Model(
        GPT2Config.model_validate(
            {"attn": attn, "n_layer": 4, "n_head": 2, "n_embd": 32, "block_size": 64, "vocab_size": 61, **settings}
        )
    )
    initialize(model, 1)
    return model


@pytest.fixture
def graphs(monkeypatch):
    """Return what Dynamo counts while compiled code runs as it stands, without the slow code generator."""
    from vgpt.model import gpt2

    torch.compiler.reset()
    counters.clear()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    gpt2._compiled_block.cache_clear()
    yield counters
    gpt2._compiled_block.cache_clear()
    torch.compiler.reset()


@pytest.mark.parametrize("generator", ["graphs", pytest.param("", marks=pytest.mark.slow)])
def test_a_compiled_run_in_bfloat16_ends_with_all_figures_and_is_repeated_as_finished(settings, generator, request):
    """The figures of decoding come from a copy of the compiled model; slowly, with the real code generator."""
    if generator:
        request.getfixturevalue(generator)
    small_run = {"train__max_steps": 3, "train__eval_windows": 4, "system__dtype": "bfloat16"}
    plain = train_run(settings(**small_run, run__run_name="plain"), Quiet())
    config = settings(**small_run, system__compile=True, run__run_name="compiled")
    result = train_run(config, Quiet())
    assert set(result.summary) == set(plain.summary)
    assert result.summary["kv/bytes_measured"] == plain.summary["kv/bytes_measured"]
    assert math.isclose(result.summary["val/loss"], plain.summary["val/loss"], rel_tol=2e-3)
    assert train_run(config, Quiet()).status == "already"


def test_a_copy_of_a_compiled_model_decodes_with_its_own_weights(graphs):
    model = small()
    model.compile_blocks()
    cross_entropy(model, IDS, IDS).backward()
    decoder = Decoder(model, torch.float64)
    with torch.no_grad():
        before = decoder.next_logits(IDS, decoder.make_caches(2, 40))
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(decoder.next_logits(IDS, decoder.make_caches(2, 40)), before)


@pytest.mark.parametrize(
    ("attn", "recompute"),
    [
        ("mha", False),
        ("local:window_size=9", True),
        pytest.param("sparse:sparse_block_size=4", True, marks=pytest.mark.slow),
        pytest.param("linear", True, marks=pytest.mark.slow),
        pytest.param("mla", True, marks=pytest.mark.slow),
    ],
)
def test_training_is_compiled_without_a_graph_break_and_equal_layers_share_a_graph(graphs, attn, recompute):
    model, same = small(attn), small(attn)
    model.recompute = same.recompute = recompute
    model.compile_blocks()
    losses = [cross_entropy(each, IDS, IDS) for each in (model, same)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
    for ours, theirs in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)
    assert not graphs["graph_break"]
    # On a CPU sparse's links are drawn in the graph, and depend on the number of the layer.
    assert graphs["stats"]["unique_graphs"] == (4 if attn.startswith("sparse") else 1)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("attn", "more", "recompute"),
    [
        ("local:window_size=9", {}, True),
        ("sparse:sparse_block_size=4", {}, False),
        pytest.param("sparse:sparse_block_size=4", {"sinks": True}, True, marks=pytest.mark.slow),
        pytest.param("mla", {"sinks": True, "pos": "alibi"}, True, marks=pytest.mark.slow),
    ],
)
def test_masks_are_made_outside_of_compiled_layers_which_share_one_graph(graphs, monkeypatch, attn, more, recompute):
    """On a GPU; here the uncompiled form of its kernel computes."""
    model, plain = small(attn, **more), small(attn, **more)
    model.recompute = recompute
    made = []
    flex.kept.clear()
    make = spy(made, block_masks.assemble)
    for module in (block_masks, sparse_block_mask):
        monkeypatch.setattr(module, "assemble", make)
    cross_entropy(plain, IDS, IDS).backward()
    monkeypatch.setattr(flex, "has_kernel", lambda device: True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *parts: None)  # refuses gradients on CPUs
    model.compile_blocks()
    for _ in range(2):
        model.zero_grad()
        cross_entropy(model, IDS, IDS).backward()
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)
    assert not graphs["graph_break"]
    assert graphs["stats"]["unique_graphs"] == 1
    assert len(made) == (4 if attn.startswith("sparse") else 1)


def spy(made, make):
    return lambda *arguments: made.append(arguments) or make(*arguments)
