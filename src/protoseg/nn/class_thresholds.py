"""A threshold for each class, by how sure the teacher usually is of it.

FreeMatch (Wang et al., ICLR 2023, arXiv 2205.07246) scales a threshold by the mean probability of each class over that of
the largest. In segmentation that mean is little else than the share of the class, and would let everything pass that is rare.
Here it is the mean confidence of the pixels that are called the class.

B images · C classes · H W crop
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoseg.functional.counts import class_counts, class_totals
from protoseg.functional.processes import all_reduce_sum_
from protoseg.types import PseudoLabel


class ClassThresholds(nn.Module):
    """Factors on the threshold, at most 1: the class that the teacher is surest of has the whole threshold.

    Args:
        num_classes: C.
        momentum: of the running mean confidence, in [0, 1).
    """

    confidence: Tensor  # (C,) running mean confidence of the pixels that are called the class; 1 before the first

    def __init__(self, num_classes: int, *, momentum: float = 0.99) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.num_classes, self.momentum = num_classes, momentum
        self.register_buffer("confidence", torch.ones(num_classes))

    def forward(self) -> Tensor:
        """(C,) factors in (0, 1]."""
        return self.confidence / self.confidence.max()

    @torch.no_grad()
    def count(self, pseudo: PseudoLabel) -> Tensor:
        """What `update` needs of one batch: (2, C) float64, confidence and number of the valid pixels of each class."""
        total = class_totals(pseudo.label, pseudo.confidence, self.num_classes, keep=pseudo.valid)
        return torch.stack([total, class_counts(pseudo.label, self.num_classes, keep=pseudo.valid).double()])

    @torch.no_grad()
    def update(self, count: Tensor) -> None:
        """Take in the `count` of one step, summed over all processes. A class without pixels stays as it is."""
        count = count.clone()
        all_reduce_sum_(count)
        total, number = count
        now = (total / number.clamp(min=1)).to(self.confidence.dtype)
        self.confidence.copy_(torch.where(number > 0, torch.lerp(now, self.confidence, self.momentum), self.confidence))
