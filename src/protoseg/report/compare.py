"""Is the difference between two models more than the choice of test images? And how to say it.

I images · C classes · B draws
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoseg.engine.tally import Pixels, Tally
from protoseg.words import counted

DRAWS = 2000
"""Of the bootstrap: the ends of a 95 % interval move by less than a tenth of its width from seed to seed."""
FEW = 20
"""With fewer images an interval from resampling is too narrow."""
_AT_ONCE = 64  # draws: bounds the memory


class Interval(NamedTuple):
    """Attributes: ends of the interval, in units of mIoU."""

    low: float
    high: float


def mean_iou(pixels: Pixels, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """mIoU of a data set in which each image occurs `weight` times.

    Args:
        pixels: (I, C) each.
        weight: (B, I).

    Returns:
        (B,) mean IoU over the classes that occur in truth or prediction; NaN where none does.
    """
    hit, truth, predicted = (weight @ part.astype(np.float64) for part in pixels)  # (B, C)
    union = truth + predicted - hit
    there = union > 0
    part = np.divide(hit, union, out=np.zeros_like(hit), where=there)
    count = there.sum(1)
    mean: NDArray[np.float64] = np.divide(part.sum(1), count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def paired_bootstrap(ours: Pixels, theirs: Pixels, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95) -> Interval:
    """Interval of the gain in mIoU over redraws of the images, the same images for both models.

    Args:
        ours, theirs: (I, C) each, of the same images in the same order.
        draws: B.
        seed: of the draws.
        level: share of the redraws inside the interval.
    """
    generator, number = np.random.default_rng(seed), len(ours.hit)
    gains = []
    for start in range(0, draws, _AT_ONCE):
        shape = (min(_AT_ONCE, draws - start), number)
        drawn = generator.integers(0, number, shape)
        weight = np.stack([np.bincount(row, minlength=number) for row in drawn]).astype(np.float64)  # (B, I)
        gains.append(mean_iou(ours, weight) - mean_iou(theirs, weight))
    low, high = np.nanquantile(np.concatenate(gains), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def gain_interval(ours: Tally | None, theirs: Tally | None) -> Interval | None:
    """Of two models; None where they were not scored on the same two images or more."""
    if ours is None or theirs is None or ours.names != theirs.names or len(ours.names) < 2:
        return None
    return paired_bootstrap(ours.pixels, theirs.pixels)


class Verdict(NamedTuple):
    """Attributes: the sentence to read first; what it rests on; whether unlabelled images helped (1), hurt (-1), or neither."""

    headline: str
    basis: str
    sign: int = 0


def verdict(gain: float | None, interval: Interval | None, *, images: int, why_not: str = "run with --baseline") -> Verdict:
    """What the unlabelled images did, in plain words.

    Args:
        gain: difference of mIoU to the labels-only model; None where there is none.
        interval: of the gain.
        images: that both were scored on.
        why_not: there is no gain.
    """
    if gain is None:
        return Verdict(f"not compared: {why_not}", "")
    points = signed(gain)
    if interval is None:
        return Verdict(
            f"{points} points against labels only, and nothing says how sure that is",
            "No interval: what each test image contributes was not kept, or was not of the same images. "
            "protoseg report RUN DATA scores both models again and gives it. One seed: repeat with others before you trust it.",
        )
    low, high = interval
    basis = (
        f"95 % interval {signed(low)} to {signed(high)} points: paired bootstrap over {counted(images, 'test image')}. "
        "One seed: this does not include run-to-run variation, so repeat with other seeds before you trust it."
    )
    if images < FEW:
        basis += f" With fewer than {FEW} images such an interval is too narrow."
    if low > 0:
        return Verdict(f"the unlabelled images helped: {points} points", basis, 1)
    if high < 0:
        return Verdict(f"the unlabelled images hurt: {points} points", basis, -1)
    return Verdict(f"no clear difference: {points} points against labels only", basis)


def signed(share: float) -> str:
    """A difference of shares in points, with its sign; a true minus, which is as wide as the plus."""
    text = f"{100 * share:+.1f}"
    return "±0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "\N{MINUS SIGN}")
