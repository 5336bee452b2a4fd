"""Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation, https://arxiv.org/abs/2208.09910

Yang, Qi, Feng, Zhang, Shi, CVPR 2023 (UniMatch). B_l B_u labelled/unlabelled images · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from protoseg.functional.mixing import cutmix
from protoseg.functional.pseudo_label import selected
from protoseg.functional.random import uniform
from protoseg.methods.base import Method, SharedOptions, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson
from protoseg.types import LabeledBatch, Perturb, SegOutput, UnlabeledBatch

FEATURE_DROPOUT = 0.5  # sec. 3.2: channel dropout of the encoder's features


class UniMatch(Method):
    """Two strong views of the image and one of its features learn from the student's own label of the weak view.

    L = (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2. The student is its own teacher, in training mode and in one pass with the
    labelled crops; the moving average is only what is scored.

    Args:
        student: the network; it has to take `perturb`.
        threshold: lowest confidence that counts: 0.95 on Pascal VOC and COCO, 0 on Cityscapes.
        options: see Method.
    """

    num_strong = 2
    labeled_weight = 0.5
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"strong_1": 0.125, "strong_2": 0.125, "feature": 0.25}

    def __init__(self, student: nn.Module, *, threshold: float = 0.95, **options: Unpack[SharedOptions]) -> None:
        super().__init__(student, **options)
        self.threshold = checked_threshold(threshold)

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        return self.look_and_learn(labeled, unlabeled)[1]

    def look_and_learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch) -> tuple[SegOutput, Lesson]:
        """The student's output on the weak views, and the step."""
        sizes = [len(labeled.image), len(unlabeled.weak)]
        clean = torch.cat([labeled.image, unlabeled.weak])
        seeds = torch.cat([labeled.seed, unlabeled.seed])
        out: SegOutput = self.student(clean, perturb=beside_dropped(seeds))  # decoded together: 2 (B_l + B_u)
        seen, weak, _, featured = out.split([*sizes, *sizes])
        _, pseudo = self.label(weak, unlabeled.valid)
        mixed = [cutmix(strong, pseudo, box) for strong, box in zip(unlabeled.strong, unlabeled.box, strict=True)]
        views = [*together(self.student, *(image for image, _ in mixed)), featured]
        targets = [*(target for _, target in mixed), pseudo]

        named = dict(zip(UniMatch.unlabeled_weights, zip(views, targets, strict=True), strict=True))
        terms, taught = self.learn_views(named, threshold=self.thresholds())
        confident = selected(pseudo, self.thresholds())
        return weak, Lesson(seen, terms, taught, pseudo, {"confident": confident_share(confident, pseudo.valid)})


def beside_dropped(seed: Tensor) -> Perturb:
    """Feature maps (B, D, h, w) -> (2 B, D, h, w): as they are, then with half of the channels of each image dropped.

    Args:
        seed: (B,) of the images.
    """

    def perturb(features: list[Tensor]) -> list[Tensor]:
        result = []
        for level, x in enumerate(features):
            kept = uniform(seed, f"feature dropout {level}", x.shape[1], device=x.device) >= FEATURE_DROPOUT  # (B, D)
            scale = kept.to(x.dtype) / (1 - FEATURE_DROPOUT)
            result.append(torch.cat([x, x * scale[:, :, None, None]]))
        return result

    return perturb
