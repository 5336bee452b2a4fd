"""Labels only: the baseline that every run is compared with. With prototypes it has their labelled half."""

from __future__ import annotations

from protoseg.methods.base import Method


class Supervised(Method):
    """The labelled loss alone. Scored, like every method, by the moving average of its weights."""

    uses_unlabeled = False
