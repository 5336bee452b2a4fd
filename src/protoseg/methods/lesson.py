"""What a method hands to the parts that all methods share.

B_u unlabelled images · C classes · H W crop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from protoseg.types import PseudoLabel, SegOutput


class Taught(NamedTuple):
    """A view of the unlabelled crops that learns from pseudo-labels: where the prototype term teaches too."""

    out: SegOutput
    pseudo: PseudoLabel  # mixed as the view is
    confident: Tensor  # (B_u, H, W) bool: the pixels that teach
    averaged: Tensor | None  # (B_u, H, W) bool: the pixels that the loss is averaged over; None for those that teach
    weight: float  # of this view's linear loss


@dataclass
class Lesson:
    """What a method makes of one batch, before the parts that all methods share.

    Attributes:
        labeled: the student's output on the labelled crops.
        terms: the method's own named losses, scalars with a graph.
        taught: the views that learned from pseudo-labels.
        pseudo: pseudo-labels of the weak views, before mixing.
        monitors: detached scalars worth a look.
        carry: what the method's own `after_step` needs, detached.
        peer: the same for a second network that is trained beside the student.
        scale: of the whole loss, where the paper's formula divides by something that changes.
    """

    labeled: SegOutput
    terms: dict[str, Tensor] = field(default_factory=dict)
    taught: Sequence[Taught] = ()
    pseudo: PseudoLabel | None = None
    monitors: dict[str, Tensor] = field(default_factory=dict)
    carry: Any = None
    peer: Lesson | None = None
    scale: float = 1.0
