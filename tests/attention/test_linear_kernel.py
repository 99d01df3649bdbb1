"""The GPU's kernel of a step of linear attention: by Triton's interpreter where there is no GPU."""

import pytest
import torch

from vgpt.attention.kernels.scores import alibi_slopes
from vgpt.attention.linear.features import FEATURE_MAPS
from vgpt.attention.linear.recurrent import recurrent_step

pytest.importorskip("triton")
from vgpt.attention.linear.step_kernel import recurrent_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("D", "V"), [(8, 8), (12, 12), (64, 64), (5, 1), (3, 40)])
@pytest.mark.parametrize(
    ("name", "normalize", "forgets"),
    [
        ("elu1", True, False),
        ("elu1", True, True),
        ("relu", True, False),
        ("relu", False, True),
        ("identity", False, False),
    ],
)
def test_steps_of_the_kernel_are_those_of_plain_operations(D, V, name, normalize, forgets):
    generator = torch.Generator().manual_seed(D + V)
    B, H, columns = 2, 3, V + normalize
    slopes = alibi_slopes(H, DEVICE) if forgets else None
    plain = torch.zeros(B, H, D, columns + 1, device=DEVICE)[..., :columns]  # a part of something wider
    other = plain.clone()
    for _ in range(4):
        # Heads as a projection hands them out: side by side.
        heads = torch.empty(B, 1, H, 2 * D + V).normal_(generator=generator).to(DEVICE).transpose(1, 2)
        q, k, v = heads.split([D, D, V], -1)
        want = recurrent_step(q, k, v, plain, feature_map=FEATURE_MAPS[name], slopes=slopes, normalize=normalize)
        got = recurrent_kernel(q, k, v, other, feature_map=name, slopes=slopes, normalize=normalize)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(other, plain, atol=2e-5, rtol=2e-5)


def test_half_precision_values_are_rounded_once_at_the_end():
    q, k, v = (torch.randn(1, 2, 1, 16, generator=torch.Generator().manual_seed(n)).to(DEVICE) for n in range(3))
    half = [x.bfloat16() for x in (q, k, v)]
    states = [torch.ones(1, 2, 16, 17, device=DEVICE) for _ in range(2)]
    options = {"feature_map": "elu1", "slopes": None, "normalize": True}
    got = recurrent_kernel(*half, states[0], **options)
    want = recurrent_kernel(*(x.float() for x in half), states[1], **options)
    torch.testing.assert_close(got.float(), want, atol=1e-6, rtol=2**-7)  # the interpreter rounds toward zero
    assert torch.equal(*states)
