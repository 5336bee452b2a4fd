"""Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision, https://arxiv.org/abs/2106.01226

Chen, Yuan, Zeng, Wang, CVPR 2021. B_l B_u labelled/unlabelled images · H W crop
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Unpack

import torch
from torch import nn

from protoseg.functional.mixing import cutmix
from protoseg.functional.random import fold
from protoseg.methods.base import Method, SharedOptions, Trained, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson
from protoseg.types import LabeledBatch, PseudoLabel, UnlabeledBatch


class CrossPseudoSupervision(Method):
    """Two networks with different starts teach each other by hard labels of images that CutMix then mixes.

    L = CE_1 + CE_2 + CE(f_1(mix), labels of f_2) + CE(f_2(mix), labels of f_1), over all pixels: no threshold in the paper.
    The mix is the recipe's, one box of CutMix, where the authors cut out three of a quarter to half of the image together.
    What is scored and shipped is the moving average of the first network.

    Args:
        student: the first network. The second is a copy whose parameters outside the encoder are drawn anew.
        threshold: lowest confidence that counts; 0 in the paper.
        options: see Method. Prototypes are kept for each network.
    """

    trained_names: ClassVar[tuple[str, ...]] = ("", "_peer")
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"cross": 1.0, "cross_peer": 1.0}

    def __init__(self, student: nn.Module, *, threshold: float = 0.0, **options: Unpack[SharedOptions]) -> None:
        super().__init__(student, **options)
        self.threshold = checked_threshold(threshold)
        self.peer = drawn_anew(student, seed=self.seed)
        self.peer_prototypes = copy.deepcopy(self.prototypes)

    def trained(self) -> tuple[Trained, ...]:
        first, second = self.trained_names
        return (Trained(first, self.student, self.prototypes), Trained(second, self.peer, self.peer_prototypes))

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        with torch.no_grad():  # in training mode, as in the authors' code
            own, other = (
                self.label(part.network(unlabeled.weak), unlabeled.valid, prototypes=part.prototypes)[1]
                for part in self.trained()
            )
        first = self._follow(self.student, other, labeled, unlabeled, name="cross")
        first.peer = self._follow(self.peer, own, labeled, unlabeled, name="cross_peer")
        return first

    def _follow(
        self, network: nn.Module, pseudo: PseudoLabel, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, name: str
    ) -> Lesson:
        mixed, target = cutmix(unlabeled.strong[0], pseudo, unlabeled.box[0])
        seen, strong = together(network, labeled.image, mixed)
        terms, taught = self.learn_views({name: (strong, target)}, threshold=self.thresholds())
        return Lesson(seen, terms, taught, pseudo, {"confident": confident_share(taught[0].confident, target.valid)})


def drawn_anew(network: nn.Module, *, seed: int) -> nn.Module:
    """A copy whose parameters outside the encoder have another random start."""
    copied = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, "second network"))
        for name, module in copied.named_modules():
            if "encoder" not in name.split(".") and hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return copied
