"""local, linear and sparse against other libraries' layers: live where those are installed, and always as recorded."""

import runpy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.kernels.gather import attend_to_blocks
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.linear.chunked import chunked_linear_attention
from vgpt.attention.linear.features import FEATURE_MAPS

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["recorded", pytest.param("live", marks=pytest.mark.oracle)])
def oracle(request):
    """A function that returns the tensors of one of the layers."""
    if request.param == "recorded":
        stored = load_file(GOLDEN / "mixers.safetensors")
        return lambda part: {name.removeprefix(f"{part}."): t for name, t in stored.items() if name.startswith(part)}

    def live(part: str):
        pytest.importorskip("fla" if part == "fla" else "transformers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return runpy.run_path(str(GOLDEN / "make_mixers.py"))[part]()

    return live


def test_local_is_mistrals_sliding_window(oracle):
    theirs = oracle("mistral")
    module = build_attention(resolve_attention("local:window_size=5"), Shape(32, 4, 64, bias=False, pos="rope"))
    c_attn = torch.cat([theirs[f"{name}_proj.weight"] for name in "qkv"])
    module.load_state_dict({"c_attn.weight": c_attn, "c_proj.weight": theirs["o_proj.weight"]})
    with torch.no_grad():
        torch.testing.assert_close(module(theirs["x"]), theirs["y"], rtol=0, atol=1e-5)
        cache = module.make_cache(2, 23, dtype=torch.float32, device="cpu")
        steps = torch.cat([module(piece, cache) for piece in theirs["x"].split([9] + [1] * 14, 1)], 1)
        torch.testing.assert_close(steps, theirs["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("chunk", [16, 50, 128])
def test_linear_is_flash_linear_attentions_naive_form(oracle, form, chunk):
    theirs = oracle("fla")
    q, k, v = (theirs[name].transpose(1, 2) for name in "qkv")
    # They scale queries by 1 / sqrt(D), which the denominator takes out again.
    y, _ = chunked_linear_attention(q, k, v, feature_map=FEATURE_MAPS["identity"], chunk_size=chunk)
    torch.testing.assert_close(y.transpose(1, 2), theirs[form], rtol=0, atol=1e-5)


def test_the_sparse_products_are_bigbirds_on_bigbirds_own_pattern(oracle):
    theirs = oracle("bigbird")
    q, k, v, seen = (theirs[name] for name in ("q", "k", "v", "seen"))
    want = theirs["y"].view(2, 64, 4, 8).transpose(1, 2)
    torch.testing.assert_close(attention_by_loop(q, k, v, seen.bool()), want, rtol=0, atol=1e-5)
    by_block = seen.bool()[:, ::4, ::4]  # (H, rows, blocks)
    counts = by_block.sum(-1)
    rows = range(2, 14)  # the rows between see globals, window and random blocks, all equally many
    assert (counts[:, 2:14] == counts[0, 2]).all()
    links = torch.stack([torch.stack([head[row].nonzero()[:, 0] for row in rows]) for head in by_block])
    got = attend_to_blocks(q[:, :, 8:56], k, v, links, causal=False)
    torch.testing.assert_close(got, want[:, :, 8:56], rtol=0, atol=1e-5)


def test_bigbirds_pattern_is_ours_but_for_the_future_and_its_last_block(oracle):
    """Prefix, window and r random blocks per row and head: the same kinds of links, theirs in both directions."""
    seen = oracle("bigbird")["seen"].bool()[:, ::4, ::4]
    rows = torch.arange(16)[:, None]
    prefix_and_window = (torch.arange(16) == 0) | ((rows - torch.arange(16)).abs() <= 1)
    assert seen[:, 2:14][:, prefix_and_window[2:14]].all()
    rest = seen[:, 2:14] & ~prefix_and_window[2:14] & (torch.arange(16) < 15)
    assert (rest.sum(-1) == 2).all()
