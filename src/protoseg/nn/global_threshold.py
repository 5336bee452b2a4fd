"""One threshold for all classes that rises with what the teacher is surest of (CorrMatch, CVPR 2024, arXiv 2306.04300).

B images · C classes · H W crop
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoseg.functional.losses import masked_mean
from protoseg.functional.processes import all_reduce_max_
from protoseg.types import IGNORE_INDEX, PseudoLabel


class GlobalThreshold(nn.Module):
    """A running mean of the highest confidence of a class, over the classes that occur.

    Args:
        num_classes: C.
        start: its first value; 0.85 in the paper.
        momentum: in [0, 1); 0.999 in the paper.

    Raises:
        ValueError: a number is out of range.
    """

    value: Tensor  # scalar float32

    def __init__(self, num_classes: int, *, start: float = 0.85, momentum: float = 0.999) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not 0 <= start <= 1:
            raise ValueError(f"start is a probability in [0, 1], got {start}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.num_classes, self.momentum = num_classes, momentum
        self.register_buffer("value", torch.tensor(start))

    def forward(self) -> Tensor:
        """The threshold, a scalar in [0, 1]."""
        return self.value

    @torch.no_grad()
    def highest(self, pseudo: PseudoLabel) -> Tensor:
        """What `update` needs of one batch: (C,) highest confidence of the valid pixels called each class, 0 for none."""
        known = pseudo.valid & (pseudo.label != IGNORE_INDEX)
        slot = torch.where(known, pseudo.label, self.num_classes).flatten()
        highest = pseudo.confidence.new_zeros(self.num_classes + 1)
        return highest.scatter_reduce_(0, slot, pseudo.confidence.flatten(), "amax")[:-1]

    @torch.no_grad()
    def update(self, highest: Tensor) -> None:
        """Take in the `highest` of one step, of all processes. A step without pixels changes nothing."""
        highest = highest.clone()
        all_reduce_max_(highest)
        present = highest > 0
        now = masked_mean(highest, present).to(self.value.dtype)
        self.value.copy_(torch.where(present.any(), torch.lerp(now, self.value, self.momentum), self.value))
