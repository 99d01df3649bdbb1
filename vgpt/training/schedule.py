"""The learning rate as a pure function of the step."""

import math


def learning_rate(step: int, *, lr: float, min_lr: float, warmup_steps: int, max_steps: int) -> float:
    """Return the rate of update `step`, counted from 0: linear warm-up, then half a cosine from `lr` to `min_lr`.

    The first update already moves (lr / warmup_steps), and `lr` is reached at step `warmup_steps - 1`. The last step,
    `max_steps - 1`, uses `min_lr`; so does any later one.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step + 1 - warmup_steps) / max(1, max_steps - warmup_steps)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * min(1.0, progress)))
