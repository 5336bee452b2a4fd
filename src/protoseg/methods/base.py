"""What every method is to the engine, and what all methods share: warm-up, labelled loss, EMA teacher, the prototype term.

B_l B_u labelled/unlabelled images · C classes · H W crop
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from protoseg.functional.losses import SegmentationLoss, cross_entropy
from protoseg.functional.processes import average_buffers_
from protoseg.functional.pseudo_label import consistency_loss, pseudo_label, selected
from protoseg.functional.schedules import ema_momentum
from protoseg.methods.lesson import Lesson, Taught
from protoseg.methods.prototype_term import PrototypeCarry, PrototypeTerm, prototype_losses
from protoseg.methods.vitals import read_vitals
from protoseg.nn.class_thresholds import ClassThresholds
from protoseg.nn.projection import Projected
from protoseg.nn.share_alignment import ShareAlignment
from protoseg.nn.teacher import Teacher
from protoseg.types import (
    IGNORE_INDEX,
    LabeledBatch,
    LabeledPass,
    PseudoLabel,
    SegmentationNetwork,
    SegOutput,
    StepOutput,
    UnlabeledBatch,
)


class Trained(NamedTuple):
    """A network that the optimizer trains, with its prototypes."""

    name: str  # behind the names of its losses
    network: nn.Module
    prototypes: PrototypeTerm | None


class StepCarry(NamedTuple):
    """What the shared parts need after the step, and what the method itself does, detached."""

    prototypes: Sequence[PrototypeCarry] = ()  # of each trained network; none before they start
    pseudo_count: Tensor | None = None  # (C,)
    confidence: Tensor | None = None  # (2, C) of `ClassThresholds.count`
    own: Any = None


class SharedOptions(TypedDict, total=False):
    """Options of every method; `Method` says what they mean."""

    labeled_loss: SegmentationLoss
    auxiliary_weight: float
    ema_momentum: float
    warmup_steps: int
    unlabeled_weight: float
    prototypes: PrototypeTerm | None
    prototype_weight: float
    prototype_delay: int
    alignment: ShareAlignment | None
    class_thresholds: ClassThresholds | None
    seed: int


class Method(nn.Module):
    """One training step of one paper.

    A method of its own is `learn`, which reads like the paper's figure, and `weights`, the paper's loss formula. Everything
    that has to survive a checkpoint is a parameter or a buffer: `state_dict` is the method's part of it. What ships is
    `predictor`.

    Args:
        student: the network that the optimizer trains.
        labeled_loss: of the linear predictor on labelled crops, (logits, mask) -> scalar.
        auxiliary_weight: of the second head, where the network has one, against the first.
        ema_momentum: of the teacher, whose weights are also what is evaluated, for every method alike.
        warmup_steps: steps on labels only; until then the teacher is a copy of the student.
        unlabeled_weight: multiplies every loss on unlabelled crops.
        prototypes: the prototype term of arXiv 2210.04388; None for none.
        prototype_weight: of each of its losses, against the linear loss on the same pixels.
        prototype_delay: steps between the end of the warm-up and the start of the prototypes.
        alignment: of the shares of the classes among pseudo-labels; None for none.
        class_thresholds: lower thresholds for classes that the teacher is less sure of; None for one threshold.
        seed: of the k-means start.

    Raises:
        ValueError: a number is out of range, or the student has more classes than there may be.
    """

    uses_unlabeled = True
    needs_warmup = True
    """Whether it labels with what it is still learning, and so has to learn from labels alone first."""
    needs_labeler = False
    """Whether a finished model labels for it: the run trains that first, and `learn_from` takes its weights."""
    threshold: float | None = None
    """Lowest confidence that counts; None for a method without one."""
    own_momentum = 0.99
    """Of the teacher, in the paper."""
    trained_names: ClassVar[tuple[str, ...]] = ("",)
    """Of the networks that it trains, behind the names of their losses."""
    reads_features = False
    """Whether it reads the network's features itself, beside the prototypes."""
    num_strong = 1
    """Strong views that it asks for."""
    num_snapshots = 0
    """Earlier states of its network that it keeps on the device."""
    own_color_style: ClassVar[Literal["jitter", "random"]] = "jitter"
    """Of the strong views, in the paper; `BatchViews` says what they are."""
    labeled_weight = 1.0
    """Of the loss on labelled crops, in the paper's formula."""
    unlabeled_weights: ClassVar[Mapping[str, float]] = {}
    """Of each of the method's own terms on unlabelled crops, in the paper's formula."""
    labeled_weights: ClassVar[Mapping[str, float]] = {}
    """Of each of the method's own terms on labelled crops, in the paper's formula."""

    def __init__(self, student: nn.Module, **options: Unpack[SharedOptions]) -> None:
        super().__init__()
        self.student = student
        self.teacher = Teacher(student)
        self.labeled_loss = options.get("labeled_loss", cross_entropy)
        self.ema_momentum, self.warmup_steps = options.get("ema_momentum", self.own_momentum), options.get("warmup_steps", 0)
        self.prototypes, self.alignment = options.get("prototypes"), options.get("alignment")
        self.class_thresholds = options.get("class_thresholds")
        delay = options.get("prototype_delay", 0)
        self.prototype_start, self.seed = self.warmup_steps + delay, options.get("seed", 0)
        self.prototype_weight = options.get("prototype_weight", 1.0)
        self.unlabeled_weight = options.get("unlabeled_weight", 1.0)
        self.auxiliary_weight = options.get("auxiliary_weight", 0.4)
        if (num_classes := cast(SegmentationNetwork, student).num_classes) > IGNORE_INDEX:
            raise ValueError(f"label {IGNORE_INDEX} means ignored, so there can be {IGNORE_INDEX} classes, got {num_classes}")
        if not 0 <= self.ema_momentum < 1:
            raise ValueError(f"ema_momentum must be in [0, 1), got {self.ema_momentum}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")
        if delay < 0:
            raise ValueError(f"prototype_delay must be 0 or more, got {delay}")

    def learn(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, step: int) -> Lesson:
        """The method's own step, after the warm-up. Writes nothing but BatchNorm statistics."""
        raise NotImplementedError

    def learn_labels(self, part: Trained, labeled: LabeledBatch) -> Lesson:
        """The method's own step in the warm-up, for one of its networks."""
        return Lesson(part.network(labeled.image))

    def forward(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch | None = None, *, step: int) -> StepOutput:
        """Compute the loss of one batch. Writes nothing but BatchNorm statistics.

        Args:
            labeled: labelled crops.
            unlabeled: unlabelled crops; not needed by a method that does not use them, nor during the warm-up.
            step: optimizer steps done so far.
        """
        trained = self.trained()
        if not self.uses_unlabeled or step < self.warmup_steps:
            lessons = [self.learn_labels(part, labeled) for part in trained]
        else:
            assert unlabeled is not None, "this method learns from unlabelled images"
            lesson = self.learn(labeled, unlabeled, step=step)
            lessons = [lesson] if lesson.peer is None else [lesson, lesson.peer]
        terms: dict[str, Tensor] = {}
        weights, monitors = self.weights(), dict(lessons[0].monitors)
        prototypes: list[PrototypeCarry] = []
        for (name, _, prototype_term), lesson in zip(trained, lessons, strict=True):
            terms[f"labeled{name}"] = self.labeled_loss(lesson.labeled.logits, labeled.mask)
            if lesson.labeled.auxiliary is not None:
                terms[f"auxiliary{name}"] = self.labeled_loss(lesson.labeled.auxiliary, labeled.mask)
            terms |= lesson.terms
            if prototype_term is not None and step >= self.prototype_start:
                losses = prototype_losses(prototype_term, lesson, labeled, unlabeled)
                terms |= {f"{key}{name}": term for key, term in losses.terms.items()}
                proportion = {"prototype_labeled": self.labeled_weight}
                for key, weight in losses.weights.items():
                    weights[f"{key}{name}"] = self.prototype_weight * proportion.get(key, 1.0) * weight
                monitors[f"prototype_agreement{name}"] = losses.agreement
                prototypes.append(losses.carry)
        loss = lessons[0].scale * torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        pseudo = lessons[0].pseudo
        sure = None if self.class_thresholds is None or pseudo is None else self.class_thresholds.count(pseudo)
        named = None if self.alignment is None or pseudo is None else self.alignment.count(pseudo.label, pseudo.valid)
        carry = StepCarry(tuple(prototypes), named, sure, lessons[0].carry)
        per_class = 0 if self.prototypes is None else self.prototypes.head.per_class
        vitals = read_vitals(lessons, prototypes, per_class=per_class)
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()}, monitors, carry, vitals)

    def learn_from(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a finished model of the same network, where the method needs one."""
        raise NotImplementedError

    def trained(self) -> tuple[Trained, ...]:
        """The networks that the optimizer trains, the one that ships first."""
        return (Trained(self.trained_names[0], self.student, self.prototypes),)

    def weights(self) -> dict[str, float]:
        """Of every term that is not a prototype loss."""
        weights = {name: self.unlabeled_weight * weight for name, weight in self.unlabeled_weights.items()}
        weights |= self.labeled_weights
        for part in self.trained():
            weights[f"labeled{part.name}"] = self.labeled_weight
            weights[f"auxiliary{part.name}"] = self.labeled_weight * self.auxiliary_weight
        return weights

    def aligned(self, logits: Tensor) -> Tensor:
        """Logits (B_u, C, H, W) that label, with the shares of the classes aligned where that is asked for."""
        return logits if self.alignment is None else self.alignment(logits)

    @torch.no_grad()
    def label(self, out: SegOutput, valid: Tensor, *, prototypes: PrototypeTerm | None = None) -> tuple[Tensor, PseudoLabel]:
        """What a teacher teaches: its logits, with the shares of the classes aligned and the prototypes' opinion where that is
        asked for, and the labels that follow.

        Args:
            out: of the teacher, B_u unlabelled images.
            valid: (B_u, H, W) bool, False on padding.
            prototypes: whose opinion; the student's when left out.

        Returns:
            (B_u, C, H, W) logits and the PseudoLabel.
        """
        term = self.prototypes if prototypes is None else prototypes
        logits = self.aligned(out.logits.detach())
        if term is not None and term.labels == "mean":
            logits = term.advise(out, logits)
        pseudo = pseudo_label(logits, valid)
        return logits, term.veto(out, pseudo) if term is not None and term.labels == "agree" else pseudo

    def learn_views(
        self, views: Mapping[str, tuple[SegOutput, PseudoLabel]], *, threshold: float | Tensor
    ) -> tuple[dict[str, Tensor], list[Taught]]:
        """The consistency loss of each view with its target, by the loss's name, and what the prototype term needs of them."""
        weights, terms, taught = self.weights(), dict[str, Tensor](), list[Taught]()
        for name, (view, target) in views.items():
            terms[name] = consistency_loss(view.logits, target, threshold=threshold)
            taught.append(Taught(view, target, selected(target, threshold), target.valid, weights[name]))
        return terms, taught

    def thresholds(self) -> float | Tensor:
        """Lowest confidence that counts, or (C,) one for each class where that is asked for."""
        assert self.threshold is not None
        return self.threshold if self.class_thresholds is None else self.threshold * self.class_thresholds()

    def before_step(self, labeled: LabeledPass, *, step: int) -> None:
        """Prepare for a step: start the prototypes from labelled features. Called before each optimizer step."""
        if step == self.prototype_start:
            for part in self.trained():
                if part.prototypes is not None:
                    part.prototypes.start(part.network, labeled, seed=self.seed)

    def after_step(self, carries: Sequence[StepCarry], *, step: int) -> None:
        """Move what moves without a gradient, after the optimizer step.

        Args:
            carries: `StepOutput.carry` of each forward pass since the last step (several under gradient accumulation). One
                that holds zeros alone is of a step that was dropped, and changes nothing.
            step: as it was in these forward passes.
        """
        for part in self.trained():
            average_buffers_(part.network)
        momentum = ema_momentum(step, momentum=self.ema_momentum, start=self.warmup_steps)
        self.teacher.update(self.student, momentum)
        for i, part in enumerate(self.trained()):
            if part.prototypes is not None:
                part.prototypes.update([carry.prototypes[i] for carry in carries if carry.prototypes])
        if self.alignment is not None:
            for carry in carries:
                if carry.pseudo_count is not None:
                    self.alignment.update(carry.pseudo_count)
        if self.class_thresholds is not None:
            for carry in carries:
                if carry.confidence is not None:
                    self.class_thresholds.update(carry.confidence)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer trains."""
        return chain.from_iterable(part.network.parameters() for part in self.trained())

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Those that start from pre-trained weights and usually get the lower learning rate."""
        return chain.from_iterable(cast(SegmentationNetwork, part.network).encoder_parameters() for part in self.trained())

    @torch.no_grad()
    def ema_distance(self) -> float:
        """How far the teacher is from the student, relative to the length of the student: the larger number of that of the
        parameters and that of the buffers, which are BatchNorm's statistics. Waits for the device."""
        teacher, student = self.teacher.network, self.student
        distances = [_distance(teacher.parameters(), student.parameters()), _distance(teacher.buffers(), student.buffers())]
        return float(torch.stack(distances).max())

    def prototype_state(self) -> dict[str, Tensor]:
        """Prototypes to ship beside the predictor; none for a method that keeps none."""
        return {} if self.prototypes is None else self.prototypes.head.state_dict()

    @property
    def predictor(self) -> nn.Module:
        """The network to evaluate and ship."""
        return self.teacher.network

    @property
    def may_idle(self) -> bool:
        """Whether parameters go without a gradient for a while: a projection is there for the prototypes alone, which start
        late, or never for labels only. DDP has to be told."""
        return any(isinstance(part, Projected) for part in self.modules())

    @property
    def network(self) -> SegmentationNetwork:
        return cast(SegmentationNetwork, self.student)


def _distance(ours: Iterator[Tensor], theirs: Iterator[Tensor]) -> Tensor:
    """|ours - theirs| / |theirs| over all floating-point tensors; 0 where there are none."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b.is_floating_point()]
    apart = [(a - b).float().pow(2).sum() for a, b in pairs]
    length = [b.float().pow(2).sum() for _, b in pairs]
    return (torch.stack(apart).sum() / torch.stack(length).sum().clamp(min=1e-12)).sqrt() if pairs else torch.zeros(())


def together(network: nn.Module, *images: Tensor) -> list[SegOutput]:
    """One forward pass over several batches, so that BatchNorm sees all of them."""
    out: SegOutput = network(torch.cat(images))
    return out.split([len(image) for image in images])


def checked_threshold(threshold: float) -> float:
    """A lowest confidence.

    Raises:
        ValueError: it is no probability.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
    return threshold


def checked_percent(percent: float) -> float:
    """A share of pixels to drop, in per cent.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"drop_percent is a share of pixels in [0, 100], got {percent}")
    return percent


def confident_share(confident: Tensor, valid: Tensor) -> Tensor:
    """Of the pixels that are not padding, how many teach."""
    return confident.sum() / valid.sum().clamp(min=1)
