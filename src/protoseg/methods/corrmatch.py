"""CorrMatch: Label Propagation via Correlation Matching for Semi-Supervised Semantic Segmentation, https://arxiv.org/abs/2306.04300

Sun, Yang, Zhang, Cheng, Hou, CVPR 2024. B_l B_u labelled/unlabelled images · C classes · R regions · H W crop
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from protoseg.functional.correlation import relabel_regions, sample_regions
from protoseg.functional.mixing import cutmix, mix_labels, paste
from protoseg.functional.pseudo_label import consistency_loss, selected, soft_consistency_loss
from protoseg.functional.random import uniform
from protoseg.methods.base import Method, SharedOptions, StepCarry, Trained, checked_threshold, confident_share
from protoseg.methods.lesson import Lesson
from protoseg.methods.unimatch import beside_dropped
from protoseg.nn.correlation_branch import Correlated, CorrelationBranch
from protoseg.nn.global_threshold import GlobalThreshold
from protoseg.types import LabeledBatch, PseudoLabel, SegOutput, UnlabeledBatch

NUM_REGIONS = 128  # rows of the map that are looked at in each image
REGION_SHARE = 0.85  # that a region has to exceed where the threshold is fixed: the paper's threshold at the start


class CorrMatch(Method):
    """UniMatch with one strong view, a map of which places look alike, and labels that travel along it.

    L = (0.5 L_x + 0.5 L_x' + 0.25 L_s + 0.25 KL + 0.25 L_fp + 0.25 L_u') / 2, where ' is the prediction propagated along the
    map. The student is its own teacher, as in UniMatch; regions of the map that are sure and agree are relabelled as a whole
    for the strong view and the features. Ours, where no text settles it: how a row of the map becomes a region, which region
    decides where several overlap, and which losses the new labels teach (docs/decisions/0011).

    Args:
        student: the network; it has to take `perturb`.
        threshold: lowest confidence that counts. None is the paper's: one that starts at 0.85 and follows the highest
            confidence of the classes. On Cityscapes the authors fix it at 0.
        options: see Method.
    """

    labeled_weight = 0.25
    reads_features = True
    labeled_weights: ClassVar[Mapping[str, float]] = {"labeled_correlation": 0.25}
    unlabeled_weights: ClassVar[Mapping[str, float]] = {
        "consistency": 0.125,
        "soft": 0.125,
        "feature": 0.125,
        "correlation": 0.125,
    }

    def __init__(self, student: nn.Module, *, threshold: float | None = None, **options: Unpack[SharedOptions]) -> None:
        super().__init__(student, **options)
        self.threshold = None if threshold is None else checked_threshold(threshold)
        self.correlation = CorrelationBranch(self.network.feature_channels, self.network.num_classes)
        self.global_threshold = GlobalThreshold(self.network.num_classes)

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        clean = torch.cat([labeled.image, unlabeled.weak])
        out: SegOutput = self.student(clean, perturb=beside_dropped(torch.cat([labeled.seed, unlabeled.seed])))
        seen, weak, _, featured = out.split([*sizes, *sizes])
        known, related = self.correlation(seen), self.correlation(weak)
        logits, own = self.label(weak, unlabeled.valid)
        told = self.relabeled(own, related, unlabeled.seed)
        box = unlabeled.box[0]
        image, target = cutmix(unlabeled.strong[0], told, box)
        strong: SegOutput = self.student(image)

        threshold = self.thresholds()
        terms, taught = self.learn_views({"consistency": (strong, target), "feature": (featured, told)}, threshold=threshold)
        # A relabelled pixel contradicts its own probabilities, and the map would be its own teacher: both go by `own`.
        soft = paste(logits, box)
        terms["soft"] = soft_consistency_loss(strong.logits, soft, mix_labels(own, box), threshold=threshold)
        terms["correlation"] = consistency_loss(related.logits, own, threshold=threshold)
        terms["labeled_correlation"] = self.labeled_loss(known.logits, labeled.mask)
        monitors = {"confident": confident_share(taught[1].confident, told.valid)}
        return Lesson(seen, terms, taught, told, monitors, self.global_threshold.highest(own))

    def learn_labels(self, part: Trained, labeled: LabeledBatch) -> Lesson:
        lesson = super().learn_labels(part, labeled)
        lesson.terms["labeled_correlation"] = self.labeled_loss(self.correlation(lesson.labeled).logits, labeled.mask)
        return lesson

    def relabeled(self, pseudo: PseudoLabel, related: Correlated, seed: Tensor) -> PseudoLabel:
        """Pseudo-labels of the weak views after the regions' vote."""
        region = sample_regions(related.map, uniform(seed, "regions", NUM_REGIONS, device=related.map.device))
        share = self.global_threshold() if self.threshold is None else max(self.threshold, REGION_SHARE)
        confident = selected(pseudo, self.thresholds())
        return relabel_regions(pseudo, confident, region, related.cell, num_classes=self.network.num_classes, share=share)

    def thresholds(self) -> float | Tensor:
        if self.threshold is not None:
            return super().thresholds()
        of_class: Tensor = self.global_threshold().expand(self.network.num_classes)
        return of_class if self.class_thresholds is None else of_class * self.class_thresholds()

    def after_step(self, carries: Sequence[StepCarry], *, step: int) -> None:
        super().after_step(carries, step=step)
        highest = [carry.own for carry in carries if carry.own is not None]  # none in the warm-up
        if highest:
            self.global_threshold.update(torch.stack(highest).amax(dim=0))

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        return chain(super().trained_parameters(), self.correlation.parameters())
