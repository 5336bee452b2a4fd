"""Cross-entropy whose class weights go where the network goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from protoseg.functional.losses import cross_entropy


class BalancedCrossEntropy(nn.Module):
    """Mean cross-entropy in which a pixel counts by its class.

    Args:
        class_weight: of each class, e.g. from `functional.losses.class_weights`.

    Shape:
        logits (B, C, H, W), mask (B, H, W) -> scalar; 0 where everything is ignored.
    """

    class_weight: Tensor  # (C,)

    def __init__(self, class_weight: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("class_weight", torch.tensor(class_weight, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return cross_entropy(logits, mask, self.class_weight)
