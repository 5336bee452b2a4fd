"""Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels, https://arxiv.org/abs/2203.03884

Wang, Wang, Shen, Fei, Li, Jin, Wu, Zhao, Le, CVPR 2022 (U2PL).
B_l B_u labelled/unlabelled images · C classes · D feature channels · H W crop · P points per image · N = (B_l + B_u) P
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from protoseg.functional.mixing import cutmix
from protoseg.functional.points import read_features, read_pixels, sample_points
from protoseg.functional.pseudo_label import entropy_drop, kept_consistency_loss, selected
from protoseg.functional.random import uniform
from protoseg.methods.base import (
    Method,
    SharedOptions,
    StepCarry,
    checked_percent,
    checked_threshold,
    confident_share,
    together,
)
from protoseg.methods.lesson import Lesson, Taught
from protoseg.nn.memory_contrast import MemoryContrast, negative_members, negative_ranks
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, SegOutput, UnlabeledBatch

ANCHOR_PROBABILITY = 0.3  # delta_p of the paper: the teacher's least probability of an anchor's class
GRID = 32  # one point in each cell, as for prototypes; the authors read the whole feature map


class Keys(NamedTuple):
    """What the memory takes in after the step."""

    features: Tensor  # (N, D)
    member: Tensor  # (N, C) bool


class U2PL(Method):
    """Pixels of low entropy learn their pseudo-label; those of high entropy are what other classes are contrasted with.

    L = L_x + L_u + L_c. What is not as in the authors' code: docs/decisions/0010.

    Args:
        student: the network.
        threshold: lowest teacher confidence that counts besides; 0 in the paper.
        drop_percent: of pixels called unreliable at the start, falling to 0 at `total_steps`; 20 in the paper.
        total_steps: of the run, for that fall.
        options: see Method.

    Raises:
        ValueError: a number is out of range.
    """

    own_momentum = 0.99
    reads_features = True
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"consistency": 1.0, "contrast": 1.0}

    def __init__(
        self,
        student: nn.Module,
        *,
        threshold: float = 0.0,
        drop_percent: float = 20.0,
        total_steps: int = 1,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(student, **options)
        self.threshold = checked_threshold(threshold)
        self.drop_percent, self.total_steps = checked_percent(drop_percent), total_steps
        self.contrast = MemoryContrast(self.network.feature_channels, self.network.num_classes)
        self.ranks = negative_ranks(self.network.num_classes)

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        known, weak = self.teacher(torch.cat([labeled.image, unlabeled.weak])).split([len(labeled.image), len(unlabeled.weak)])
        logits, pseudo = self.label(weak, unlabeled.valid)
        weak = weak._replace(logits=logits)
        truth = told_by_mask(known.logits, labeled.mask)
        left = max(0.0, 1 - step / max(self.total_steps, 1))
        pseudo = entropy_drop(pseudo, logits, percent=self.drop_percent * left)
        mixed, target = cutmix(unlabeled.strong[0], pseudo, unlabeled.box[0])
        seen, strong = together(self.student, labeled.image, mixed)

        points = [self._points(batch.seed, truth.label) for batch in (labeled, unlabeled)]
        features, label = self._read((seen, strong), (truth, target), points)
        clean, clean_label = self._read((known, weak), (truth, pseudo), points)
        draw = uniform(labeled.seed[:1], "contrast", *self._draws(), device=features.device)[0]
        terms = {
            "consistency": kept_consistency_loss(strong.logits, target, threshold=self.thresholds()),
            "contrast": self.contrast(features, label, clean, clean_label, draw),
        }
        confident = selected(target, self.thresholds())
        taught = Taught(strong, target, confident, target.valid, self.weights()["consistency"])
        keys = Keys(clean, self._members((known, weak), truth, pseudo, points))
        return Lesson(seen, terms, [taught], pseudo, {"confident": confident_share(confident, target.valid)}, keys)

    def after_step(self, carries: Sequence[StepCarry], *, step: int) -> None:
        super().after_step(carries, step=step)
        keys = [carry.own for carry in carries if carry.own is not None]  # none in the warm-up
        if keys:
            self.contrast.update(*(torch.cat(parts) for parts in zip(*keys, strict=True)))

    def _points(self, seed: Tensor, like: Tensor) -> Tensor:
        size = (like.shape[-2], like.shape[-1])
        return sample_points(uniform(seed, "contrast points", GRID**2, 2, device=like.device), size, grid=GRID)

    def _draws(self) -> tuple[int, int, int]:
        return self.contrast.num_classes, self.contrast.num_anchors, 1 + self.contrast.num_negatives

    def _read(
        self, outs: tuple[SegOutput, SegOutput], told: tuple[PseudoLabel, PseudoLabel], points: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features (N, D) of both halves, and the label (N,) of what may be an anchor or an example."""
        features, labels = [], []
        for out, known, at, threshold in zip(outs, told, points, (0.0, self.threshold or 0.0), strict=True):
            sure = selected(known, max(threshold, ANCHOR_PROBABILITY))
            labels.append(read_pixels(torch.where(sure, known.label, IGNORE_INDEX), at).flatten())
            features.append(read_features(out.features, at, out.covers, align_corners=out.align_corners).flatten(0, 1))
        return torch.cat(features), torch.cat(labels)

    def _members(
        self, outs: tuple[SegOutput, SegOutput], truth: PseudoLabel, pseudo: PseudoLabel, points: Sequence[Tensor]
    ) -> Tensor:
        """(N, C): of which classes the points of both halves are negatives."""
        logits = torch.cat([read_pixels(out.logits, at).flatten(0, 1) for out, at in zip(outs, points, strict=True)])
        mask = read_pixels(truth.label, points[0]).flatten()
        unreliable = read_pixels(pseudo.valid & (pseudo.label == IGNORE_INDEX), points[1]).flatten()
        label = torch.cat([mask, torch.full_like(unreliable, IGNORE_INDEX, dtype=mask.dtype)])
        unreliable = torch.cat([torch.zeros_like(mask, dtype=torch.bool), unreliable])
        return negative_members(logits, label, unreliable, ranks=self.ranks)


@torch.no_grad()
def told_by_mask(logits: Tensor, mask: Tensor) -> PseudoLabel:
    """What a labelled pixel is, with the teacher's probability of that; not valid where nothing is known."""
    known = mask != IGNORE_INDEX
    probability = logits.float().softmax(dim=1).gather(1, torch.where(known, mask, 0)[:, None])[:, 0]
    return PseudoLabel(mask, probability, known)
