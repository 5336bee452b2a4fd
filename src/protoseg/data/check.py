"""Decode every labelled image and mask before training: they are few, and each fault found here saves a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg.data.index import ClassTable, DataIndex, Sample, table_from_values
from protoseg.data.io import UInt8Array, read_image, read_mask
from protoseg.data.splits import Partition
from protoseg.types import IGNORE_INDEX


@dataclass(frozen=True)
class LabelReport:
    """What decoding the labelled images showed.

    Attributes:
        classes: the class table, given or read off the labelled masks.
        pixels: (C,) labelled training pixels of each class.
        sizes: (H, W) -> number of labelled training images of that size, most frequent first.
    """

    classes: ClassTable
    pixels: NDArray[np.int64]
    sizes: dict[tuple[int, int], int]


@dataclass(frozen=True)
class CheckedData:
    """Everything about the images of a run, after every labelled one has been decoded."""

    index: DataIndex
    partition: Partition
    report: LabelReport

    @property
    def classes(self) -> ClassTable:
        return self.report.classes


def read_pair(sample: Sample) -> tuple[UInt8Array, UInt8Array]:
    """Read a labelled image and its mask.

    Raises:
        ValueError: one of them is unreadable, or their sizes differ.
    """
    assert sample.mask is not None
    image, mask = read_image(sample.image), read_mask(sample.mask)
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"{sample.mask} is {_size(mask.shape)} but its image {sample.image} is {_size(image.shape)}; "
            "they must be equal (after EXIF orientation)"
        )
    return image, mask


def check_labels(index: DataIndex, partition: Partition) -> LabelReport:
    """Decode all labelled training and evaluation images, and check every mask value.

    Raises:
        ValueError: the first fault, with the file's name and what to do.
    """
    histograms, sizes = [], dict[tuple[int, int], int]()
    for sample in partition.labeled:
        _, mask = read_pair(sample)
        histograms.append(np.bincount(mask.ravel(), minlength=256))
        sizes[mask.shape] = sizes.get(mask.shape, 0) + 1
    total = np.sum(histograms, axis=0)
    classes = index.classes or table_from_values(np.flatnonzero(total).tolist())
    for sample, histogram in zip(partition.labeled, histograms, strict=True):
        _check_values(sample, histogram, classes)
    _check_several(total, classes, partition.labeled)
    scored = 0
    for sample in partition.evaluation:
        _, mask = read_pair(sample)
        histogram = np.bincount(mask.ravel(), minlength=256)
        _check_values(sample, histogram, classes)
        scored += int(sum(histogram[value] for value in classes.values if value not in classes.ignored))
    if partition.evaluation and not scored:
        raise ValueError(
            f"the {len(partition.evaluation)} evaluation masks (the first is {partition.evaluation[0].mask}) are ignored "
            "everywhere, so there is nothing to score on"
        )
    by_count = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    return LabelReport(classes, total[list(classes.values)], by_count)


def mask_values(sample: Sample) -> frozenset[int]:
    """The values in the mask of a labelled image, 255 aside."""
    assert sample.mask is not None
    return frozenset(np.unique(read_mask(sample.mask)).tolist()) - {IGNORE_INDEX}


def _check_several(histogram: NDArray[np.int64], classes: ClassTable, labeled: Sequence[Sample]) -> None:
    seen = [value for value in classes.values if histogram[value] and value not in classes.ignored]
    if len(seen) >= 2:
        return
    which = f"the {len(labeled)} labelled masks (the first is {labeled[0].mask})"
    if not seen:
        raise ValueError(f"{which} are ignored (255) everywhere; label some pixels of at least two classes")
    binary = np.flatnonzero(histogram).tolist() == [0, IGNORE_INDEX]
    hint = "255 means 'not labelled', so store the second class as 1" if binary else "label at least two classes"
    raise ValueError(f"{which} hold one class only, the value {seen[0]}; {hint}")


def _check_values(sample: Sample, histogram: NDArray[np.int64], classes: ClassTable) -> None:
    known = {*classes.values, *classes.ignored}
    unknown = [value for value in np.flatnonzero(histogram).tolist() if value not in known]
    if unknown:
        value = unknown[0]
        accepted = _ranges([*classes.values, *classes.ignored])
        raise ValueError(
            f"{sample.mask} holds the value {value} in {histogram[value]} pixels, which is no class; the {len(classes)} classes"
            f" "
            f"and 'ignore' are {accepted}. Correct the mask, or list every class in classes.txt"
        )


def _ranges(values: Iterable[int]) -> str:
    """`0-10, 255` for 0, 1, ..., 10, 255."""
    ordered, parts = sorted(set(values)), list[str]()
    start = previous = ordered[0]
    for value in [*ordered[1:], -1]:
        if value != previous + 1:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = value
        previous = value
    return ", ".join(parts)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"
