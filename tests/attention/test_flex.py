"""FlexAttention, fed with the settings' one definition of who sees whom, against the plain formula.

On CPUs its forward pass runs without a compiler, which checks masks and scores; its kernel needs a GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vgpt.attention import flex
from vgpt.attention.backends import alibi_slopes, naive
from vgpt.attention.config import SoftmaxConfig
from vgpt.attention.flex import can_flex, flex_attend
from vgpt.attention.grammar import resolve_attention

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


class Staggered(SoftmaxConfig):
    """A window that differs by head and layer."""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < 3 + 5 * head + layer)


def mask_of(config, T: int, heads: int, layer: int = 0) -> torch.Tensor:
    q = torch.arange(T)
    return torch.stack([config.visible(q[:, None], q[None], layer, head) for head in range(heads)])


def qkv(noise, T: int, G: int = 4, **options):
    return [noise(2, heads, T, 16, seed=i, **options) for i, heads in enumerate((4, G, G))]


@pytest.mark.parametrize("extra", ["plain", "sinks", "slopes", "both"])
@pytest.mark.parametrize("T", [1, 7, 150])
@pytest.mark.parametrize("G", [1, 2, 4])
def test_it_computes_the_formula_over_the_visible_keys(noise, extra, T, G):
    config, inputs = Staggered(), qkv(noise, T, G)
    more = {"scale": 0.3}
    if extra in ("sinks", "both"):
        more["sinks"] = noise(4, seed=7)
    if extra in ("slopes", "both"):
        more["slopes"] = alibi_slopes(4)
    got = flex_attend(*inputs, config.visible, layer=2, per_head=True, **more)
    want = naive(*inputs, mask_of(config, T, 4, layer=2), **more)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [1, 5, 64, 128, 1000])
def test_the_window_of_local_attention_is_the_same_there(noise, window):
    config, inputs = resolve_attention({"kind": "local", "window_size": window}), qkv(noise, 200)
    got = flex_attend(*inputs, config.visible)
    torch.testing.assert_close(got, naive(*inputs, mask_of(config, 200, 1)), rtol=0, atol=2e-6)


def test_a_mask_is_made_once_per_length(noise, monkeypatch):
    made = []
    make = flex.create_block_mask
    monkeypatch.setattr(flex, "create_block_mask", lambda *a, **more: made.append(a[3]) or make(*a, **more))
    config = Staggered()
    for T in (5, 5, 6, 5):
        flex_attend(*qkv(noise, T), config.visible)
    assert made == [5, 6]


def test_masks_made_while_sampling_serve_training_afterwards(noise):
    config, inputs = Staggered(), qkv(noise, 5)
    with torch.inference_mode():
        flex_attend(*inputs, config.visible)
    flex_attend(*inputs, config.visible)


def test_a_compiler_sees_through_it(noise):
    config, inputs = Staggered(), qkv(noise, 150)
    sinks, slopes = noise(4, seed=7), alibi_slopes(4)

    def attention(q, k, v):
        return flex_attend(q, k, v, config.visible, per_head=True, sinks=sinks, slopes=slopes)

    got = torch.compile(attention, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close(got, attention(*inputs), rtol=0, atol=1e-6)


def test_cpus_and_heads_too_narrow_for_the_kernel_are_not_served():
    assert not can_flex(torch.zeros(1, 1, 1, 64))
    with FakeTensorMode():
        for width, served in ((8, False), (15, False), (16, True), (64, True)):
            assert can_flex(torch.empty(1, 1, 1, width, device="cuda")) is served
        assert not can_flex(torch.empty(1, 1, 1, 64, device="cuda", dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extra", ["plain", "sinks", "slopes", "both"])
@pytest.mark.parametrize("window", [5, 128, 200])
def test_the_kernel_equals_the_formula_with_its_gradients(noise, dtype, extra, window):
    config = resolve_attention({"kind": "local", "window_size": window})
    inputs = [x.to("cuda", dtype).requires_grad_() for x in qkv(noise, 500)]
    more = {}
    if extra in ("sinks", "both"):
        more["sinks"] = noise(4, seed=7).cuda()
    if extra in ("slopes", "both"):
        more["slopes"] = alibi_slopes(4, "cuda")
    weight = noise(2, 4, 500, 16, seed=9).cuda()
    got = flex_attend(*inputs, config.visible, **more)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    want = naive(*exact, mask_of(config, 500, 1).cuda(), **more)
    tolerance = 3e-2 if dtype is torch.bfloat16 else 1e-2  # float32 products may be TF32
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance)
    ours, theirs = torch.autograd.grad((got * weight).sum(), inputs), torch.autograd.grad((want * weight).sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).norm() < 2e-2 * b.norm()
