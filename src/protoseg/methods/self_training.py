"""ST++: Make Self-training Work Better for Semi-supervised Semantic Segmentation, https://arxiv.org/abs/2106.05095

Yang, Zhuo, Qi, Shi, Gao, CVPR 2022. B_l B_u labelled/unlabelled images · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

from torch import Tensor, nn

from protoseg.methods.base import Method, SharedOptions, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson
from protoseg.nn.teacher import Teacher
from protoseg.types import LabeledBatch, UnlabeledBatch


class SelfTraining(Method):
    """A finished model labels the unlabelled images; a new student learns from its labels and from the true ones.

    L = (L_x + L_u) / 2: the mean over a batch that is half of each, as where labelled images are repeated until there are as
    many. Unlabelled crops come with changed colours and blur, without CutMix. The finished model looks at each crop instead of
    writing masks of whole images once, so that a mask is never resized.

    Args:
        student: the network. Its start is also the labeler's until `learn_from`.
        threshold: lowest confidence that counts; 0 in the paper.
        reliable_first: of the run around it (`protoseg.self_training`): ST++ instead of ST.
        options: see Method.
    """

    labeled_weight = 0.5
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"self_training": 0.5}
    needs_warmup = False
    needs_labeler = True

    def __init__(
        self, student: nn.Module, *, threshold: float = 0.0, reliable_first: bool = False, **options: Unpack[SharedOptions]
    ) -> None:
        super().__init__(student, **options)
        self.threshold, self.reliable_first = checked_threshold(threshold), reliable_first
        self.labeler = Teacher(student)

    def learn_from(self, state: Mapping[str, Tensor]) -> None:
        self.labeler.network.load_state_dict(state)

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        _, pseudo = self.label(self.labeler(unlabeled.weak), unlabeled.valid)
        seen, strong = together(self.student, labeled.image, unlabeled.strong[0])
        terms, taught = self.learn_views({"self_training": (strong, pseudo)}, threshold=self.thresholds())
        return Lesson(seen, terms, taught, pseudo, {"confident": confident_share(taught[0].confident, pseudo.valid)})
