"""Decode every labelled image and mask before training: they are few, and each fault found here saves a run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoseg.data.cache import ImageCache
from protoseg.data.class_rules import ClassRules
from protoseg.data.facts import Facts, class_pixels, facts_of
from protoseg.data.images import ImageArray, ImageKind, Picture, kind_of, read_image, read_picture
from protoseg.data.index import ClassTable, DataIndex, Sample, is_binary, nearly_binary, table_from_values
from protoseg.data.io import DamagedImageError, UnreadableImageError
from protoseg.data.masks import COLOR, MaskArray, MaskFile, PaletteMask, count_values, describe, pack, read_with_palette, unpack
from protoseg.data.palettes import check_palettes, lists_colors
from protoseg.data.splits import Partition
from protoseg.types import IGNORE_INDEX
from protoseg.words import counted

_MOST_VALUES = 64  # in masks without a class list: more are rather a blurred picture of a mask

_DARK, _LIGHT = frozenset({0, pack((0, 0, 0))}), frozenset({IGNORE_INDEX, pack((255, 255, 255))})  # of binary masks

_NEAR = 8  # of 255: a colour that somebody mistyped, or a program rounded

_LOOKED_AT = 32  # unlabelled images whose kind is compared before training


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, where 1.0 is the full scale of the type; NaN pixels left out."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class LabelReport:
    """What decoding the labelled images showed.

    Attributes:
        classes: the class table, given or read off the labelled masks.
        pixels: (C,) labelled training pixels of each class.
        sizes: (H, W) -> number of labelled training images of that size, most frequent first.
        kind: channels and type of all images.
        statistics: of the labelled images, for networks that are not pre-trained on such.
        notes: how the masks were read, where that is not plain.
        facts: about each labelled and evaluation image.
    """

    classes: ClassTable
    pixels: NDArray[np.int64]
    sizes: dict[tuple[int, int], int]
    kind: ImageKind
    statistics: ChannelStatistics
    notes: tuple[str, ...] = ()
    facts: tuple[Facts, ...] = ()


@dataclass(frozen=True)
class CheckedData:
    """Everything about the images of a run, after every labelled one has been decoded; and the decoded ones, where kept."""

    index: DataIndex
    partition: Partition
    report: LabelReport
    cache: ImageCache | None = None

    @property
    def classes(self) -> ClassTable:
        return self.report.classes


def read_pair(
    sample: Sample, kind: ImageKind | None = None, *, read: Callable[[Path, ImageKind | None], ImageArray] = read_image
) -> tuple[ImageArray, MaskArray]:
    """Read a labelled image and its mask.

    Args:
        sample: with a mask.
        kind: that the image must be of; any when left out.
        read: the image, where `read_image` is not meant.

    Raises:
        ValueError: one of them is unreadable, their sizes differ, or the image is of another kind.
    """
    picture, mask = _read_pair(sample, kind, lambda path, kind: Picture(read(path, kind)))
    return picture.image, mask.values


def _read_pair(
    sample: Sample, kind: ImageKind | None, read: Callable[[Path, ImageKind | None], Picture] = read_picture
) -> tuple[Picture, PaletteMask]:
    assert sample.mask is not None
    try:
        picture, mask = read(sample.image, kind), read_with_palette(sample.mask)
    except DamagedImageError as error:
        raise DamagedImageError(f"{error}; put a whole file in its place, or take image and mask away") from error
    if picture.image.shape[:2] != mask.values.shape:
        raise ValueError(
            f"{sample.mask} is {_size(mask.values.shape)} but its image {sample.image} is {_size(picture.image.shape)}; "
            "they must be equal (after EXIF orientation): export the mask again at the size of the image"
        )
    return picture, mask


def check_labels(
    index: DataIndex,
    partition: Partition,
    rules: ClassRules | None = None,
    *,
    track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> LabelReport:
    """Decode all labelled training and evaluation images, and check every mask value.

    Args:
        index: the data set.
        partition: of its images.
        rules: what the classes shall be.
        track: wraps a list of images, to show progress.

    Raises:
        ValueError: the first fault, with the file's name and what to do.
    """
    facts, moments = list[Facts](), list[NDArray[np.float64]]()
    kind: ImageKind | None = None
    for sample in track(partition.labeled):
        picture, mask = _read_pair(sample, kind)
        kind = kind_of(picture.image)
        facts.append(facts_of(sample, "labeled", picture, mask))
        if not kind.is_photograph:
            moments.append(_moments(picture.image, kind))
    assert kind is not None
    rules = rules or ClassRules()
    given = rules.table_of(index)
    classes, notes = class_table(given, facts)
    classes = rules.apply(classes)
    hint = other_rule(facts, classes)
    for fact in facts:
        _check_values(fact, classes, hint)
    if doubt := binary_doubt(facts, classes):
        notes += (doubt,)
    pixels = class_pixels(facts, classes)
    if few := too_few_classes(pixels, classes, partition.labeled):
        raise ValueError(few)
    sizes = Counter(fact.size for fact in facts)
    evaluation = list[Facts]()
    for sample in track(partition.evaluation):
        evaluation.append(facts_of(sample, "evaluation", *_read_pair(sample, kind)))
        _check_values(evaluation[-1], classes, hint)
    notes = index.notes + partition.notes + notes + check_palettes(facts + evaluation, given)
    notes += say_elsewhere(facts + evaluation)
    if evaluation and not class_pixels(evaluation, classes).sum():
        raise ValueError(
            f"{_all_masks(partition.evaluation, 'evaluation', 'is', 'are')} ignored everywhere, so there is nothing to score "
            "on: label something in them, or take them away"
        )
    return LabelReport(classes, pixels, dict(sizes.most_common()), kind, _statistics(moments), notes, tuple(facts + evaluation))


def say_elsewhere(facts: Sequence[Facts]) -> tuple[str, ...]:
    """What to say about georeferenced masks that lie elsewhere than their images."""
    found = [fact for fact in facts if fact.elsewhere]
    if not found:
        return ()
    return (
        f"{counted(len(found), 'mask lies', 'masks lie')} in another place than the image: {found[0].sample.mask} "
        f"{found[0].elsewhere}; they are paired pixel by pixel all the same, so warp or cut the masks to the images if that "
        "is wrong",
    )


def check_unlabeled(samples: Sequence[Sample], kind: ImageKind, *, crop: int) -> tuple[str, ...]:
    """Look at a few unlabelled images, spread over all: those of another kind than the labelled ones cannot be learned from,
    and small ones are padded.

    Args:
        samples: the unlabelled images.
        kind: of the labelled ones.
        crop: side of the training crops in pixels.

    Returns:
        What to say, if anything.

    Raises:
        ValueError: not one of them can be read, or is of that kind.
    """
    others, sides, damaged = list[tuple[Sample, ImageKind]](), list[int](), list[UnreadableImageError]()
    looked_at = samples[:: 1 + len(samples) // _LOOKED_AT]
    for sample in looked_at:
        try:
            image = read_image(sample.image)
        except UnreadableImageError as error:  # counted and named where training meets it
            damaged.append(error)
            continue
        found = kind_of(image)
        if found == kind:
            sides.append(min(image.shape[:2]))
        else:
            others.append((sample, found))
    if looked_at and len(damaged) == len(looked_at):
        raise ValueError(
            f"no unlabelled image can be read ({counted(len(damaged), 'was', 'were')} tried): {damaged[0]}; mend them, or "
            "train with --method supervised"
        )
    small = [side for side in sides if side < crop]
    of = f"of {counted(len(sides) + len(others), 'unlabelled image')} looked at"
    are = counted(len(small), f"{of} is", f"{of} are")
    notes = (f"{are} smaller than the crop ({min(small)} < {crop} px) and padded",) if small else ()
    if not others:
        return notes
    sample, found = others[0]
    what = f"{sample.image} has {found}, the labelled images have {kind}"
    if not sides:
        raise ValueError(
            f"no unlabelled image can be used: all that were looked at ({len(others)}) are of another kind than the labelled "
            f"ones, e.g. {what}; convert them to that kind, or train with --method supervised"
        )
    return (*notes, f"{len(others)} {of} cannot be used: {what}; they are skipped")


def channel_statistics(samples: Sequence[Sample], kind: ImageKind) -> ChannelStatistics:
    """Of the pixels of some images."""
    return _statistics([_moments(read_image(sample.image, kind), kind) for sample in samples])


def _moments(image: ImageArray, kind: ImageKind) -> NDArray[np.float64]:
    """(3, I): number, sum and sum of squares of the pixels that are numbers."""
    pixels = image.reshape(-1, kind.channels)
    counted = np.isfinite(pixels)
    values = np.where(counted, pixels, 0).astype(np.float64) / kind.full_scale
    return np.stack([counted.sum(axis=0), values.sum(axis=0), (values**2).sum(axis=0)])


def _statistics(moments: Sequence[NDArray[np.float64]]) -> ChannelStatistics:
    if not moments:  # of photographs, which are normalised as the encoder wants it
        return ChannelStatistics((), ())
    number, total, squares = np.sum(moments, axis=0)
    mean = total / np.maximum(number, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(number, 1) - mean**2, 0))
    std = np.where(deviation > 0, deviation, 1.0)  # a constant channel says nothing, whatever it is divided by
    return ChannelStatistics(tuple(mean.tolist()), tuple(std.tolist()))


def mask_values(sample: Sample) -> frozenset[int]:
    """The values in the mask of a labelled image, without 255 where it stands beside two others: then it means "ignored"."""
    assert sample.mask is not None
    values = frozenset(count_values(sample.mask.read()))
    return values - {IGNORE_INDEX} if len(values) > 2 else values


def classes_in(table: ClassTable | None) -> Callable[[Sample], frozenset[int]]:
    """What tells labelled images apart for a draw: the classes in their masks, ignored ones left out.

    Args:
        table: of the masks; None where only they will tell, and then their values stand for classes.

    Returns:
        A function from a sample to class ids. A value outside the table counts as a class of its own.
    """
    if table is None:
        return mask_values
    known, first_other = table.class_of, len(table) + IGNORE_INDEX

    def read(sample: Sample) -> frozenset[int]:
        assert sample.mask is not None
        found = {known.get(value, first_other + value) for value in count_values(sample.mask.read())}
        return frozenset(found - {IGNORE_INDEX})

    return read


def class_table(given: ClassTable | None, facts: Sequence[Facts]) -> tuple[ClassTable, tuple[str, ...]]:
    """The class table of labelled masks, and what to say about it.

    Args:
        given: by the data set or the user, if any.
        facts: about the labelled images.

    Raises:
        ValueError: no table was given, and the values make none.
    """
    counts, samples = [fact.values for fact in facts], [fact.sample for fact in facts]
    found = {value for count in counts for value in count}
    in_files = all(isinstance(sample.mask, MaskFile) for sample in samples)  # annotation files number their classes themselves
    if is_binary(found) and in_files and (given is None or _may_be_binary(given)):
        table = table_from_values(found)
        if given is not None:
            table = dataclasses.replace(table, names=given.names)
        return table, (f"the masks hold 0 and 255 alone: read as {table.names[0]} and {table.names[1]}, not as ignored",)
    if given is not None:
        return given, ()
    if doubt := binary_doubt(facts, None):
        raise ValueError(doubt)
    if len(found) > _MOST_VALUES:
        most, sample = max(((len(count), s) for count, s in zip(counts, samples, strict=True)), key=lambda pair: pair[0])
        raise ValueError(
            f"the labelled masks hold {len(found)} different values, {sample.mask} alone {most}; a mask holds one number "
            "or colour for each class (JPEG and smooth resizing blur them). Correct it, or list the classes in classes.txt"
        )
    inferred = table_from_values(found)
    notes = _say_colors(inferred, samples, counts)
    if IGNORE_INDEX in found:
        share = sum(count.get(IGNORE_INDEX, 0) for count in counts) / sum(sum(count.values()) for count in counts)
        notes += (f"255 is read as 'not labelled' ({100 * share:.1f} % of the labelled pixels)",)
    return inferred, notes


def binary_doubt(facts: Sequence[Facts], given: ClassTable | None) -> str:
    """What to say where 255 is ignored and yet looks like a class; empty where it does not.

    Args:
        facts: about the labelled images.
        given: class table, if any.
    """
    drawn = any(not isinstance(fact.sample.mask, MaskFile) for fact in facts)
    is_class = given is not None and given.class_of.get(IGNORE_INDEX, IGNORE_INDEX) != IGNORE_INDEX
    if drawn or is_class or not nearly_binary(fact.values for fact in facts):
        return ""
    stray, value, pixels = next((f.sample.mask, value, f.values[value]) for f in facts for value in stray_values(f))
    alone = sum(bool(_LIGHT & fact.values.keys()) and not stray_values(fact) for fact in facts)
    return (
        f"255 counts as 'not labelled', but the masks look binary: {alone} of {len(facts)} hold 0 and 255 alone, and "
        f"{stray} the value {describe(value)} in {counted(pixels, 'pixel')}. If 255 is a class, correct such masks to 0 and "
        "255; if it is not, say so: --classes.names '[one, two]' --classes.ids '[0, 1]'"
    )


def stray_values(fact: Facts) -> list[int]:
    """The values that a binary mask does not hold."""
    return [value for value in fact.values if value not in _DARK | _LIGHT]


def _may_be_binary(given: ClassTable) -> bool:
    """Whether a list of two names leaves open that 255 is the second: it says nothing about 255, and calls 0 the first."""
    return len(given) == 2 and 0 in given.values[0] and all(_LIGHT.isdisjoint(values) for values in given.values)


def _say_colors(inferred: ClassTable, samples: Sequence[Sample], counts: Sequence[Mapping[int, int]]) -> tuple[str, ...]:
    colored = [any(value >= COLOR for value in count) for count in counts]
    if not any(colored):
        return ()
    how = "name them in classes.txt, one `name R G B` a line"
    if all(values[0] < COLOR for values in inferred.values):
        return (f"RGB masks that hold grey alone are read as class numbers; to have them read as colours, {how}",)
    if not all(colored):
        of_color, of_numbers = samples[colored.index(True)].mask, samples[colored.index(False)].mask
        raise ValueError(f"{of_color} holds colours and {of_numbers} class numbers; to say which belong together, {how}")
    return (f"classes are the colours found in the labelled masks; to {how}",)


def too_few_classes(pixels: NDArray[np.int64], classes: ClassTable, labeled: Sequence[Sample]) -> str:
    """What to say where the labelled masks show less than two classes; empty where they show more.

    Args:
        pixels: (C,) of each class.
        classes: of the masks.
        labeled: all labelled images.
    """
    seen = np.flatnonzero(pixels)
    if len(seen) >= 2:
        return ""
    if not len(seen):
        all_are = _all_masks(labeled, "labelled", "is", "are")
        return f"{all_are} ignored (255) everywhere; label some pixels of at least two classes"
    value = describe(classes.values[seen[0]][0])
    return f"{_all_masks(labeled, 'labelled', 'holds', 'hold')} one class only, the value {value}; label at least two classes"


def _all_masks(samples: Sequence[Sample], which: str, one: str, many: str) -> str:
    """The beginning of a sentence on all masks of a part, with its verb."""
    first = samples[0].mask
    return f"the {counted(len(samples), f'{which} mask ({first}) {one}', f'{which} masks (the first is {first}) {many}')}"


def other_rule(facts: Sequence[Facts], classes: ClassTable) -> str:
    """What to say where the class list means 0, 1, ... and the masks hold 1, 2, ... or colours; empty where that is not so."""
    found, last = {value for fact in facts for value in fact.values} - set(classes.ignored), len(classes)
    if last and any(map(_is_color, found)) and not lists_colors(classes):
        return f"the masks hold colours and the class list none: write them into it (`{classes.names[0]} R G B` and so on)"
    first = tuple(values[0] for values in classes.values)
    if first != tuple(range(last)) or last not in found or not found <= set(range(1, last + 1)):
        return ""
    return f"the masks count from 1 and the class list from 0: write the numbers into it (`1 {classes.names[0]}` and so on)"


def _is_color(value: int) -> bool:
    """Whether a mask value is a colour that is no grey: grey ones may be numbers."""
    color = unpack(value)
    return color is not None and len(set(color)) > 1


def _check_values(fact: Facts, classes: ClassTable, hint: str) -> None:
    known = classes.class_of
    value = next((value for value in fact.values if value not in known), None)
    if value is not None:
        raise ValueError(
            f"{fact.sample.mask} holds the value {describe(value)} in {counted(fact.values[value], 'pixel')}, which is no "
            f"class; the {counted(len(classes), 'class', 'classes')} and 'ignore' are {_accepted(classes, value)}"
            + (f"; {hint}" if hint else f"{_nearest(value, classes)}. Correct the mask, or list every class in classes.txt")
        )


def _nearest(value: int, classes: ClassTable) -> str:
    """Which class's colour is nearly this one, mistyped or rounded; empty where none is."""
    color = unpack(value)
    if color is None:
        return ""
    steps = {
        (max(abs(a - b) for a, b in zip(color, other, strict=True)), listed)
        for listed, label in classes.class_of.items()
        if label != IGNORE_INDEX and (other := unpack(listed)) is not None
    }
    step, listed = min(steps, default=(_NEAR + 1, 0))
    if step > _NEAR:
        return ""
    name = classes.names[classes.class_of[listed]]
    return f"; {describe(value)} is within {counted(step, 'step')} of {describe(listed)}, the colour of {name!r}"


def _accepted(classes: ClassTable, like: int) -> str:
    """The values of a table that are of one kind with a value: numbers or colours."""
    values = sorted(value for value in classes.class_of if (value >= COLOR) == (like >= COLOR))
    if not values:
        return "colours, not numbers" if like < COLOR else "numbers, not colours"
    return _ranges(values) if like < COLOR else ", ".join(describe(value) for value in values)


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
