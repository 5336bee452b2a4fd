"""The prototype-based predictor of arXiv 2210.04388: a class is the nearest of its K prototypes.

N pixels · D feature channels · C classes · K prototypes per class · B images · h w feature map
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.functional.clustering import spherical_kmeans
from protoseg.functional.counts import prototype_slot
from protoseg.functional.losses import global_mean
from protoseg.functional.processes import all_reduce_sum_, broadcast_
from protoseg.functional.random import generator
from protoseg.functional.unit_length import unit_length
from protoseg.types import IGNORE_INDEX


class PrototypeOutput(NamedTuple):
    logits: Tensor  # (N, C) max over K of cosine / temperature; the lowest float for a class without prototypes yet
    nearest: Tensor  # (N, C) int64 in [0, K): the prototype of each class that gave the maximum


class PrototypeHead(nn.Module):
    """K cosine prototypes per class. Nothing is learned by gradient: features are pulled to prototypes, prototypes are moved
    to the mean of the pixels that chose them.

    A class without a single pixel so far has no prototypes (`ready` is False): its logit is the lowest float, and `loss`
    leaves out pixels that carry its label. It starts with the first pixels that `update` brings.

    Args:
        feature_channels: D.
        num_classes: C.
        per_class: K, 4 for Pascal VOC and 3 for Cityscapes in the paper.
        temperature: divides the cosine, 0.1 in the paper.
        momentum: of the moving average, 0.99 in the paper.
        unit_features: average unit-length features and keep prototypes at unit length, so that bright features do not
            weigh more. The paper averages raw features (the default).
        class_prior: add the log share of each class among labelled pixels to its logit, once `set_prior` has been told it
            (Menon et al., ICLR 2021, arXiv 2007.07314). The cosine has no bias of its own: without a prior, a pixel that
            looks like a wall and like a pole is half a pole, however rare poles are.
        seed: of the small offsets that tell apart prototypes which would start equal.

    Shape:
        forward: (N, D) -> (N, C), or (B, D, h, w) -> (B, C, h, w).
    """

    prototype: Tensor  # (C, K, D) float32
    ready: Tensor  # (C,) bool
    offset: Tensor  # (C, K, D) directions of unit length
    log_prior: Tensor  # (C,) zeros until `set_prior`

    def __init__(
        self,
        feature_channels: int,
        num_classes: int,
        *,
        per_class: int = 4,
        temperature: float = 0.1,
        momentum: float = 0.99,
        unit_features: bool = False,
        class_prior: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if feature_channels < 1 or num_classes < 1 or per_class < 1:
            raise ValueError(
                "feature_channels, num_classes and per_class must be at least 1, "
                f"got {feature_channels}, {num_classes} and {per_class}"
            )
        if num_classes > IGNORE_INDEX:
            raise ValueError(f"label {IGNORE_INDEX} means ignored, so there can be {IGNORE_INDEX} classes, got {num_classes}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.feature_channels, self.num_classes, self.per_class = feature_channels, num_classes, per_class
        self.temperature, self.momentum, self.unit_features = temperature, momentum, unit_features
        self.class_prior = class_prior
        shape = (num_classes, per_class, feature_channels)
        self.register_buffer("prototype", torch.zeros(shape))
        self.register_buffer("ready", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("log_prior", torch.zeros(num_classes), persistent=class_prior)
        # Fixed for good, so that every process and every resumed run starts a late class in the same way.
        directions = F.normalize(torch.randn(shape, generator=generator(seed, "prototype offset")), dim=-1)
        self.register_buffer("offset", directions, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the prototype predictor.

        Args:
            features: (N, D) or (B, D, h, w).

        Returns:
            (N, C) or (B, C, h, w) float32.

        Raises:
            ValueError: the features have another number of channels.
        """
        if features.ndim == 2:
            return self.compare(features).logits
        batch, channels, height, width = features.shape
        pixels = features.permute(0, 2, 3, 1).reshape(-1, channels)
        logits = self.compare(pixels).logits
        return logits.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def compare(self, features: Tensor) -> PrototypeOutput:
        """Compare pixels with all prototypes: max over K of <z, p> / (|z| |p|) / temperature, plus the log prior.

        Always in float32, also under autocast: a cosine divided by 0.1 needs the digits.

        Args:
            features: (N, D) float.

        Returns:
            PrototypeOutput. The gradient reaches the features, never the prototypes.
        """
        if features.shape[-1] != self.feature_channels:
            raise ValueError(
                f"features have {features.shape[-1]} channels, the prototypes {self.feature_channels}; "
                "build PrototypeHead(model.feature_channels, ...)"
            )
        with torch.autocast(features.device.type, enabled=False):
            pixel = unit_length(features.float())  # (N, D)
            unit = F.normalize(self.prototype, dim=-1).flatten(0, 1)  # (C * K, D), a new tensor: `update` may write
            return self.judge((pixel @ unit.T).view(-1, self.num_classes, self.per_class))

    def judge(self, cosine: Tensor) -> PrototypeOutput:
        """`compare` for who knows the cosines already: (N, C, K) float32 of N pixels with all prototypes."""
        best, nearest = cosine.max(dim=-1)
        bias = torch.where(self.ready, self.log_prior, torch.finfo(torch.float32).min)  # (C,)
        return PrototypeOutput(torch.add(bias, best, alpha=1 / self.temperature), nearest)

    def loss(self, logits: Tensor, label: Tensor, weight: Tensor | None = None, *, denominator: Tensor | None = None) -> Tensor:
        """Cross-entropy of prototype logits: pulls a pixel to one prototype of its class, away from those of all others.

        Args:
            logits: (N, C) of `compare`.
            label: (N,) int64 in [0, C) or IGNORE_INDEX.
            weight: (N,) bool or float, which pixels count; all when left out.
            denominator: scalar to divide by instead of the sum of the weights that count.

        Returns:
            Scalar. Ignored pixels and pixels of a class without prototypes count nothing; 0 when none counts.
        """
        values, known = self.pixel_losses(logits, label)
        return global_mean(values, known if weight is None else known * weight, denominator)

    def pixel_losses(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """What `loss` takes the mean of.

        Args:
            logits, label: as for `loss`.

        Returns:
            (N,) float32 cross-entropy, and (N,) bool: labelled, and of a class that has prototypes. Where it is False the
            cross-entropy is finite and means nothing.
        """
        labelled = label != IGNORE_INDEX
        known = labelled & self.ready.gather(0, label * labelled)
        return F.cross_entropy(logits, label, ignore_index=IGNORE_INDEX, reduction="none"), known

    @torch.no_grad()
    def assign(self, prototype: Tensor) -> None:
        """Set all prototypes, e.g. those of another run; every class is ready then.

        Args:
            prototype: (C, K, D).

        Raises:
            ValueError: another shape, or something in them is no number.
        """
        if prototype.shape != self.prototype.shape:
            raise ValueError(
                f"prototypes of shape {tuple(prototype.shape)} given, {tuple(self.prototype.shape)} (C, K, D) expected"
            )
        if not prototype.isfinite().all():
            raise ValueError("prototypes with values that are no numbers (NaN or infinity) given; take them from another run")
        self.prototype.copy_(F.normalize(prototype, dim=-1) if self.unit_features else prototype)
        self.ready.fill_(True)

    @torch.no_grad()
    def set_prior(self, pixels: Sequence[int]) -> None:
        """Learn how frequent the classes are; without `class_prior` nothing is kept.

        Args:
            pixels: (C,) labelled pixels of each class. A class that does not occur counts as one.

        Raises:
            ValueError: there are more or fewer than C.
        """
        if len(pixels) != self.num_classes:
            raise ValueError(f"a prior of {self.num_classes} classes needs as many counts, got {len(pixels)}")
        if self.class_prior:
            count = torch.tensor(pixels, dtype=torch.float64).clamp(min=1)
            self.log_prior.copy_((count / count.sum()).log())

    @torch.no_grad()
    def fit(self, features: Tensor, label: Tensor, *, iterations: int = 25, seed: int = 0) -> None:
        """Start the prototypes: k-means with K centres on the features of each class.

        Centres without a member (fewer than K distinct pixels) become the class mean with a small offset. Pixels whose
        features are no numbers are left out, and a class without any other stays not ready.

        Args:
            features: (N, D) of labelled pixels.
            label: (N,) int64 in [0, C) or IGNORE_INDEX.
            iterations: of k-means.
            seed: of its start.
        """
        features = self._average_space(features)
        usable = torch.isfinite(features).all(dim=1)  # nothing takes a start back, as the guard of a run does with a step
        for c in range(self.num_classes):
            members = features[usable & (label == c)]
            if len(members) == 0:
                continue
            clusters = spherical_kmeans(members, self.per_class, iterations=iterations, generator=generator(seed, "k-means", c))
            empty = clusters.size[:, None] == 0
            start = torch.where(empty, self._spread(members.mean(dim=0, keepdim=True), c), clusters.center)
            self.prototype[c] = F.normalize(start, dim=-1) if self.unit_features else start
            self.ready[c] = True
        broadcast_(self.prototype, self.ready)

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor, nearest: Tensor | None = None, *, weight: Tensor | None = None) -> None:
        """Move prototypes to the pixels that chose them; call it after the optimizer step.

        For each (c, k) that at least one pixel of class c is nearest to, among the prototypes of c:
        p[c, k] <- momentum * p[c, k] + (1 - momentum) * mean of those pixels. Sums and counts are added up over all
        processes first. A class that is not ready starts at the mean of its pixels. Pixels whose features are no numbers
        are left out.

        Args:
            features: (N, D) raw features of the student.
            label: (N,) int64: truth or pseudo-label, IGNORE_INDEX where there is none.
            nearest: (N, C) of the `compare` call on the same features; recomputed when left out.
            weight: (N,) bool, which pixels count; all when left out.
        """
        if nearest is None:
            nearest = self.compare(features).nearest
        keep = (label != IGNORE_INDEX) & (features.abs().amax(dim=1) < math.inf)  # False for NaN too
        if weight is not None:
            keep = keep & weight.bool()
        slot = prototype_slot(label, nearest, self.per_class, keep=keep)
        features = self._average_space(features)
        # (C * K + 1, D + 1): sums and, behind them, counts, for one message; the last row is of pixels that do not count.
        sums = features.new_zeros(self.num_classes * self.per_class + 1, self.feature_channels + 1)
        sums[:, :-1].index_add_(0, slot, features)
        sums[:, -1].index_add_(0, slot, torch.ones_like(slot, dtype=features.dtype))
        all_reduce_sum_(sums)
        of_prototype = sums[:-1].view(self.num_classes, self.per_class, -1)  # (C, K, D + 1)
        of_class = of_prototype.sum(dim=1, keepdim=True)  # (C, 1, D + 1)

        step = (1 - self.momentum) * (of_prototype[..., -1:] > 0)  # (C, K, 1)
        moved = torch.lerp(self.prototype, _mean(of_prototype), step)
        seen = of_class[..., -1:] > 0  # (C, 1, 1)
        starting = seen & ~self.ready[:, None, None]
        result = torch.where(starting, self._spread(_mean(of_class)), moved)
        self.prototype.copy_(F.normalize(result, dim=-1) if self.unit_features else result)
        self.ready |= seen.flatten()

    def _average_space(self, features: Tensor) -> Tensor:
        features = features.detach().float()
        return F.normalize(features, dim=-1) if self.unit_features else features

    def _spread(self, mean: Tensor, c: int | slice = slice(None)) -> Tensor:
        """K copies of a class mean, told apart by an offset of 10 % of its length: equal ones would never part."""
        length: Tensor = torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
        return torch.addcmul(mean, length, self.offset[c], value=0.1)

    def extra_repr(self) -> str:
        return (
            f"{self.feature_channels}, {self.num_classes}, per_class={self.per_class}, "
            f"temperature={self.temperature}, momentum={self.momentum}, unit_features={self.unit_features}, "
            f"class_prior={self.class_prior}"
        )


def _mean(sums: Tensor) -> Tensor:
    """(..., D + 1) sums with their count behind them -> (..., D); zeros of nothing."""
    return sums[..., :-1] / sums[..., -1:].clamp(min=1)
