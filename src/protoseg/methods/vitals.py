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
def read_vitals(lessons: Sequence[Lesson], carries: Sequence[PrototypeCarry], *, per_class: int) -> Vitals:
    """Count classes, agreement and the use of prototypes, on the device.

    Args:
        lessons: what the method made of the batch, for each network that it trains; counted together.
        carries: of the prototype term of each; empty without it. Prototypes of two networks have nothing to do with one
            another, so their use is that of the first.
        per_class: K.
    """
    num_classes = lessons[0].labeled.logits.shape[1]
    labels = [lesson.pseudo for lesson in lessons if lesson.pseudo is not None]
    pseudo = [class_counts(_thin(given.label), num_classes, keep=_thin(given.valid)) for given in labels]
    agreeing, compared = [], []
    for taught in (lesson.taught[0] for lesson in lessons if lesson.taught):
        target = _thin(taught.pseudo.label)
        known = _thin(taught.pseudo.valid) & (target != IGNORE_INDEX)
        agreeing.append(((_thin(taught.out.logits).argmax(dim=1) == target) & known).sum())
        compared.append(known.sum())
    use = [prototype_counts(c.label, c.nearest, per_class, keep=c.weight) for c in carries[:1]]
    return Vitals(*(torch.stack(counts).sum(dim=0) if counts else None for counts in (pseudo, agreeing, compared)), *use)


def _thin(x: Tensor) -> Tensor:
    return x[..., ::_EVERY, ::_EVERY]
