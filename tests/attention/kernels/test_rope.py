"""Rotary positions: the rotation of the paper, written as complex numbers."""

import pytest
import torch

from vgpt.attention.kernels import rope
from vgpt.attention.kernels.rope import apply_rotary, rotary_tables

CPU = torch.device("cpu")


def by_complex_numbers(x: torch.Tensor, start: int, base: float) -> torch.Tensor:
    T, D = x.shape[1], x.shape[-1]
    pairs = torch.complex(x[..., : D // 2], x[..., D // 2 :])
    theta = base ** (-2 * torch.arange(D // 2, dtype=torch.float64) / D)
    angles = torch.arange(start, start + T, dtype=torch.float64)[:, None] * theta
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), -1)


@pytest.mark.parametrize("start", [0, 5, 300])
@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_rotation_is_multiplication_by_a_unit_complex_number(noise, start, base):
    x = noise(2, 7, 3, 8, dtype=torch.float64)
    got = apply_rotary(x, *rotary_tables(start, 7, 8, base, CPU))
    torch.testing.assert_close(got, by_complex_numbers(x, start, base), rtol=0, atol=2e-5)


def test_scores_depend_on_distance_only(noise):
    q, k = noise(1, 1, 1, 16, seed=1), noise(1, 1, 1, 16, seed=2)

    def score(i: int, j: int) -> float:
        query = apply_rotary(q, *rotary_tables(i, 1, 16, 1e4, CPU))
        return float((query * apply_rotary(k, *rotary_tables(j, 1, 16, 1e4, CPU))).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def test_tables_stay_exact_when_they_grow():
    rope._tables.clear()
    short = rotary_tables(250, 3, 8, 1e4, CPU)[0]
    rotary_tables(900, 200, 8, 1e4, CPU)
    assert torch.equal(short, rotary_tables(250, 3, 8, 1e4, CPU)[0])
    assert {capacity for _, _, capacity, *_ in rope._tables} == {256, 2048}


def test_tables_made_while_sampling_serve_training_afterwards(noise):
    rope._tables.clear()
    with torch.inference_mode():
        rotary_tables(0, 5, 8, 1e4, CPU)
    x = noise(1, 5, 2, 8).requires_grad_()
    apply_rotary(x, *rotary_tables(0, 5, 8, 1e4, CPU)).sum().backward()
    assert x.grad is not None


def test_bfloat16_is_rotated_in_float32(noise):
    x = noise(1, 5, 2, 8).bfloat16()
    got = apply_rotary(x, *rotary_tables(1000, 5, 8, 1e4, CPU))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, apply_rotary(x.float(), *rotary_tables(1000, 5, 8, 1e4, CPU)).bfloat16())
