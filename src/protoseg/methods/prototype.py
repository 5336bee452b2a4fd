"""Semi-supervised Semantic Segmentation with Prototype-based Consistency Regularization, https://arxiv.org/abs/2210.04388

Xu, Liu, Bian, Yang, NeurIPS 2022. B_l B_u labelled/unlabelled images · C classes · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack

from torch import Tensor, nn

from protoseg.functional.mixing import cutmix
from protoseg.functional.pseudo_label import consistency_loss, entropy_drop, kept_consistency_loss, selected
from protoseg.methods.base import Method, SharedOptions, checked_percent, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson, Taught
from protoseg.types import LabeledBatch, PseudoLabel, UnlabeledBatch


class PrototypeConsistency(Method):
    """EMA teacher, CutMix, and two predictors of the student that learn from the same labels and pseudo-labels.

    The second predictor is the prototype term that any method can own; given `prototypes=None` a CutMix teacher is left.

    Args:
        student: the network.
        threshold: lowest teacher confidence that counts: 0.8 for Pascal VOC, 0.65 for Cityscapes in the paper.
        selection: "threshold", or "entropy_drop": the linear predictor learns from the pixels of lowest entropy whatever
            their confidence, the prototype term from the confident ones among them.
        normalizer: of the unsupervised losses: "valid" divides by all real pixels, "selected" by those that teach. With
            "entropy_drop" the linear term has U2PL's own scale instead.
        drop_percent: of pixels dropped by entropy at the start, falling to 0 at `total_steps`; U2PL's 20.
        total_steps: of the run, for that fall.
        options: see Method. In the paper: ema_momentum 0.99, one epoch of warm-up, both weights 1, auxiliary_weight 0.4 on
            Cityscapes.

    Raises:
        ValueError: a number is out of range.
    """

    unlabeled_weights: ClassVar[Mapping[str, float]] = {"consistency": 1.0}

    def __init__(
        self,
        student: nn.Module,
        *,
        threshold: float = 0.8,
        selection: Literal["threshold", "entropy_drop"] = "threshold",
        normalizer: Literal["valid", "selected"] = "valid",
        drop_percent: float = 20.0,
        total_steps: int = 1,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(student, **options)
        if selection not in ("threshold", "entropy_drop"):
            raise ValueError(f"selection is 'threshold' or 'entropy_drop', got {selection!r}")
        if normalizer not in ("valid", "selected"):
            raise ValueError(f"normalizer is 'valid' or 'selected', got {normalizer!r}")
        self.threshold = checked_threshold(threshold)
        self.selection: Literal["threshold", "entropy_drop"] = selection
        self.normalizer: Literal["valid", "selected"] = normalizer
        self.drop_percent, self.total_steps = checked_percent(drop_percent), total_steps

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        pseudo = self._teach(unlabeled, step)
        mixed, target = cutmix(unlabeled.strong[0], pseudo, unlabeled.box[0])
        confident = selected(target, self.thresholds())  # (B_u, H, W)
        seen, strong = together(self.student, labeled.image, mixed)  # one pass: BatchNorm sees both halves
        averaged = target.valid if self.normalizer == "valid" else None
        taught = Taught(strong, target, confident, averaged, self.weights()["consistency"])
        monitors = {"confident": confident_share(confident, target.valid)}
        return Lesson(seen, {"consistency": self._consistency(strong.logits, target)}, [taught], pseudo, monitors)

    def _teach(self, unlabeled: UnlabeledBatch, step: int) -> PseudoLabel:
        logits, pseudo = self.label(self.teacher(unlabeled.weak), unlabeled.valid)
        if self.selection == "entropy_drop":
            left = 1 - step / max(self.total_steps, 1)
            pseudo = entropy_drop(pseudo, logits, percent=self.drop_percent * max(0.0, left))
        return pseudo

    def _consistency(self, logits: Tensor, pseudo: PseudoLabel) -> Tensor:
        if self.selection == "threshold":
            return consistency_loss(logits, pseudo, threshold=self.thresholds(), normalizer=self.normalizer)
        return kept_consistency_loss(logits, pseudo)
