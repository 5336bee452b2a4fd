"""The prototype term of arXiv 2210.04388 as a part that any method can own.

B images · D feature channels · H W crop · P points per image · N = B * P · C classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from protoseg.functional.points import read_features, read_pixels, sample_points
from protoseg.functional.random import uniform
from protoseg.methods.base import LabeledPass
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.types import SegOutput


class PrototypeCarry(NamedTuple):
    """What the update after the step needs, detached."""

    features: Tensor  # (N, D)
    label: Tensor  # (N,)
    nearest: Tensor  # (N, C)
    weight: Tensor  # (N,) bool


class PrototypeTermOutput(NamedTuple):
    labeled: Tensor  # scalar loss on labelled points
    consistency: Tensor  # scalar loss on unlabelled points
    agreement: Tensor  # share of counting points where the nearest prototype is of the (pseudo-)label's class
    carry: PrototypeCarry


class PrototypeTerm(nn.Module):
    """Ask the prototype predictor for the label too, at a few random pixels of each image.

    Args:
        head: the prototypes.
        grid: one random pixel in each cell of a grid x grid grid; 32 in the paper.
        shared_points: the same pixels for all images of a batch, as in the authors' code, instead of new ones for each.
        fit_start: start with k-means; False keeps what `head.assign` was given.
        fit_points: most pixels of a class that k-means starts from.
    """

    def __init__(
        self,
        head: PrototypeHead,
        *,
        grid: int = 32,
        shared_points: bool = False,
        fit_start: bool = True,
        fit_points: int = 4096,
    ) -> None:
        super().__init__()
        if grid < 1 or fit_points < 1:
            raise ValueError(f"grid and fit_points must be at least 1, got {grid} and {fit_points}")
        self.head, self.grid, self.fit_points = head, grid, fit_points
        self.shared_points, self.fit_start = shared_points, fit_start

    def forward(
        self, out: SegOutput, label: Tensor, weight: Tensor, valid: Tensor | None, seed: Tensor, *, num_labeled: int
    ) -> PrototypeTermOutput:
        """Compute both prototype losses of a batch whose first `num_labeled` images are labelled.

        Args:
            out: of the student.
            label: (B, H, W) int64: truth, then pseudo-labels.
            weight: (B, H, W) bool: which pixels teach.
            valid: (B, H, W) bool: which pixels the unlabelled half is averaged over; None for those that teach.
            seed: (B,) of the images.
            num_labeled: how many images are labelled.

        Returns:
            PrototypeTermOutput. Labelled points are averaged over those that count, unlabelled ones over all valid ones.
        """
        points = self._points(seed, (label.shape[-2], label.shape[-1]), label.device)  # (B, P, 2)
        features = read_features(out.features, points, out.covers, align_corners=out.align_corners)  # (B, P, D)
        per_image = points.shape[1]
        split = num_labeled * per_image
        features = features.flatten(0, 1)  # (N, D)
        label, weight = read_pixels(label, points).flatten(), read_pixels(weight, points).flatten()  # (N,) each
        denominator = None if valid is None else read_pixels(valid, points).flatten()[split:].sum()
        logits, nearest = self.head.compare(features)
        labeled = self.head.loss(logits[:split], label[:split], weight[:split])
        consistency = self.head.loss(logits[split:], label[split:], weight[split:], denominator=denominator)
        agreement = ((logits.argmax(dim=1) == label) & weight).sum() / weight.sum().clamp(min=1)
        carry = PrototypeCarry(features.detach(), label, nearest, weight)
        return PrototypeTermOutput(labeled, consistency, agreement.detach(), carry)

    @torch.no_grad()
    def start(self, network: nn.Module, labeled: LabeledPass, *, seed: int = 0) -> None:
        """Start the prototypes by k-means on features of labelled crops, read in eval mode.

        Args:
            network: the student.
            labeled: a pass over labelled crops.
            seed: of k-means.

        Raises:
            ValueError: the pass brings no crop.
        """
        if not self.fit_start and not self.head.class_prior:
            return
        training = network.training
        network.eval()
        features, label = [], []
        try:
            for batch in labeled():
                out: SegOutput = network(batch.image)
                points = self._points(batch.seed, (batch.mask.shape[-2], batch.mask.shape[-1]), batch.mask.device)
                read = read_features(out.features, points, out.covers, align_corners=out.align_corners)
                features.append(read.flatten(0, 1))
                label.append(read_pixels(batch.mask, points).flatten())
        finally:
            network.train(training)
        if not features:
            raise ValueError("prototypes start from labelled crops, and the pass over them brought none")
        labels = torch.cat(label)
        self.head.set_prior(labels)
        if self.fit_start:
            self.head.fit(*self._cap(torch.cat(features), labels), seed=seed)

    def update(self, carries: Sequence[PrototypeCarry]) -> None:
        """Move the prototypes by all points since the last optimizer step."""
        if carries:
            features, label, nearest, weight = (torch.cat(parts) for parts in zip(*carries, strict=True))
            self.head.update(features, label, nearest, weight=weight)

    def _points(self, seed: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
        if self.shared_points:
            seed = seed[:1].expand_as(seed)
        return sample_points(uniform(seed, "points", self.grid**2, 2, device=device), size, grid=self.grid)

    def _cap(self, features: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Keep at most `fit_points` of each class, evenly spaced, so that every image keeps its share."""
        keep = []
        for c in range(self.head.num_classes):
            members = (label == c).nonzero().flatten()
            step = max(1, -(-len(members) // self.fit_points))
            keep.append(members[::step])
        index = torch.cat(keep)
        return features[index], label[index]
