"""Revisiting and Maximizing Temporal Knowledge in Semi-supervised Semantic Segmentation, https://arxiv.org/abs/2405.20610

Shin, Park, Kim, Han, 2024 (PrevMatch). B_l B_u labelled/unlabelled images · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack

from torch import Tensor, nn

from protoseg.functional.mixing import mix_labels
from protoseg.functional.pseudo_label import consistency_loss
from protoseg.functional.random import generator
from protoseg.functional.schedules import triangle
from protoseg.methods.base import SharedOptions, StepCarry
from protoseg.methods.lesson import Lesson
from protoseg.methods.unimatch import UniMatch
from protoseg.nn.snapshots import Snapshots, draw_ensemble
from protoseg.types import LabeledBatch, UnlabeledBatch

NUM_TAKEN = 20  # in a run; about as often the authors' 80 epochs on Pascal VOC with 92 labels brought a new best score
MOST_AT_ONCE = 3  # snapshots that answer together
EASIER = 0.05  # by so much is their threshold lower: 0.9 against 0.95, and 0 where that is 0


class PrevMatch(UniMatch):
    """UniMatch whose views also learn what earlier states of the student say together, in a random mixture.

    L = (L_x + L_u + r L_prev) / (2 + r): L_u is UniMatch's 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp, L_prev the same with the labels of
    the mixture, and r rises from 0 to 1 over the first half of the training and falls to 0 over the second.

    States are taken at even distances, from the end of the warm-up on, and eight are kept. The authors take one whenever an
    epoch scores best on the validation images, which is no choice that training may make here: docs/decisions/0012.

    Args:
        student: the network; it has to take `perturb`.
        threshold: lowest confidence that counts: 0.95 on Pascal VOC, COCO and ADE20K, 0 on Cityscapes.
        total_steps: of the run.
        options: see Method.
    """

    num_snapshots = 8
    unlabeled_weights: ClassVar[Mapping[str, float]] = {
        **UniMatch.unlabeled_weights,
        **{f"previous_{name}": weight for name, weight in UniMatch.unlabeled_weights.items()},
    }

    def __init__(
        self, student: nn.Module, *, threshold: float = 0.95, total_steps: int = 1, **options: Unpack[SharedOptions]
    ) -> None:
        super().__init__(student, threshold=threshold, **options)
        self.total_steps = total_steps
        self.snapshots = Snapshots(student, size=self.num_snapshots)
        self.distance = max(1, (total_steps - self.warmup_steps) // NUM_TAKEN)  # steps between two

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        weak, lesson = self.look_and_learn(labeled, unlabeled)
        since = step - self.warmup_steps
        ramp = triangle(since, self.total_steps - self.warmup_steps)
        held = min(len(self.snapshots), 1 + since // self.distance)
        share = draw_ensemble(held, most=MOST_AT_ONCE, gen=generator(self.seed, "previous", step))
        # Prototypes follow the student's features: what they say of earlier labels, they read from those.
        _, earlier = self.label(weak._replace(logits=self.snapshots(unlabeled.weak, share)), unlabeled.valid)
        targets = [*(mix_labels(earlier, box) for box in unlabeled.box), earlier]
        for name, taught, target in zip(UniMatch.unlabeled_weights, lesson.taught, targets, strict=True):
            loss = consistency_loss(taught.out.logits, target, threshold=easier(self.thresholds()))
            lesson.terms[f"previous_{name}"] = ramp * loss
        lesson.scale = 2 / (2 + ramp)
        return lesson

    def after_step(self, carries: Sequence[StepCarry], *, step: int) -> None:
        super().after_step(carries, step=step)
        number, rest = divmod(step + 1 - self.warmup_steps, self.distance)
        if number >= 0 and rest == 0:
            self.snapshots.take(number, self.student)


def easier(threshold: float | Tensor) -> float | Tensor:
    """The lowest confidence that counts of what snapshots say."""
    return (threshold - EASIER).clamp(min=0) if isinstance(threshold, Tensor) else max(0.0, threshold - EASIER)
