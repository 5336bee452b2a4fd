"""What every method is to the engine: a module that turns two batches into a loss, and moves its slow parts after the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from protoseg.functional.schedules import ema_momentum
from protoseg.nn.distributed import average_buffers_
from protoseg.nn.teacher import Teacher
from protoseg.types import LabeledBatch, SegOutput, StepOutput, UnlabeledBatch


class SegmentationNetwork(Protocol):
    """What a method asks of a network; `Segmenter`, `DeepLabV3Plus` and `SmallUNet` are such networks."""

    num_classes: int
    in_channels: int
    feature_channels: int
    stride: int

    def __call__(self, image: Tensor) -> SegOutput: ...
    def encoder_parameters(self) -> Iterator[nn.Parameter]: ...


SegmentationLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, C, H, W), mask (B, H, W)) -> scalar"""

LabeledPass = Callable[[], Iterator[LabeledBatch]]
"""Starts one pass over crops of the labelled images, the same ones whenever it is called at the same step."""


class Method(nn.Module):
    """One training step of one paper.

    Everything that has to survive a checkpoint is a parameter or a buffer: `state_dict` is the method's part of it. What
    ships is `predictor`.

    Args:
        student: the network that the optimizer trains.
        ema_momentum: of the teacher, whose weights are also what is evaluated, for every method alike.
        warmup_steps: steps on labels only; until then the teacher is a copy of the student.
    """

    uses_unlabeled = True

    def __init__(self, student: nn.Module, *, ema_momentum: float = 0.99, warmup_steps: int = 0) -> None:
        super().__init__()
        if not 0 <= ema_momentum < 1:
            raise ValueError(f"ema_momentum must be in [0, 1), got {ema_momentum}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 or more, got {warmup_steps}")
        self.student = student
        self.teacher = Teacher(student)
        self.ema_momentum, self.warmup_steps = ema_momentum, warmup_steps

    def forward(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch | None, *, step: int) -> StepOutput:
        """Compute the loss of one batch. Writes nothing but BatchNorm statistics.

        Args:
            labeled: labelled crops.
            unlabeled: unlabelled crops; None for a method that does not use them.
            step: optimizer steps done so far.
        """
        raise NotImplementedError

    def before_step(self, labeled: LabeledPass, *, step: int) -> None:
        """Prepare for a step, e.g. start prototypes from labelled features. Called before each optimizer step."""

    def after_step(self, carries: Sequence[Any], *, step: int) -> None:
        """Move what moves without a gradient, after the optimizer step.

        Args:
            carries: `StepOutput.carry` of each forward pass since the last step (several under gradient accumulation).
            step: as it was in these forward passes.
        """
        average_buffers_(self.student)
        momentum = ema_momentum(step, momentum=self.ema_momentum, start=self.warmup_steps)
        self.teacher.update(self.student, momentum)

    def prototype_state(self) -> dict[str, Tensor]:
        """Prototypes to ship beside the predictor; none for a method that keeps none."""
        return {}

    @property
    def predictor(self) -> nn.Module:
        """The network to evaluate and ship."""
        return self.teacher.network

    @property
    def network(self) -> SegmentationNetwork:
        return cast(SegmentationNetwork, self.student)
