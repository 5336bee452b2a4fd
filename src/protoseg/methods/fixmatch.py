"""FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, https://arxiv.org/abs/2001.07685

Sohn et al., NeurIPS 2020; for segmentation as in Yang et al., CVPR 2023 (UniMatch, arXiv 2208.09910), whose code has the
CutMix and the constants. B_l B_u labelled/unlabelled images · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack

from torch import nn

from protoseg.functional.mixing import cutmix
from protoseg.methods.base import Method, SharedOptions, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson
from protoseg.types import LabeledBatch, SegOutput, UnlabeledBatch


class FixMatch(Method):
    """The label of a weak view is the target of a strong one, where the teacher is sure: L = (L_x + L_s) / 2.

    Args:
        student: the network.
        threshold: lowest confidence that counts: 0.95 on Pascal VOC and COCO, 0 on Cityscapes.
        labels_from: "ema", the moving average as in UniMatch V2's code, or "self": the student, in training mode and in one
            pass with the labelled crops, as in UniMatch V1's.
        options: see Method.
    """

    labeled_weight = 0.5
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"consistency": 0.5}

    def __init__(
        self,
        student: nn.Module,
        *,
        threshold: float = 0.95,
        labels_from: Literal["ema", "self"] = "ema",
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(student, **options)
        if labels_from not in ("ema", "self"):
            raise ValueError(f"labels_from is 'ema' or 'self', got {labels_from!r}")
        self.threshold, self.labels_from = checked_threshold(threshold), labels_from

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        seen, weak = self._look(labeled, unlabeled)
        _, pseudo = self.label(weak, unlabeled.valid)
        mixed, target = cutmix(unlabeled.strong[0], pseudo, unlabeled.box[0])
        if seen is None:
            seen, strong = together(self.student, labeled.image, mixed)
        else:
            strong = self.student(mixed)
        terms, taught = self.learn_views({"consistency": (strong, target)}, threshold=self.thresholds())
        return Lesson(seen, terms, taught, pseudo, {"confident": confident_share(taught[0].confident, target.valid)})

    def _look(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch) -> tuple[SegOutput | None, SegOutput]:
        """The labelled crops' output where the student saw them on the way, and that which the labels come from."""
        if self.labels_from == "ema":
            return None, self.teacher(unlabeled.weak)
        seen, weak = together(self.student, labeled.image, unlabeled.weak)
        return seen, weak
