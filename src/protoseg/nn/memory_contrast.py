"""The contrast of U2PL (Wang et al., CVPR 2022, arXiv 2203.03884): unreliable pixels still say what a class is not.

N pixels · D feature channels · C classes · Q keys kept of each class · A anchors, M negatives of each
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.functional.counts import class_counts
from protoseg.functional.losses import masked_mean
from protoseg.functional.processes import all_gather_rows
from protoseg.types import IGNORE_INDEX

LOW_RANK, HIGH_RANK, NUM_RANKED = 3, 20, 20  # sec. 4.1 of the paper, for the 21 and 19 classes of its data


class MemoryContrast(nn.Module):
    """Pull pixels to the mean of their class, push them from the newest pixels that might have been taken for that class.

    A class takes part once it has an anchor, an example and a key.

    Args:
        feature_channels: D.
        num_classes: C.
        queue_size: Q. 30,000 in the paper, of all pixels of a feature map; this fits a tenth of them, and the GPU.
        num_anchors: A, drawn of each class with replacement; 256 in the paper.
        num_negatives: M, drawn for each anchor with replacement; 50 in the paper.
        temperature: divides the cosine; 0.5 in the paper.

    Raises:
        ValueError: a number is out of range.
    """

    queue: Tensor  # (C, Q, D) float32 of unit length, a ring for each class
    arrived: Tensor  # (C,) int64 keys so far

    def __init__(
        self,
        feature_channels: int,
        num_classes: int,
        *,
        queue_size: int = 2048,
        num_anchors: int = 256,
        num_negatives: int = 50,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if min(feature_channels, num_classes, queue_size, num_anchors, num_negatives) < 1:
            raise ValueError(
                "feature_channels, num_classes, queue_size, num_anchors and num_negatives must be at least 1, got "
                f"{feature_channels}, {num_classes}, {queue_size}, {num_anchors} and {num_negatives}"
            )
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.num_classes, self.queue_size, self.temperature = num_classes, queue_size, temperature
        self.num_anchors, self.num_negatives = num_anchors, num_negatives
        self.register_buffer("queue", torch.zeros(num_classes, queue_size, feature_channels))
        self.register_buffer("arrived", torch.zeros(num_classes, dtype=torch.int64))

    def forward(self, features: Tensor, label: Tensor, example: Tensor, example_label: Tensor, uniform: Tensor) -> Tensor:
        """InfoNCE: the mean over classes and anchors of -log(e^(z.p/T) / (e^(z.p/T) + sum_m e^(z.n_m/T))), by cosine.

        Args:
            features: (N, D) of the student, any pixels.
            label: (N,) int64 class of those that may be anchors, IGNORE_INDEX elsewhere.
            example: (any, D) of the teacher: a class's positive is the mean of its own.
            example_label: of these, in the same way.
            uniform: (C, A, 1 + M) numbers in [0, 1): which anchor, and which negatives it gets.

        Returns:
            Scalar; 0 when no class takes part. The gradient reaches `features` alone.
        """
        with torch.autocast(features.device.type, enabled=False):
            index, num_candidates = draw_by_class(label, uniform[..., 0], self.num_classes)
            anchor = F.normalize(features.float()[index], dim=-1)  # (C, A, D)
            mean, num_examples = class_means(example.detach().float(), example_label, self.num_classes)
            held = self.arrived.clamp(max=self.queue_size)
            which = (uniform[..., 1:] * held[:, None, None]).long()
            which = torch.minimum(which, (held - 1).clamp(min=0)[:, None, None])  # float rounding may reach `held`
            # All cosines first: the few that are drawn, as vectors, would take (C, A, M, D).
            negative = (anchor @ self.queue.transpose(1, 2)).gather(2, which)  # (C, A, M)
            positive = anchor @ F.normalize(mean, dim=-1)[:, :, None]  # (C, A, 1)
            logits = torch.cat([positive, negative], dim=2) / self.temperature
            loss = (logits.logsumexp(dim=2) - logits[..., 0]).mean(dim=1)  # (C,)
            return masked_mean(loss, (num_candidates > 0) & (num_examples > 0) & (held > 0))

    @torch.no_grad()
    def update(self, features: Tensor, member: Tensor) -> None:
        """Append keys, those of all processes in their order; the oldest go. Every process brings as many pixels.

        Args:
            features: (N, D) of the teacher.
            member: (N, C) bool, of which classes a pixel is a negative.
        """
        features = F.normalize(all_gather_rows(features.float()), dim=-1)
        member = all_gather_rows(member.to(torch.uint8)).bool()
        place = torch.arange(self.queue_size, device=features.device)
        for c in range(self.num_classes):  # one at a time: together they would need the queue's memory again
            so_far = member[:, c].cumsum(dim=0)  # (N,)
            first = (place - self.arrived[c]) % self.queue_size  # (Q,) number of the first new key that comes to a place
            last = first + (so_far[-1] - 1 - first).div(self.queue_size, rounding_mode="floor") * self.queue_size
            source = torch.searchsorted(so_far, last + 1).clamp(max=len(features) - 1)  # no selection, no wait for a count
            self.queue[c] = torch.where((first < so_far[-1])[:, None], features[source], self.queue[c])
        self.arrived += member.sum(dim=0)

    def extra_repr(self) -> str:
        return f"{self.queue.shape[2]}, {self.num_classes}, queue_size={self.queue_size}, temperature={self.temperature}"


def draw_by_class(label: Tensor, uniform: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Draw pixels of each class with replacement.

    Args:
        label: (N,) int64 in [0, C) or IGNORE_INDEX.
        uniform: (C, A) numbers in [0, 1).
        num_classes: C.

    Returns:
        index (C, A) int64 into the pixels, any where the class has none, and count (C,) of its pixels.
    """
    slot = torch.where(label == IGNORE_INDEX, num_classes, label)
    order = slot.argsort(stable=True)
    count = class_counts(label, num_classes)
    first = (count.cumsum(0) - count)[:, None]
    drawn = torch.minimum((uniform * count[:, None]).long(), (count - 1).clamp(min=0)[:, None])
    return order[(first + drawn).clamp(max=len(label) - 1)], count


def class_means(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The mean of each class: features (N, D), label (N,) -> (C, D), zero where there is none, and the count (C,)."""
    slot = torch.where(label == IGNORE_INDEX, num_classes, label)
    total = features.new_zeros(num_classes + 1, features.shape[1]).index_add_(0, slot, features)[:-1]
    count = class_counts(label, num_classes).to(features.dtype)
    return total / count.clamp(min=1)[:, None], count


def negative_ranks(num_classes: int) -> tuple[int, int]:
    """Ranks [low, high) among a pixel's classes from which it is a negative of a class.

    The paper's [3, 20) says "not one of the three likeliest of some twenty". With fewer classes the likeliest are as large a
    share of them, at least one, so that two classes have [1, 2): an unreliable pixel is a negative of the one that it is not
    called (the authors advise 1 for two classes too).
    """
    return max(1, round(LOW_RANK * min(num_classes, NUM_RANKED) / NUM_RANKED)), min(HIGH_RANK, num_classes)


def negative_members(logits: Tensor, label: Tensor, unreliable: Tensor, *, ranks: tuple[int, int]) -> Tensor:
    """Of which classes pixels are negatives.

    A labelled pixel: of the likeliest classes that are not its own. An unreliable one: of those that it might be, but for the
    likeliest, which it is too often, and the last, from which it can be told anyway.

    Args:
        logits: (N, C) of the teacher.
        label: (N,) int64 of labelled pixels, IGNORE_INDEX elsewhere.
        unreliable: (N,) bool, unlabelled pixels whose pseudo-label was dropped.
        ranks: [low, high).

    Returns:
        (N, C) bool.
    """
    rank = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (N, C), 0 for the likeliest class
    low, high = ranks
    classes = torch.arange(logits.shape[1], device=logits.device)
    mistaken = (label != IGNORE_INDEX)[:, None] & (label[:, None] != classes) & (rank < low)
    return mistaken | (unreliable[:, None] & (rank >= low) & (rank < high))
