"""Labels only: the baseline that every run is compared with."""

from __future__ import annotations

from torch import nn

from protoseg.functional.losses import cross_entropy
from protoseg.methods.base import Method, SegmentationLoss
from protoseg.types import LabeledBatch, SegOutput, StepOutput, UnlabeledBatch


def labeled_step(
    student: nn.Module, labeled: LabeledBatch, labeled_loss: SegmentationLoss, *, auxiliary_weight: float
) -> StepOutput:
    """One step on labels alone; other methods warm up with it."""
    out: SegOutput = student(labeled.image)
    terms = {"labeled": labeled_loss(out.logits, labeled.mask)}
    loss = terms["labeled"]
    if out.auxiliary is not None:
        terms["auxiliary"] = labeled_loss(out.auxiliary, labeled.mask)
        loss = loss + auxiliary_weight * terms["auxiliary"]
    return StepOutput(loss, {name: term.detach() for name, term in terms.items()})


class Supervised(Method):
    """Cross-entropy on labelled crops. Scored, like every method, by the moving average of its weights.

    Args:
        student: the network.
        labeled_loss: (logits, mask) -> scalar.
        auxiliary_weight: weight of the second head's loss, where the network has one.
        ema_momentum, warmup_steps: see Method.
    """

    uses_unlabeled = False

    def __init__(
        self,
        student: nn.Module,
        *,
        labeled_loss: SegmentationLoss = cross_entropy,
        auxiliary_weight: float = 0.4,
        ema_momentum: float = 0.99,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(student, ema_momentum=ema_momentum, warmup_steps=warmup_steps)
        self.labeled_loss, self.auxiliary_weight = labeled_loss, auxiliary_weight

    def forward(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch | None = None, *, step: int) -> StepOutput:
        return labeled_step(self.student, labeled, self.labeled_loss, auxiliary_weight=self.auxiliary_weight)
