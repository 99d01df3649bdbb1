"""The learning rate's shape."""

import pytest

from vgpt.training.optimizer import learning_rate

PLAN = {"lr": 1.0, "min_lr": 0.1, "warmup_steps": 10, "max_steps": 110}


def test_warm_up_is_linear_and_its_first_step_moves():
    assert [learning_rate(step, **PLAN) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_half_a_cosine_leads_to_the_least_rate_at_the_last_step():
    assert learning_rate(59, **PLAN) == pytest.approx(0.55)
    assert learning_rate(109, **PLAN) == pytest.approx(0.1)
    rates = [learning_rate(step, **PLAN) for step in range(9, 110)]
    assert rates == sorted(rates, reverse=True)


def test_nothing_happens_beyond_the_end_or_without_room_for_a_cosine():
    assert learning_rate(500, **PLAN) == pytest.approx(0.1)
    assert learning_rate(3, lr=1.0, min_lr=0.1, warmup_steps=3, max_steps=3) == pytest.approx(0.1)


def test_without_warm_up_the_first_rate_is_near_the_highest():
    assert learning_rate(0, lr=1.0, min_lr=0.0, warmup_steps=0, max_steps=1000) == pytest.approx(1.0, abs=1e-5)
