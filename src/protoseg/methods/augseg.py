"""Augmentation Matters: A Simple-yet-Effective Approach to Semi-supervised Semantic Segmentation, https://arxiv.org/abs/2212.04976

Zhao, Yang, Long, Pi, Zhou, Wang, CVPR 2023 (AugSeg). B_l B_u labelled/unlabelled images · C classes · H W crop
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from protoseg.functional.losses import masked_mean
from protoseg.functional.mixing import cutmix, sample_boxes
from protoseg.functional.random import uniform
from protoseg.methods.base import Method, SharedOptions, checked_threshold, confident_share, together
from protoseg.methods.lesson import Lesson
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, UnlabeledBatch


class AugSeg(Method):
    """An EMA teacher, a random number of colour operations, and labels in those images that the teacher is unsure of.

    L = L_x + L_u. An unlabelled image gets, with a chance of one minus the teacher's certainty, a box of a labelled crop and
    its mask; then the usual CutMix follows.

    Args:
        student: the network.
        threshold: lowest teacher confidence that counts. Pasted labels are certain.
        options: see Method.
    """

    own_momentum = 0.999
    own_color_style: ClassVar[Literal["jitter", "random"]] = "random"
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"consistency": 1.0}

    def __init__(self, student: nn.Module, *, threshold: float = 0.95, **options: Unpack[SharedOptions]) -> None:
        super().__init__(student, **options)
        self.threshold = checked_threshold(threshold)

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        logits, pseudo = self.label(self.teacher(unlabeled.weak), unlabeled.valid)
        box = label_boxes(unlabeled.seed, image_certainty(logits, unlabeled.valid), unlabeled.valid)
        image, told = paste_labels(unlabeled.strong[0], pseudo, labeled, box)
        mixed, target = cutmix(image, told, unlabeled.box[0])
        seen, strong = together(self.student, labeled.image, mixed)
        terms, taught = self.learn_views({"consistency": (strong, target)}, threshold=self.thresholds())
        return Lesson(seen, terms, taught, pseudo, {"confident": confident_share(taught[0].confident, target.valid)})


@torch.no_grad()
def image_certainty(logits: Tensor, valid: Tensor) -> Tensor:
    """The mean over an image's pixels of max_c p_c * (1 - entropy(p) / log C): 1 is sure of everything, 0 of nothing.

    Args:
        logits: (B_u, C, H, W) of the teacher.
        valid: (B_u, H, W) bool: padding is no evidence. An image of padding alone counts as certain: there is nothing to
            learn from it.

    Returns:
        (B_u,) in [0, 1].
    """
    log_probability = logits.float().log_softmax(dim=1)
    probability = log_probability.exp()
    entropy = -(probability * log_probability).sum(dim=1)  # (B_u, H, W)
    sure = probability.amax(dim=1) * (1 - entropy / math.log(max(logits.shape[1], 2)))
    doubt = [masked_mean(1 - pixels, counting) for pixels, counting in zip(sure, valid, strict=True)]
    return 1 - torch.stack(doubt)


def label_boxes(seed: Tensor, certainty: Tensor, valid: Tensor) -> Tensor:
    """Where labels are pasted: a box of half the crop in those images that lose against their certainty.

    Args:
        seed: (B_u,) of the images.
        certainty: (B_u,).
        valid: (B_u, H, W), for its size and device.

    Returns:
        (B_u, H, W) bool.
    """
    draw = uniform(seed, "labels", 4, device=valid.device)
    boxes = sample_boxes(draw[:, :3], (valid.shape[-2], valid.shape[-1]))
    return boxes & (draw[:, 3] > certainty)[:, None, None]


def paste_labels(image: Tensor, pseudo: PseudoLabel, labeled: LabeledBatch, box: Tensor) -> tuple[Tensor, PseudoLabel]:
    """Show labelled crops and their masks inside boxes.

    Args:
        image: (B_u, I, H, W).
        pseudo: of the same images.
        labeled: crops of the same size; unlabelled image i gets crop i modulo B_l.
        box: (B_u, H, W) bool, True where the labelled crop shows.

    Returns:
        Image and pseudo-label. A pasted pixel is certain, or not valid where the mask does not know it.
    """
    source = torch.arange(len(image), device=image.device) % len(labeled.image)
    mask = labeled.mask[source]
    told = PseudoLabel(mask, torch.ones_like(pseudo.confidence), mask != IGNORE_INDEX)
    pasted = PseudoLabel(*(torch.where(box, new, old) for new, old in zip(told, pseudo, strict=True)))
    return torch.where(box[:, None], labeled.image[source], image), pasted
