"""What a data set is once its layout is forgotten: a list of samples and a table of classes. Every format fills these."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoseg.data.io import UInt8Array, is_text
from protoseg.data.masks import COLOR, Color, MaskArray, MaskSource, count_values, describe, pack, unpack
from protoseg.data.samples import Sample as Sample
from protoseg.data.samples import Samples, packed
from protoseg.data.samples import Split as Split
from protoseg.data.shapes import BlankMask, ShapesMask
from protoseg.types import IGNORE_INDEX
from protoseg.words import counted

_SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def named_split(word: str) -> Split | None:
    """The split that a folder, a list or a subset is called after, in any case; None for every other name."""
    return _SPLIT_NAMES.get(word.lower())


def split_among(words: Iterable[str]) -> Split:
    """The split that the words of a path or name speak of: where one is called after an evaluation split, that one."""
    named = {named_split(word) for word in words}
    return "val" if "val" in named else "test" if "test" in named else "train"


BACKGROUND = "background"
"""The class that no shape of an annotation file covers."""

EXTRA = "unlabeled:"
"""Prefix of the names of images from a further folder."""


@dataclass(frozen=True)
class ClassTable:
    """Which mask value means which class.

    Attributes:
        names: of the classes, in the order of the network's outputs.
        values: the mask values of each class, at least one: numbers, or packed colours (`data.masks.pack`).
        colors: RGB of each class, for pictures.
        ignored: mask values that mean "not labelled".
        ignored_by_rule: those of them that are a class which the settings ignore.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    colors: tuple[Color, ...]
    ignored: tuple[int, ...] = (IGNORE_INDEX,)
    ignored_by_rule: tuple[int, ...] = field(default=(), compare=False)  # it changes no label

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.values) == len(self.colors):
            raise ValueError(f"{len(self.names)} names, {len(self.values)} values and {len(self.colors)} colours do not match")
        if len(self.names) > IGNORE_INDEX:
            raise ValueError(
                f"there can be at most {IGNORE_INDEX} classes, got {len(self.names)}: masks are 8-bit numbers inside, and "
                f"{IGNORE_INDEX} means 'not labelled'; list fewer, and give the rest to one class or to 'ignore'"
            )
        if repeated := next((name for name in self.names if self.names.count(name) > 1), None):
            raise ValueError(f"two classes are called {repeated!r}")
        for name in self.names:
            if fault := _fault_of_name(name):
                raise ValueError(f"the class name {name!a} {fault}; correct it in the data or in the list of classes")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def class_of(self) -> dict[int, int]:
        """Class id of each mask value, IGNORE_INDEX for the ignored ones, which win."""
        table = {value: c for c, values in enumerate(self.values) for value in values}
        return table | dict.fromkeys(self.ignored, IGNORE_INDEX)

    @property
    def written(self) -> tuple[int, ...]:
        """The number that stands for each class in a written index mask: the data set's own, or 0, 1, ... where it has none."""
        first = tuple(values[0] for values in self.values)
        return first if max(first) < 256 else tuple(range(len(self)))

    def unknown(self, mask: MaskArray) -> dict[int, int]:
        """Mask values that are neither a class nor ignored, with the number of their pixels."""
        known = self.class_of
        return {value: count for value, count in count_values(mask).items() if value not in known}

    def encode(self, mask: MaskArray) -> UInt8Array:
        """Mask values to class ids 0..C-1, IGNORE_INDEX for the ignored ones.

        Raises:
            UnknownValueError: the mask holds a value that is not in the table.
        """
        first = COLOR if mask.dtype == np.int32 else 0
        label = _lookup(self, first)[mask - first]
        if (label == _UNKNOWN).any():
            value, count = next(iter(self.unknown(mask).items()))
            raise UnknownValueError(f"value {describe(value)} ({counted(count, 'pixel')}) is not in the class list", value)
        return label.astype(np.uint8)

    def decode(self, label: UInt8Array) -> UInt8Array:
        """Class ids to the numbers of a written index mask."""
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        table[: len(self)] = self.written
        return table[label]

    def palette(self) -> dict[int, Color]:
        """Colour of each number in a written index mask."""
        return dict(zip(self.written, self.colors, strict=True))


class UnknownValueError(ValueError):
    """A mask holds a value that is no class.

    Attributes:
        value: the first such value.
    """

    def __init__(self, message: str, value: int = -1) -> None:  # a DataLoader makes it anew of the message alone
        super().__init__(message)
        self.value = value


def _fault_of_name(name: str) -> str:
    """Why a list, a table or a page could not hold a name; empty where all can."""
    if not is_text(name):
        return "is no text in UTF-8"
    if not name.strip():
        return "is empty"
    return "holds a line break or another control letter" if _CONTROL.search(name) else ""


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # without the tab, which lists put between words
_UNKNOWN = -1


@lru_cache(maxsize=4)
def _lookup(classes: ClassTable, first: int) -> NDArray[np.int16]:
    """Class id of every number below 65,536 (`first` = 0) or every colour (`first` = COLOR; 32 MB in each process)."""
    table = np.full(1 << 24 if first else 1 << 16, _UNKNOWN, dtype=np.int16)
    for value, label in classes.class_of.items():
        if 0 <= value - first < len(table):
            table[value - first] = label
    return table


def in_order(index: DataIndex, names: Sequence[str], colors: Sequence[Color]) -> DataIndex:
    """An index of annotation files with its classes in the order of a list, under the numbers 0, 1, ... of that list.

    Args:
        index: with a class table.
        names: all of its classes, and perhaps others.
        colors: of the names, for pictures.
    """
    assert index.classes is not None
    new = {values[0]: names.index(name) for name, values in zip(index.classes.names, index.classes.values, strict=True)}

    def renumbered(mask: MaskSource | None) -> MaskSource | None:
        return mask.renumbered(new) if isinstance(mask, ShapesMask | BlankMask) else mask

    samples = (replace(s, mask=renumbered(s.mask), if_listed=renumbered(s.if_listed)) for s in index.samples)
    values = tuple((i,) for i in range(len(names)))
    table = ClassTable(tuple(names), values, tuple(colors), index.classes.ignored)
    return replace(index, samples=Samples(samples), classes=table)


def default_colors(count: int) -> tuple[Color, ...]:
    """Colours that are far apart: hues by the golden ratio, three levels of brightness."""
    colors = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb((0.61 + i * 0.618034) % 1.0, (0.75, 0.55, 0.9)[i % 3], (0.95, 0.75, 0.55)[i // 3 % 3])
        colors.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return tuple(colors)


def table_from_names(
    names: Sequence[str],
    colors: Sequence[Color] | None = None,
    *,
    numbers: Sequence[int] | None = None,
    ignored: Iterable[int] = (IGNORE_INDEX,),
) -> ClassTable:
    """Classes with the given names, for index masks and for colour masks alike.

    Args:
        names: of the classes, in order.
        colors: of the classes in colour masks. Without them a grey colour (7, 7, 7) is class 7: an index mask saved as RGB.
        numbers: mask value of each class; 0, 1, ... when left out.
        ignored: mask values that mean "not labelled", unless they are a class's.
    """
    numbers = range(len(names)) if numbers is None else numbers
    values = _grey(numbers) if colors is None else [(i, pack(color)) for i, color in zip(numbers, colors, strict=True)]
    white = () if colors is not None else (pack((255, 255, 255)),)
    taken = {value for of_class in values for value in of_class}
    unlabeled = tuple(value for value in (*ignored, *white) if value not in taken)
    return ClassTable(tuple(names), tuple(values), tuple(colors or default_colors(len(names))), unlabeled)


def table_from_values(values: Iterable[int]) -> ClassTable:
    """One class for each mask value, named by it: the table of masks that come without one.

    Grey colours are the numbers of an index mask that was saved as RGB. 0 and 255 alone are background and foreground.
    """
    found = sorted(set(values))
    colors = [unpack(value) for value in found]
    if all(color is None or len(set(color)) == 1 for color in colors):
        numbers = sorted({value if color is None else color[0] for value, color in zip(found, colors, strict=True)})
        if numbers == [0, IGNORE_INDEX]:
            return ClassTable(("background", "foreground"), tuple(_grey(numbers)), ((0, 0, 0), (255, 255, 255)), ())
        numbers = [number for number in numbers if number != IGNORE_INDEX]
        names = tuple(unnamed(number) for number in numbers)
        ignored = (IGNORE_INDEX, pack((255, 255, 255)))
        return ClassTable(names, tuple(_grey(numbers)), default_colors(len(numbers)), ignored)
    found = [value for value in found if value != IGNORE_INDEX]
    shown = tuple(unpack(value) or color for value, color in zip(found, default_colors(len(found)), strict=True))
    return ClassTable(tuple(unnamed(value) for value in found), tuple((value,) for value in found), shown)


def is_binary(values: Iterable[int]) -> bool:
    """Whether mask values are 0 and 255 (or black and white) and nothing else."""
    found, dark, light = set(values), {0, pack((0, 0, 0))}, {IGNORE_INDEX, pack((255, 255, 255))}
    return found <= dark | light and bool(found & dark) and bool(found & light)


def nearly_binary(counts: Iterable[Mapping[int, int]]) -> bool:
    """Whether 255 looks like the second class of binary masks although further values stand beside 0 and 255.

    "Not labelled" is rarely all that images show beside one class; and where both 0 and 255 cover a hundred times as much as
    everything else, that is a few stray pixels. (Of scribbles, which leave most unlabelled, 0 is no larger than the others.)

    Args:
        counts: of each mask, the pixels of every value.
    """
    masks = [{_number(value): pixels for value, pixels in count.items()} for count in counts]
    white = [mask for mask in masks if IGNORE_INDEX in mask]
    others = sum(pixels for mask in masks for value, pixels in mask.items() if value not in (0, IGNORE_INDEX))
    alone = sum(mask.keys() <= {0, IGNORE_INDEX} for mask in white)
    least = min(sum(mask.get(value, 0) for mask in masks) for value in (0, IGNORE_INDEX))
    return others > 0 and (2 * alone > len(white) or least > _MOST_STRAY * others)


_MOST_STRAY = 100


def _number(value: int) -> int:
    """What a grey colour is in an index mask saved as RGB; any other value itself."""
    color = unpack(value)
    return color[0] if color is not None and len(set(color)) == 1 else value


def _grey(numbers: Iterable[int]) -> list[tuple[int, ...]]:
    """Each number, and the grey colour that it becomes when a mask is saved as RGB."""
    return [(number, pack((number,) * 3)) if number < 256 else (number,) for number in numbers]


def unnamed(value: int) -> str:
    """What a class is called that has no name."""
    return f"class {describe(value)}"


@dataclass(frozen=True)
class LeftOut:
    """Files of a data set that are not used, though their owner may think that they are.

    Attributes:
        one, many: what one of them is, and several, for a message that begins with their number.
        advice: how to have them used.
        files: all of them.
    """

    one: str
    many: str
    advice: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class DataIndex:
    """A data set as found on disk.

    Attributes:
        root: its folder.
        format: the name of its layout.
        samples: all images, sorted by name, of every split; however they are given, they are kept as `Samples`.
        classes: the class table where the data set has one; None where it has to be read off the labelled masks.
        notes: how it was read, where that is not plain.
        left_out: files that look like data and are not used.
        spare: training images that its own lists pass over; a list of labelled images may name them.
    """

    root: Path
    format: str
    samples: Sequence[Sample]
    classes: ClassTable | None
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    spare: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", packed(self.samples))

    @property
    def whole(self) -> list[Sample]:
        """At least the samples with masks and those for evaluation; the others are unlabelled training images, and many."""
        return packed(self.samples).whole

    @property
    def names_classes(self) -> bool:
        """Whether its masks are painted from annotation files, which name the classes: mask values are our own numbers."""
        return any(isinstance(sample.mask, ShapesMask) for sample in self.whole)

    def of(self, split: Split) -> Samples:
        return packed(self.samples).of(split)
