"""Which images of a data set a run had for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from protoseg.data.index import DataIndex, Sample
from protoseg.data.run_lists import read_run_lists


class Lists(NamedTuple):
    """The images of a run, each with the mask that it may be asked for."""

    labeled: list[Sample]
    unlabeled: list[Sample]  # without masks, whatever lies beside them
    evaluation: list[Sample]
    evaluation_name: str


def lists_of(run: Path, index: DataIndex) -> Lists:
    """Which images of a data set a run had for what.

    Raises:
        FileNotFoundError: the run does not say.
        ValueError: not all of them are there, or what it says is damaged.
    """
    stored = read_run_lists(run)
    there = {sample.name: sample for sample in (*index.samples, *index.spare)}

    def with_masks(names: Sequence[str]) -> list[Sample]:
        found = []
        for name in names:
            sample = there.get(name)
            mask = None if sample is None else sample.mask or sample.if_listed
            if sample is None or mask is None:
                raise ValueError(
                    f"{name}, which had a label in {run}, is not in {index.root} with a mask; give the data set that it was "
                    "trained on"
                )
            found.append(replace(sample, mask=mask))
        return found

    used = {*stored.labeled, *stored.evaluation}
    # Without their masks, so that none can be opened by mistake.
    rest = [replace(sample, mask=None, if_listed=None) for sample in index.of("train") if sample.name not in used]
    evaluation = with_masks(stored.evaluation)
    return Lists(with_masks(stored.labeled), sorted(rest, key=lambda s: s.name), evaluation, stored.evaluation_name)


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many of a list, evenly spaced."""
    number = min(most, len(samples))
    return [samples[i * len(samples) // number] for i in range(number)]
