"""The prototype term of arXiv 2210.04388 as a part that any method can own.

B images · D feature channels · H W crop · P points per image · N = B * P, of all parts together · C classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.functional.losses import global_means
from protoseg.functional.points import (
    near_boundary,
    places,
    read_at,
    read_features,
    read_pixels,
    read_places,
    sample_points,
    unit_positions,
)
from protoseg.functional.processes import mean_over_processes
from protoseg.functional.pseudo_label import mean_of_predictors
from protoseg.functional.random import to_device, uniform
from protoseg.methods.even_sample import EvenSample
from protoseg.methods.lesson import Lesson
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.types import IGNORE_INDEX, LabeledBatch, LabeledPass, PseudoLabel, SegOutput, UnlabeledBatch

Labels = Literal["linear", "agree", "mean"]
"""What the prototypes have to say in a teacher's labels; see `PrototypeTerm`."""
Emphasis = Literal["even", "uncertain", "boundary"]
"""Which points weigh more; see `PrototypeTerm`."""
_NEAR = 3  # pixels to the class boundary


class Part(NamedTuple):
    """Images that have a loss of their own: the labelled crops, or a view that learned from pseudo-labels."""

    out: SegOutput  # of the student
    label: Tensor  # (B, H, W) int64: truth or pseudo-labels
    seed: Tensor  # (B,) of the images, on the CPU
    weight: Tensor | None = None  # (B, H, W) bool: which pixels teach; those that are labelled when left out
    valid: Tensor | None = None  # (B, H, W) bool: which pixels the loss is averaged over; those that teach when left out
    view: int = 0  # further views of the same images are read at other points


class PrototypeCarry(NamedTuple):
    """What the update after the step needs, detached."""

    features: Tensor  # (N, D)
    label: Tensor  # (N,)
    nearest: Tensor  # (N, C)
    weight: Tensor  # (N,) bool


class PrototypeTermOutput(NamedTuple):
    losses: tuple[Tensor, ...]  # scalar of each part
    agreement: Tensor  # share of the points that teach whose nearest prototype is of the class of their (pseudo-)label
    carry: PrototypeCarry


class PrototypeTerm(nn.Module):
    """Ask the prototype predictor for the label too, at a few random pixels of each image.

    Args:
        head: the prototypes.
        grid: one random pixel in each cell of a grid x grid grid; 32 in the paper.
        points_per_cell: random pixels in each cell; 1 in the paper.
        images: whose losses count; the prototypes move by the others too.
        shared_points: the same pixels for all images of a batch, as in the authors' code, instead of new ones for each.
        fit_start: start with k-means; False keeps what `head.assign` was given.
        fit_points: most pixels of a class that k-means starts from.
        labels: what the prototypes have to say in a teacher's labels: nothing ("linear", as in the paper), a veto ("agree": a
            pixel whose nearest prototype is of another class does not teach), or half of the probability ("mean").
        emphasis: which points weigh more in the losses, on average as much as without; all move the prototypes alike. None
            ("even", as in the paper); the less the linear predictor is sure of a point, 1 - max p, the more it weighs
            ("uncertain"); or only those with another class three pixels away count ("boundary").
        class_weight: (C,) how much the points of each class weigh, e.g. of `functional.losses.class_weights`; all alike when
            left out.
    """

    class_weight: Tensor | None  # (C,)

    def __init__(
        self,
        head: PrototypeHead,
        *,
        grid: int = 32,
        images: Literal["both", "labeled", "unlabeled"] = "both",
        shared_points: bool = False,
        fit_start: bool = True,
        fit_points: int = 4096,
        labels: Labels = "linear",
        points_per_cell: int = 1,
        emphasis: Emphasis = "even",
        class_weight: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if min(grid, fit_points, points_per_cell) < 1:
            raise ValueError(
                f"grid, fit_points and points_per_cell must be at least 1, got {grid}, {fit_points} and {points_per_cell}"
            )
        if emphasis not in ("even", "uncertain", "boundary"):
            raise ValueError(f"emphasis is 'even', 'uncertain' or 'boundary', got {emphasis!r}")
        if class_weight is not None and len(class_weight) != head.num_classes:
            raise ValueError(f"{head.num_classes} classes need as many weights, got {len(class_weight)}")
        self.head, self.grid, self.fit_points = head, grid, fit_points
        if labels not in ("linear", "agree", "mean"):
            raise ValueError(f"labels is 'linear', 'agree' or 'mean', got {labels!r}")
        self.images, self.shared_points, self.fit_start = images, shared_points, fit_start
        self.labels: Labels = labels
        self.points_per_cell, self.emphasis = points_per_cell, emphasis
        weights = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weights, persistent=False)

    def forward(self, parts: Sequence[Part]) -> PrototypeTermOutput:
        """Compute the prototype losses of labelled and pseudo-labelled images.

        Points of all parts are drawn, compared and averaged at once. On a GPU the host is what a step waits for, and it needs
        as long to start an operation on a few thousand points as on all of them.

        Args:
            parts: of one network, and of one size of images.

        Returns:
            PrototypeTermOutput; the points of the carry are those of one part after the other.

        Raises:
            ValueError: the images of the parts differ in size.
        """
        size, covers, align_corners = _extent(parts)
        points = self._points([(part.seed, part.view) for part in parts], size, parts[0].label.device)  # (B, P, 2)
        images = [len(part.label) for part in parts]
        spots = (points, unit_positions(points, covers, align_corners=align_corners), places(points, size[1]))
        read = [self._read(part, *at) for part, *at in zip(parts, *(torch.split(spot, images) for spot in spots), strict=True)]
        features = torch.cat([each.features for each in read]).flatten(0, 1)  # (N, D)
        label, weight = (
            torch.cat(x).flatten() for x in zip(*((each.label, each.weight) for each in read), strict=True)
        )  # (N,)
        stress = [each.stress.flatten() for each in read if each.stress is not None]
        logits, nearest = self.head.compare(features)
        values, known = self.head.pixel_losses(logits, label)
        sizes = [each.label.numel() for each in read]
        teaching = self._stressed(weight * known, label, torch.cat(stress) if stress else None, sizes)
        losses = global_means(values, teaching, sizes, [each.denominator for each in read])
        agreeing = ((logits.argmax(dim=1) == label) & weight).sum()
        carry = PrototypeCarry(features.detach(), label, nearest, weight)
        return PrototypeTermOutput(losses, agreeing / weight.sum().clamp(min=1), carry)

    @torch.no_grad()
    def start(self, network: nn.Module, labeled: LabeledPass, *, seed: int = 0) -> None:
        """Start the prototypes by k-means on features of labelled crops, read in eval mode, but for those that are no numbers.

        Args:
            network: the student.
            labeled: a pass over labelled crops.
            seed: of k-means.

        Raises:
            ValueError: the pass brings no crop.
        """
        if not self.fit_start:
            return
        training = network.training
        network.eval()
        sample = EvenSample(self.head.num_classes, most=self.fit_points)
        empty = True
        try:
            for batch in labeled():
                out: SegOutput = network(batch.image)
                points = self._points([(batch.seed, 0)], (batch.mask.shape[-2], batch.mask.shape[-1]), batch.mask.device)
                read = read_features(out.features, points, out.covers, align_corners=out.align_corners)
                sample.add(read.flatten(0, 1), read_pixels(batch.mask, points).flatten())
                empty = False
        finally:
            network.train(training)
        if empty:
            raise ValueError("prototypes start from labelled crops, and the pass over them brought none")
        self.head.fit(*sample.taken(), seed=seed)

    @torch.no_grad()
    def advise(self, out: SegOutput, logits: Tensor) -> Tensor:
        """What both predictors say together, for `labels` "mean"; the linear one alone while a class has no prototypes.

        Args:
            out: of the teacher.
            logits: (B, C, H, W) of its linear predictor.

        Returns:
            (B, C, H, W) logits.
        """
        return torch.where(self.head.ready.all(), mean_of_predictors(logits, self._answer(out)), logits.float())

    @torch.no_grad()
    def veto(self, out: SegOutput, pseudo: PseudoLabel) -> PseudoLabel:
        """Leave out the pixels whose nearest prototype is of another class, for `labels` "agree".

        Args:
            out: of the teacher.
            pseudo: what its linear predictor says.

        Returns:
            PseudoLabel whose `label` is IGNORE_INDEX there. Without prototypes there is no veto.
        """
        agreed = (self._answer(out).argmax(dim=1) == pseudo.label) | ~self.head.ready.all()
        return pseudo._replace(label=torch.where(agreed, pseudo.label, IGNORE_INDEX))

    def _answer(self, out: SegOutput) -> Tensor:
        """(B, C, H, W) logits of the prototypes, up-sampled as the network's own are."""
        logits = F.interpolate(self.head(out.features), out.covers, mode="bilinear", align_corners=out.align_corners)
        return logits[..., : out.logits.shape[-2], : out.logits.shape[-1]]

    def update(self, carries: Sequence[PrototypeCarry]) -> None:
        """Move the prototypes by all points since the last optimizer step."""
        if carries:
            one, *others = carries
            if others:  # gradient accumulation; `cat` would copy a single one too
                one = PrototypeCarry(*(torch.cat(tensors) for tensors in zip(*carries, strict=True)))
            self.head.update(one.features, one.label, one.nearest, weight=one.weight)

    def _read(self, part: Part, points: Tensor, position: Tensor, index: Tensor) -> _Read:
        """What there is at the points (B, P, 2) of a part: their `unit_positions` and `places` are given."""
        label = read_places(part.label, index)
        return _Read(
            features=read_at(part.out.features, position, align_corners=part.out.align_corners),
            label=label,
            weight=label != IGNORE_INDEX if part.weight is None else read_places(part.weight, index),
            denominator=None if part.valid is None else read_places(part.valid, index).sum(dtype=torch.float32),
            stress=self._stress(part, points),
        )

    @torch.no_grad()
    def _stress(self, part: Part, points: Tensor) -> Tensor | None:
        """How much each point weighs by where it lies, (B, P); None where all weigh alike."""
        if self.emphasis == "boundary":
            real = part.label if part.valid is None else torch.where(part.valid, part.label, IGNORE_INDEX)
            return near_boundary(real, points, distance=_NEAR).float()
        if self.emphasis == "uncertain":
            return 1 - read_pixels(part.out.logits, points).float().softmax(dim=-1).amax(dim=-1)
        return None

    @torch.no_grad()
    def _stressed(self, weight: Tensor, label: Tensor, stress: Tensor | None, sizes: list[int]) -> Tensor:
        """Weights (N,) of the points that teach, parts being of these sizes: what is more for some points of a part is less
        for its others, over all processes."""
        if self.class_weight is not None:
            of_class = self.class_weight[torch.where(label == IGNORE_INDEX, 0, label)]
            stress = of_class if stress is None else stress * of_class
        if stress is None:
            return weight
        parts = torch.split(weight * stress, sizes)
        sums = [*(own.sum(dtype=torch.float32) for own in torch.split(weight, sizes)), *(part.sum() for part in parts)]
        total, left = mean_over_processes(torch.stack(sums)).chunk(2)
        factors = (total / torch.where(left > 0, left, 1.0)).unbind()
        return torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])

    def _points(self, draws: Sequence[tuple[Tensor, int]], size: tuple[int, int], device: torch.device) -> Tensor:
        """(B, P, 2) of images of one size, of which seeds (B,) and view are given part by part."""
        first, drawn = draws[0][0][:1], []
        for seed, view in draws:
            stream = "points" if view == 0 else f"points {view}"
            chosen = first.expand_as(seed) if self.shared_points else seed
            drawn.append(uniform(chosen, stream, self.points_per_cell * self.grid**2, 2))
        return sample_points(to_device(torch.cat(drawn), device), size, grid=self.grid, per_cell=self.points_per_cell)


class _Read(NamedTuple):
    features: Tensor  # (B, P, D)
    label: Tensor  # (B, P) int64
    weight: Tensor  # (B, P) bool
    denominator: Tensor | None  # scalar
    stress: Tensor | None  # (B, P)


def _extent(parts: Sequence[Part]) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """The size of the images, and what their feature maps cover in which way."""
    found = {((p.label.shape[-2], p.label.shape[-1]), p.out.covers, p.out.align_corners) for p in parts}
    if len(found) != 1:
        sizes = ", ".join(sorted(f"{height} x {width}" for (height, width), _, _ in found))
        raise ValueError(f"the prototype term reads images of one size and one network, got {sizes}; use one crop for all")
    return found.pop()


class PrototypeLosses(NamedTuple):
    """Of one batch: named losses, what each weighs against the linear losses, and what the update needs."""

    terms: dict[str, Tensor]
    weights: dict[str, float]
    agreement: Tensor
    carry: PrototypeCarry


def prototype_losses(
    term: PrototypeTerm, lesson: Lesson, labeled: LabeledBatch, unlabeled: UnlabeledBatch | None
) -> PrototypeLosses:
    """The prototype term on the labelled crops and on each view that learned from pseudo-labels.

    The views count as their linear losses do: the loss on unlabelled crops is their mean by these weights, and weighs their
    sum.

    Args:
        term: the prototypes.
        lesson: what the linear predictor learned.
        labeled, unlabeled: the batches it came from.
    """
    parts = [Part(lesson.labeled, labeled.mask, labeled.seed)]
    for view, (out, pseudo, confident, averaged, _) in enumerate(lesson.taught):
        assert unlabeled is not None
        parts.append(Part(out, pseudo.label, unlabeled.seed, confident, averaged, view))
    (of_labeled, *of_views), agreement, carry = term(parts)
    terms, weights = {"prototype_labeled": of_labeled}, {"prototype_labeled": float(term.images != "unlabeled")}
    if lesson.taught:
        total = sum(taught.weight for taught in lesson.taught)
        # Where they weigh nothing (`consistency.weight 0`), any mean of them does.
        shares = [taught.weight / total if total else 1 / len(lesson.taught) for taught in lesson.taught]
        first, *others = (share * loss for share, loss in zip(shares, of_views, strict=True))
        terms["prototype_consistency"] = sum(others, first)
        weights["prototype_consistency"] = total * (term.images != "labeled")
    return PrototypeLosses(terms, weights, agreement, carry)
