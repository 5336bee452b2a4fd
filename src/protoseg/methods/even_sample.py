"""A sample of a stream that is too long to hold: what the prototypes start from.

N points · D feature channels · C classes
"""

from __future__ import annotations

import torch
from torch import Tensor


class EvenSample:
    """At most so many points of each class out of a stream of any length, evenly spaced, so that every image keeps its share.

    It never holds more than twice as many: every s-th member of a class is kept, and where they become too many, every second
    of these goes and s doubles.

    Args:
        num_classes: C.
        most: points of each class.
    """

    def __init__(self, num_classes: int, *, most: int) -> None:
        self.most = most
        self.kept: list[Tensor] = [torch.empty(0)] * num_classes  # (n, D) each, once there was a batch
        self.every, self.seen = [1] * num_classes, [0] * num_classes

    def add(self, features: Tensor, label: Tensor) -> None:
        """Take in points: features (N, D), label (N,) int64. Any other value than a class counts nothing, nor do features that
        are no numbers."""
        usable = torch.isfinite(features).all(dim=1)
        for c, kept in enumerate(self.kept):
            members = features[usable & (label == c)]
            new = members[-self.seen[c] % self.every[c] :: self.every[c]]
            self.seen[c] += len(members)
            kept = torch.cat([kept.view(-1, features.shape[1]).to(features), new])
            while len(kept) > 2 * self.most:
                kept, self.every[c] = kept[::2].clone(), 2 * self.every[c]  # a slice would keep the rest alive
            self.kept[c] = kept

    def taken(self) -> tuple[Tensor, Tensor]:
        """The points: features (n, D) and label (n,)."""
        parts = [kept[:: -(-len(kept) // self.most) or 1] for kept in self.kept]
        label = [torch.full((len(kept),), c, device=kept.device) for c, kept in enumerate(parts)]
        return torch.cat(parts), torch.cat(label)
