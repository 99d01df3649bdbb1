"""Feature maps, decay and gradients against flash-linear-attention's naive references: recorded, and live."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vgpt.attention.linear.chunked import batched, chunked_linear_attention
from vgpt.attention.linear.features import FEATURE_MAPS

GOLDEN = Path(__file__).parents[1] / "golden"


def ours(name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """The same by our own chunked form; unnormalized references scale queries by 1 / sqrt(D)."""
    scale = q.shape[-1] ** -0.5
    if name == "unnormalized":
        return scale * chunked_linear_attention(q, k, v, normalize=False, chunk_size=chunk_size)[0]
    if name == "retention":
        slopes = -torch.log1p(-(2.0 ** (-5.0 - torch.arange(q.shape[1]))))
        settings = {"feature_map": FEATURE_MAPS["identity"], "slopes": slopes, "normalize": False}
        return scale * chunked_linear_attention(q, k, v, chunk_size=chunk_size, **settings)[0]
    feature_map = FEATURE_MAPS["taylor2" if name == "based" else "elu1"]
    return chunked_linear_attention(q, k, v, feature_map=feature_map, chunk_size=chunk_size)[0]


NAMES = ["normalized", "unnormalized", "retention", "based"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_size", [16, 50, 100])
def test_outputs_equal_those_that_fla_gave(name, chunk_size):
    golden = load_file(GOLDEN / "fla_linear.safetensors")
    got = ours(name, golden["q"], golden["k"], golden["v"], chunk_size)
    torch.testing.assert_close(got, golden[name], rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_equal_those_of_fla(noise, name):
    if importlib.util.find_spec("fla") is None or importlib.util.find_spec("einops") is None:
        pytest.skip("needs fla-core and einops")
    spec = importlib.util.spec_from_file_location("make_fla_linear", GOLDEN / "make_fla_linear.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    q, k, v = (noise(2, 3, 192, 16, seed=i).requires_grad_() for i in range(3))
    want = maker.reference_outputs(q, k, v)[name]
    got = ours(name, q, k, v, 64)
    scale = want.detach().abs().max()
    torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad((got / scale).sin().sum(), (q, k, v)),
        torch.autograd.grad((want / scale).sin().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_batched_form_equals_the_recorded_outputs_too():
    golden = load_file(GOLDEN / "fla_linear.safetensors")
    got, _ = batched(golden["q"], golden["k"], golden["v"], None, None, FEATURE_MAPS["elu1"], 24, True, False)
    torch.testing.assert_close(got, golden["normalized"], rtol=1e-5, atol=1e-5)
