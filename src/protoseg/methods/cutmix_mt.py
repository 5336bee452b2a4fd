"""Semi-supervised semantic segmentation needs strong, varied perturbations, https://arxiv.org/abs/1906.01916

French, Laine, Aila, Mackiewicz, Finlayson, BMVC 2020. B_u unlabelled images · I channels · C classes · H W crop
"""

from __future__ import annotations

from torch import Tensor

from protoseg.functional.mixing import cutmix, paste
from protoseg.methods.mean_teacher import MeanTeacher
from protoseg.types import PseudoLabel, UnlabeledBatch


class CutMixMT(MeanTeacher):
    """A mean teacher whose student sees two images in one, and follows the teacher's probabilities of both."""

    def mix(self, unlabeled: UnlabeledBatch, probability: Tensor, pseudo: PseudoLabel) -> tuple[Tensor, Tensor, PseudoLabel]:
        box = unlabeled.box[0]
        image, target = cutmix(unlabeled.strong[0], pseudo, box)
        return image, paste(probability, box), target
