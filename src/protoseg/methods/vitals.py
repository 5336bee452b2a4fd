"""What the health of a run is read from, one batch at a time.

B images · C classes · K prototypes per class · H W crop
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from protoseg.functional.counts import class_counts, prototype_counts
from protoseg.methods.lesson import Lesson
from protoseg.methods.prototype_term import PrototypeCarry
from protoseg.types import IGNORE_INDEX, Vitals

_EVERY = 4  # pixels in each direction: one in sixteen tells as much, neighbours being alike


@torch.no_grad()
def read_vitals(lesson: Lesson, carries: Sequence[PrototypeCarry], *, per_class: int) -> Vitals:
    """Count classes, agreement and the use of prototypes, on the device.

    Args:
        lesson: what the method made of the batch.
        carries: of the prototype term; empty without it.
        per_class: K.
    """
    num_classes = lesson.labeled.logits.shape[1]
    pseudo = agreeing = compared = None
    if lesson.pseudo is not None:
        pseudo = class_counts(_thin(lesson.pseudo.label), num_classes, keep=_thin(lesson.pseudo.valid))
    if lesson.taught:
        taught = lesson.taught[0]
        target = _thin(taught.pseudo.label)
        known = _thin(taught.pseudo.valid) & (target != IGNORE_INDEX)
        agreeing = ((_thin(taught.out.logits).argmax(dim=1) == target) & known).sum()
        compared = known.sum()
    use = None
    if carries:
        counts = [prototype_counts(c.label, c.nearest, per_class, keep=c.weight.bool()) for c in carries]
        use = torch.stack(counts).sum(dim=0)
    return Vitals(pseudo, agreeing, compared, use)


def _thin(x: Tensor) -> Tensor:
    return x[..., ::_EVERY, ::_EVERY]
