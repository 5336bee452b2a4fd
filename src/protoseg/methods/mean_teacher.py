"""Mean teachers are better role models, https://arxiv.org/abs/1703.01780

Tarvainen and Valpola, NeurIPS 2017; for segmentation with the loss of French et al., BMVC 2020 (arXiv 1906.01916).
B_l B_u labelled/unlabelled images · C classes · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

from torch import Tensor, nn

from protoseg.functional.pseudo_label import selected, squared_consistency_loss
from protoseg.functional.schedules import sigmoid_rampup
from protoseg.methods.base import Method, SharedOptions, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson, Taught
from protoseg.types import LabeledBatch, PseudoLabel, UnlabeledBatch


class MeanTeacher(Method):
    """The student's probabilities on a changed view follow the EMA teacher's on the plain one, by squared error.

    The change is the strong view's colours and blur, where the paper adds Gaussian noise.

    Args:
        student: the network.
        threshold: the loss is scaled by the share of pixels that the teacher is at least this sure of; 0.97 in French et al.
        rampup_steps: the loss grows over these steps after the warm-up, by exp(-5 (1 - t)^2); 0 in French et al.
        options: see Method. In both papers: ema_momentum 0.99 at first.

    Raises:
        ValueError: a number is out of range.
    """

    unlabeled_weights: ClassVar[Mapping[str, float]] = {"consistency": 1.0}

    def __init__(
        self, student: nn.Module, *, threshold: float = 0.97, rampup_steps: int = 0, **options: Unpack[SharedOptions]
    ) -> None:
        super().__init__(student, **options)
        if rampup_steps < 0:
            raise ValueError(f"rampup_steps must be 0 or more, got {rampup_steps}")
        self.threshold, self.rampup_steps = checked_threshold(threshold), rampup_steps

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        logits, pseudo = self.label(self.teacher(unlabeled.weak), unlabeled.valid)
        image, probability, target = self.mix(unlabeled, logits.softmax(dim=1), pseudo)
        seen, view = together(self.student, labeled.image, image)
        ramp = sigmoid_rampup(step - self.warmup_steps, self.rampup_steps)
        loss = ramp * squared_consistency_loss(view.logits, probability, target, threshold=self.thresholds())
        confident = selected(target, self.thresholds())
        taught = Taught(view, target, confident, target.valid, self.weights()["consistency"])
        return Lesson(seen, {"consistency": loss}, [taught], pseudo, {"confident": confident_share(confident, target.valid)})

    def mix(self, unlabeled: UnlabeledBatch, probability: Tensor, pseudo: PseudoLabel) -> tuple[Tensor, Tensor, PseudoLabel]:
        """The student's view, the teacher's probabilities on it and its pseudo-label; here each image is itself."""
        return unlabeled.strong[0], probability, pseudo
