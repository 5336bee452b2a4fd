"""Labelled crops around rare classes (rare class sampling, Hoyer, Dai, Van Gool, CVPR 2022, arXiv 2111.14887).

C classes · H W image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from protoseg.data.sampler import Draw
from protoseg.functional.random import generator

TEMPERATURE = 0.01  # in the paper, on Cityscapes: classes below some per cent of the pixels are about equally likely


class RareCrops:
    """Now and then put an image with a rare class in the place of the one whose turn it is.

    A class with share f of the labelled pixels is drawn with a probability proportional to exp((1 - f) / TEMPERATURE), then
    an image that holds it, then a pixel of it, which the crop has to contain.

    Args:
        held: for each image, class id -> labelled pixels.
        num_classes: C.
        probability: that a draw is replaced, in [0, 1].

    Raises:
        ValueError: the probability is none, or no pixel is labelled.
    """

    def __init__(self, held: Sequence[Mapping[int, int]], num_classes: int, *, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        pixels = torch.tensor([float(sum(image.get(c, 0) for image in held)) for c in range(num_classes)], dtype=torch.float64)
        if not pixels.sum():
            raise ValueError("no pixel is labelled, so no class is rare")
        self.probability = probability
        self.images = [[i for i, image in enumerate(held) if image.get(c, 0)] for c in range(num_classes)]
        rareness = (1 - pixels / pixels.sum()) / TEMPERATURE
        self.chance = torch.where(pixels > 0, rareness, -torch.inf).softmax(dim=0)  # (C,)

    def replace(self, draw: Draw) -> tuple[int, int | None]:
        """The image to crop, and the class to crop it around, if any: a function of the draw's seed."""
        coins = generator(draw.seed, "rare class")
        replaced, place = torch.rand(2, generator=coins, dtype=torch.float64).tolist()
        if replaced >= self.probability:
            return draw.image, None
        c = int(torch.multinomial(self.chance, 1, generator=coins))
        return self.images[c][int(place * len(self.images[c]))], c


def pixel_of(label: Tensor, c: int, *, seed: int) -> tuple[int, int] | None:
    """A random pixel (row, column) of a class in a mask (H, W); None where there is none."""
    found = (label == c).nonzero()
    if not len(found):
        return None
    row, column = found[int(torch.randint(len(found), (1,), generator=generator(seed, "rare pixel")))].tolist()
    return row, column
