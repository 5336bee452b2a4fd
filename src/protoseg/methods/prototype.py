"""Semi-supervised Semantic Segmentation with Prototype-based Consistency Regularization, https://arxiv.org/abs/2210.04388

Xu, Liu, Bian, Yang, NeurIPS 2022. B_l B_u labelled/unlabelled images · C classes · H W crop
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from protoseg.functional.losses import cross_entropy
from protoseg.functional.mixing import cutmix
from protoseg.functional.pseudo_label import consistency_loss, entropy_drop, pseudo_label, selected
from protoseg.methods.base import LabeledPass, Method, SegmentationLoss
from protoseg.methods.prototype_term import PrototypeCarry, PrototypeTerm
from protoseg.methods.supervised import labeled_step
from protoseg.nn.share_alignment import ShareAlignment
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, SegOutput, StepOutput, UnlabeledBatch


class StepCarry(NamedTuple):
    """What the prototypes and the class shares need after the step."""

    prototype: PrototypeCarry | None
    labeled_count: Tensor | None  # (C,)
    pseudo_count: Tensor | None  # (C,)


class PrototypeConsistency(Method):
    """EMA teacher, CutMix, and two predictors of the student that learn from the same labels and pseudo-labels.

    Args:
        student: the network.
        prototypes: the prototype term; None leaves a CutMix teacher without it.
        alignment: of the shares of the classes among pseudo-labels; None as in the paper.
        labeled_loss: of the linear predictor on labelled crops, (logits, mask) -> scalar.
        threshold: lowest teacher confidence that counts: 0.8 for Pascal VOC, 0.65 for Cityscapes in the paper.
        selection: "threshold", or "entropy_drop": the linear predictor learns from the pixels of lowest entropy whatever
            their confidence, the prototype term from the confident ones among them.
        normalizer: of the unsupervised losses: "valid" divides by all real pixels, "selected" by those that teach. With
            "entropy_drop" the linear term has U2PL's own scale instead.
        drop_percent: of pixels dropped by entropy at the start, falling to 0 at `total_steps`; U2PL's 20.
        total_steps: of the run, for that fall.
        unlabeled_weight, prototype_weight: of the unsupervised terms and of the prototype terms, both 1 in the paper.
        auxiliary_weight: of the second head, where the network has one; 0.4 in the paper, on Cityscapes.
        ema_momentum: of the teacher, 0.99 in the paper.
        warmup_steps: on labels only; one epoch in the paper.
        prototype_delay: steps between their end and the start of the prototypes; 0 in the paper. A network that starts from
            nothing may need time until its features are worth holding on to.
        seed: of the k-means start.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        prototypes: PrototypeTerm | None,
        alignment: ShareAlignment | None = None,
        labeled_loss: SegmentationLoss = cross_entropy,
        threshold: float = 0.8,
        selection: Literal["threshold", "entropy_drop"] = "threshold",
        normalizer: Literal["valid", "selected"] = "valid",
        drop_percent: float = 20.0,
        total_steps: int = 1,
        unlabeled_weight: float = 1.0,
        prototype_weight: float = 1.0,
        auxiliary_weight: float = 0.4,
        ema_momentum: float = 0.99,
        warmup_steps: int = 0,
        prototype_delay: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, ema_momentum=ema_momentum, warmup_steps=warmup_steps)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
        if not 0 <= drop_percent <= 100:
            raise ValueError(f"drop_percent is a share of pixels in [0, 100], got {drop_percent}")
        if selection not in ("threshold", "entropy_drop"):
            raise ValueError(f"selection is 'threshold' or 'entropy_drop', got {selection!r}")
        if normalizer not in ("valid", "selected"):
            raise ValueError(f"normalizer is 'valid' or 'selected', got {normalizer!r}")
        if prototype_delay < 0:
            raise ValueError(f"prototype_delay must be 0 or more, got {prototype_delay}")
        self.prototypes, self.prototype_start = prototypes, warmup_steps + prototype_delay
        self.alignment = alignment
        self.labeled_loss, self.threshold = labeled_loss, threshold
        self.selection: Literal["threshold", "entropy_drop"] = selection
        self.normalizer: Literal["valid", "selected"] = normalizer
        self.drop_percent, self.total_steps, self.seed = drop_percent, total_steps, seed
        self.weights = {
            "labeled": 1.0,
            "auxiliary": auxiliary_weight,
            "consistency": unlabeled_weight,
            "prototype_labeled": prototype_weight,
            "prototype_consistency": prototype_weight * unlabeled_weight,
        }

    def before_step(self, labeled: LabeledPass, *, step: int) -> None:
        if self.prototypes is not None and step == self.prototype_start:
            self.prototypes.start(self.student, labeled, seed=self.seed)

    def forward(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch | None, *, step: int) -> StepOutput:
        if step < self.warmup_steps:
            auxiliary_weight = self.weights["auxiliary"]
            output = labeled_step(self.student, labeled, self.labeled_loss, auxiliary_weight=auxiliary_weight)
            output.carry = StepCarry(None, self._count(labeled.mask), None)
            return output
        assert unlabeled is not None, "this method learns from unlabelled images"
        num_labeled, num_unlabeled = len(labeled.image), len(unlabeled.weak)

        pseudo = self._pseudo_label(unlabeled, step)
        pseudo_count = self._count(pseudo.label, pseudo.valid)
        mixed, pseudo = cutmix(unlabeled.strong[0], pseudo, unlabeled.box[0])
        confident = selected(pseudo, self.threshold)  # (B_u, H, W)

        out: SegOutput = self.student(torch.cat([labeled.image, mixed]))  # one pass: BatchNorm sees both halves
        labeled_logits, mixed_logits = torch.split(out.logits, [num_labeled, num_unlabeled])
        terms = {
            "labeled": self.labeled_loss(labeled_logits, labeled.mask),
            "consistency": self._consistency(mixed_logits, pseudo),
        }
        if out.auxiliary is not None:
            terms["auxiliary"] = self.labeled_loss(out.auxiliary[:num_labeled], labeled.mask)
        monitors = {"confident": confident.sum() / pseudo.valid.sum().clamp(min=1)}
        carry: PrototypeCarry | None = None
        if self.prototypes is not None and step >= self.prototype_start:
            known = labeled.mask != IGNORE_INDEX
            prototype = self.prototypes(
                out,
                label=torch.cat([labeled.mask, pseudo.label]),
                weight=torch.cat([known, confident]),
                valid=torch.cat([known, pseudo.valid]) if self.normalizer == "valid" else None,
                seed=torch.cat([labeled.seed, unlabeled.seed]),
                num_labeled=num_labeled,
            )
            terms["prototype_labeled"], terms["prototype_consistency"] = prototype.labeled, prototype.consistency
            monitors["prototype_agreement"] = prototype.agreement
            carry = prototype.carry
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        step_carry = StepCarry(carry, self._count(labeled.mask), pseudo_count)
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()}, monitors, step_carry)

    def after_step(self, carries: Sequence[StepCarry], *, step: int) -> None:
        super().after_step(carries, step=step)
        if self.prototypes is not None:
            self.prototypes.update([carry.prototype for carry in carries if carry.prototype is not None])
        if self.alignment is not None:
            for carry in carries:
                assert carry.labeled_count is not None
                self.alignment.update(carry.labeled_count, carry.pseudo_count)

    def _count(self, label: Tensor, valid: Tensor | None = None) -> Tensor | None:
        return None if self.alignment is None else self.alignment.count(label, valid)

    def prototype_state(self) -> dict[str, Tensor]:
        return {} if self.prototypes is None else self.prototypes.head.state_dict()

    def _pseudo_label(self, unlabeled: UnlabeledBatch, step: int) -> PseudoLabel:
        logits = self.teacher(unlabeled.weak).logits  # (B_u, C, H, W)
        if self.alignment is not None:
            logits = self.alignment(logits)
        pseudo = pseudo_label(logits, unlabeled.valid)
        if self.selection == "entropy_drop":
            left = 1 - step / max(self.total_steps, 1)
            pseudo = entropy_drop(pseudo, logits, percent=self.drop_percent * max(0.0, left))
        return pseudo

    def _consistency(self, logits: Tensor, pseudo: PseudoLabel) -> Tensor:
        if self.selection == "threshold":
            return consistency_loss(logits, pseudo, threshold=self.threshold, normalizer=self.normalizer)
        # U2PL: the mean over kept pixels, times valid / kept.
        kept = selected(pseudo, 0.0).sum()
        scale = pseudo.valid.sum() / kept.clamp(min=1)
        return scale * consistency_loss(logits, pseudo, threshold=0.0, normalizer="selected")
