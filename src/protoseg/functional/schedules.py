"""Numbers that change with the step. Pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math


def poly(step: int, total: int, *, power: float = 0.9, warmup: int = 0) -> float:
    """Polynomial learning-rate factor (1 - step / total) ** power, after an optional linear warm-up.

    Args:
        step: optimizer steps done so far, from 0.
        total: optimizer steps of the whole run, > 0.
        power: 0.9 in the paper and nearly all of the field.
        warmup: steps over which the factor first rises linearly.

    Returns:
        A factor in [0, 1]: 1 at step 0 without warm-up, 0 at step `total`.
    """
    decay: float = max(0.0, 1.0 - step / total) ** power
    return decay * min(1.0, (step + 1) / (warmup + 1))


def ema_momentum(step: int, *, momentum: float = 0.99, start: int = 0) -> float:
    """EMA momentum min(1 - 1 / (t + 1), momentum) with t = step - start; 0 (copy) before and at `start`.

    The ramp makes the early teacher the running mean of the students so far, not a memory of the random start.
    """
    t = max(0, step - start)
    return min(1.0 - 1.0 / (t + 1), momentum)


def triangle(step: int, length: int) -> float:
    """From 0 to 1 over the first half of `length` steps and back to 0 over the second; 0 outside.

    Args:
        step: from 0; the value is that of the step's middle.
        length: steps.
    """
    return 1.0 - abs(2 * (step + 0.5) / length - 1) if 0 <= step < length else 0.0


def sigmoid_rampup(step: int, length: int) -> float:
    """exp(-5 (1 - t)^2) with t = step / length, 1 from `length` on (Laine and Aila, ICLR 2017, arXiv 1610.02242).

    Args:
        step: from 0.
        length: steps until it reaches 1; 0 for no ramp.
    """
    return math.exp(-5.0 * (1.0 - step / length) ** 2) if step < length else 1.0
