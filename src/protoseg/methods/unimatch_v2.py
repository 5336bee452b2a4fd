"""UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation, https://arxiv.org/abs/2410.10777

Yang, Zhao, Zhao, TPAMI 2025. B_l B_u labelled/unlabelled images · H W crop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from protoseg.functional.mixing import cutmix
from protoseg.functional.pseudo_label import selected
from protoseg.functional.random import uniform
from protoseg.methods.base import Method, SharedOptions, checked_threshold, confident_share
from protoseg.methods.lesson import Lesson
from protoseg.types import LabeledBatch, Perturb, SegOutput, UnlabeledBatch

KEPT_WHOLE = 0.5  # share of the images whose features are not dropped


class UniMatchV2(Method):
    """Two strong views with complementary channel dropout learn from an EMA teacher: L = (L_x + (L_s1 + L_s2) / 2) / 2.

    Args:
        student: the network; it has to take `perturb`.
        threshold: lowest teacher confidence that counts.
        options: see Method.
    """

    own_momentum = 0.996
    num_strong = 2
    labeled_weight = 0.5
    unlabeled_weights: ClassVar[Mapping[str, float]] = {"strong_1": 0.25, "strong_2": 0.25}

    def __init__(self, student: nn.Module, *, threshold: float = 0.95, **options: Unpack[SharedOptions]) -> None:
        super().__init__(student, **options)
        self.threshold = checked_threshold(threshold)

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        _, pseudo = self.label(self.teacher(unlabeled.weak), unlabeled.valid)
        mixed = [cutmix(strong, pseudo, box) for strong, box in zip(unlabeled.strong, unlabeled.box, strict=True)]
        images = torch.cat([labeled.image, *(image for image, _ in mixed)])  # one pass: BatchNorm sees all
        out: SegOutput = self.student(images, perturb=complementary_dropout(len(labeled.image), unlabeled.seed))
        size = len(unlabeled.weak)
        seen, *views = out.split([len(labeled.image), size, size])

        targets = [target for _, target in mixed]
        named = dict(zip(self.unlabeled_weights, zip(views, targets, strict=True), strict=True))
        terms, taught = self.learn_views(named, threshold=self.thresholds())
        confident = selected(pseudo, self.thresholds())
        return Lesson(seen, terms, taught, pseudo, {"confident": confident_share(confident, pseudo.valid)})


def complementary_dropout(num_labeled: int, seed: Tensor) -> Perturb:
    """What one strong view loses the other has: channels of the encoder's feature maps, twice as loud where they are kept.

    Labelled crops stay whole, and so does each unlabelled image with a chance of one half (the authors take exactly half of a
    batch). Maps with the same number of channels lose the same ones, as the four maps of a ViT do in the authors' code.

    Args:
        num_labeled: crops in front that stay whole.
        seed: (B_u,) of the unlabelled images, whose two views follow one after the other.

    Returns:
        Perturb for a batch of num_labeled + 2 B_u images.
    """

    def perturb(features: list[Tensor]) -> list[Tensor]:
        masks: dict[int, Tensor] = {}
        for x in features:
            if (channels := x.shape[1]) not in masks:
                coin = uniform(seed, f"complementary dropout {channels}", channels + 1, device=x.device)  # (B_u, D + 1)
                first = torch.where(coin[:, :1] < KEPT_WHOLE, 1.0, 2.0 * (coin[:, 1:] < 0.5))
                masks[channels] = torch.cat([first.new_ones(num_labeled, channels), first, 2 - first])[:, :, None, None]
        return [x * masks[x.shape[1]].to(x.dtype) for x in features]

    return perturb
