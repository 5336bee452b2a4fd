"""What a data set is once its layout is forgotten: a list of samples and a table of classes. Every format fills these."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from protoseg.data.io import UInt8Array
from protoseg.types import IGNORE_INDEX

Split = Literal["train", "val", "test"]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Sample:
    """One image, and the file of its mask if there is one. Whether that mask may be used is decided by the partition."""

    name: str  # path below the image folder, without suffix: unique within a data set
    image: Path
    mask: Path | None
    split: Split


@dataclass(frozen=True)
class ClassTable:
    """Which mask value means which class.

    Attributes:
        names: of the classes, in the order of the network's outputs.
        values: the mask value of each class.
        colors: RGB of each class, for pictures.
        ignored: mask values that mean "not labelled".
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colors: tuple[Color, ...]
    ignored: tuple[int, ...] = (IGNORE_INDEX,)

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.values) == len(self.colors):
            raise ValueError(f"{len(self.names)} names, {len(self.values)} values and {len(self.colors)} colours do not match")
        if len(self.names) > IGNORE_INDEX:
            raise ValueError(f"8-bit masks hold at most {IGNORE_INDEX} classes, got {len(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def unknown(self, mask: UInt8Array) -> dict[int, int]:
        """Mask values that are neither a class nor ignored, with the number of their pixels."""
        counts = np.bincount(mask.ravel(), minlength=256)
        known = {*self.values, *self.ignored}
        return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist() if value not in known}

    def encode(self, mask: UInt8Array) -> UInt8Array:
        """Mask values to class ids 0..C-1, IGNORE_INDEX for the ignored ones.

        Raises:
            ValueError: the mask holds a value that is not in the table.
        """
        if unknown := self.unknown(mask):
            value, count = next(iter(unknown.items()))
            raise ValueError(f"value {value} ({count} pixels) is not in the class list")
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        table[list(self.values)] = np.arange(len(self), dtype=np.uint8)
        return table[mask]

    def decode(self, label: UInt8Array) -> UInt8Array:
        """Class ids back to the mask values of the data set."""
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        table[: len(self)] = self.values
        return table[label]

    def palette(self) -> dict[int, Color]:
        """Colour of each mask value, for index PNGs."""
        return dict(zip(self.values, self.colors, strict=True))


def default_colors(count: int) -> tuple[Color, ...]:
    """Colours that are far apart: hues by the golden ratio, three levels of brightness."""
    colors = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb((0.61 + i * 0.618034) % 1.0, (0.75, 0.55, 0.9)[i % 3], (0.95, 0.75, 0.55)[i // 3 % 3])
        colors.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return tuple(colors)


def table_from_names(names: Sequence[str], *, ignored: Iterable[int] = (IGNORE_INDEX,)) -> ClassTable:
    """Classes 0..C-1 with the given names."""
    return ClassTable(tuple(names), tuple(range(len(names))), default_colors(len(names)), tuple(ignored))


def table_from_values(values: Iterable[int]) -> ClassTable:
    """One class for each mask value, named by it."""
    found = tuple(sorted(set(values) - {IGNORE_INDEX}))
    return ClassTable(tuple(unnamed(value) for value in found), found, default_colors(len(found)))


def unnamed(value: int) -> str:
    """What a class is called that has no name."""
    return f"class {value}"


@dataclass(frozen=True)
class DataIndex:
    """A data set as found on disk.

    Attributes:
        root: its folder.
        format: the name of its layout.
        samples: all images, sorted by name, of every split.
        classes: the class table where the data set has one; None where it has to be read off the labelled masks.
    """

    root: Path
    format: str
    samples: tuple[Sample, ...]
    classes: ClassTable | None

    def of(self, split: Split) -> list[Sample]:
        return [sample for sample in self.samples if sample.split == split]
