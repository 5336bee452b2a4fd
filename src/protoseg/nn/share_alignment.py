"""Pseudo-labels with the shares that the classes have on the labels.

Distribution alignment (ReMixMatch, Berthelot et al., ICLR 2020, arXiv 1911.09785) for hard labels: the mean probability of a
well trained network is right even where its arg-max is not, so it is the shares of the labels themselves that are aligned, as
DARS does it by thresholds (He, Yang, Qi, ICCV 2021, arXiv 2107.11279).

B images · C classes · H W crop
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from protoseg.functional.counts import class_counts
from protoseg.functional.processes import all_reduce_sum_


class ShareAlignment(nn.Module):
    """A bias on the teacher's logits, moved until each class has the share among pseudo-labels that it has among labels.

    A class that the network seldom dares to name (thin poles, small signs) is otherwise untaught by its own pseudo-labels:
    its pixels are confidently called something else.

    Args:
        pixels: (C,) labelled pixels of each class, of whole images: crops may have been drawn around rare classes.
        momentum: of the running share of the pseudo-labels, in [0, 1).
        rate: how fast the bias follows, in steps^-1. With the default momentum, 0.01 settles within some hundred steps
            and overshoots a little.
        limit: largest factor between the odds before and after.
    """

    wanted: Tensor  # (C,) share of the labels
    share: Tensor  # (C,) running share of the pseudo-labels
    bias: Tensor  # (C,) added to the logits

    def __init__(self, pixels: Sequence[int], *, momentum: float = 0.99, rate: float = 0.01, limit: float = 20.0) -> None:
        super().__init__()
        if not sum(pixels) > 0:
            raise ValueError("no pixel is labelled, so there are no shares to align with")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if not rate > 0 or not limit >= 1:
            raise ValueError(f"rate must be above 0 and limit at least 1, got {rate} and {limit}")
        self.num_classes, self.momentum, self.rate, self.limit = len(pixels), momentum, rate, limit
        counts = torch.tensor(pixels, dtype=torch.float64)
        self.register_buffer("wanted", (counts / counts.sum()).float(), persistent=False)
        self.register_buffer("share", torch.zeros(self.num_classes))
        self.register_buffer("bias", torch.zeros(self.num_classes))

    def forward(self, logits: Tensor) -> Tensor:
        """Align logits (B, C, H, W)."""
        return logits + self.bias[:, None, None]

    @torch.no_grad()
    def count(self, label: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pixels of each class, without a wait for the device.

        Args:
            label: (B, H, W) int64, IGNORE_INDEX counts nothing.
            valid: (B, H, W) bool, which pixels count; all when left out.

        Returns:
            (C,) float64.
        """
        return class_counts(label, self.num_classes, keep=valid).double()

    @torch.no_grad()
    def update(self, pseudo: Tensor) -> None:
        """Take in the counts of one step, summed over all processes, and move the bias.

        Args:
            pseudo: (C,) `count` of the aligned pseudo-labels. A step without a pixel moves nothing.
        """
        pseudo = pseudo.clone()
        all_reduce_sum_(pseudo)
        now = (pseudo / pseudo.sum().clamp(min=1)).to(self.share.dtype)
        first, any_pixel = self.share.sum() == 0, pseudo.sum() > 0
        moved = torch.where(first, now, torch.lerp(now, self.share, self.momentum))
        self.share.copy_(torch.where(any_pixel, moved, self.share))
        # One pixel in ten thousand on either side keeps the ratio finite, and a class without labels where it is.
        step = ((self.wanted + 1e-4) / (self.share + 1e-4)).log()
        self.bias.add_(self.rate * any_pixel * step).clamp_(-math.log(self.limit), math.log(self.limit))
