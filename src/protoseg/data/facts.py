"""What one look at each image and mask shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protoseg.data.duplicates import Look, look_at
from protoseg.data.geo import misplaced
from protoseg.data.images import ImageArray, ImageKind, Picture, kind_of, nodata_share, read_picture
from protoseg.data.index import ClassTable, Sample
from protoseg.data.masks import Color, MaskFile, PaletteMask, count_values, read_with_palette
from protoseg.data.parallel import in_threads
from protoseg.data.splits import Partition
from protoseg.types import IGNORE_INDEX

Role = Literal["labeled", "unlabeled", "evaluation"]
Part = tuple[Sample, Role]


@dataclass(frozen=True)
class Facts:
    """What reading one image and its mask showed."""

    sample: Sample
    role: Role
    fault: str | None = None  # why the image cannot be read
    mask_fault: str | None = None
    size: tuple[int, int] = (0, 0)
    mask_size: tuple[int, int] | None = None
    kind: ImageKind | None = None
    look: Look | None = None
    orientation: int = 1  # of EXIF or TIFF
    missing: float = 0.0  # share of the pixel values that are no numbers
    nodata: tuple[float, float] | None = None  # a declared value for no data that the image's type cannot mark, and its share
    color: tuple[float, ...] = ()  # mean of each channel, where 1.0 is the full scale of the type
    values: dict[int, int] = field(default_factory=dict)  # mask value -> pixels
    elsewhere: str = ""  # where the mask lies on Earth and where the image, if they differ
    shown: dict[int, Color] = field(default_factory=dict)  # mask value -> its colour, where the mask has a palette

    @property
    def is_readable(self) -> bool:
        return self.fault is None and self.mask_fault is None

    def pixels(self, classes: ClassTable) -> dict[int, int]:
        """Class id -> pixels of the mask; ignored and unknown values left out."""
        held = Counter[int]()
        known = classes.class_of
        for value, count in self.values.items():
            label = known.get(value, IGNORE_INDEX)
            if label != IGNORE_INDEX:
                held[label] += count
        return held

    def ignored(self, classes: ClassTable) -> int:
        """Pixels of the mask that count as not labelled; those of unknown values do not."""
        known = classes.class_of
        return sum(count for value, count in self.values.items() if known.get(value) == IGNORE_INDEX)


def class_pixels(facts: Iterable[Facts], classes: ClassTable) -> NDArray[np.int64]:
    """(C,) pixels of each class in all masks."""
    pixels = np.zeros(len(classes), dtype=np.int64)
    for fact in facts:
        for label, count in fact.pixels(classes).items():
            pixels[label] += count
    return pixels


def facts_of(sample: Sample, role: Role, picture: Picture, mask: PaletteMask | None, *, thorough: bool = False) -> Facts:
    """The facts about a readable image and its mask.

    Args:
        sample: the image.
        role: that it plays.
        picture, mask: its content.
        thorough: look at the picture too, for its copies and its colour.
    """
    image = picture.image
    facts = Facts(
        sample,
        role,
        size=(image.shape[0], image.shape[1]),
        kind=kind_of(image),
        orientation=picture.orientation,
        missing=float(1 - np.isfinite(image).mean()) if image.dtype == np.float32 else 0.0,
        nodata=_nodata(sample, picture),
        look=look_at(image) if thorough else None,
        color=_mean_color(image) if thorough else (),
    )
    return facts if mask is None else _with_own_mask(facts, mask)


def with_mask(facts: Facts, mask: PaletteMask) -> Facts:
    """The facts about an image, and what its mask shows."""
    height, width = mask.values.shape
    values = count_values(mask.values)
    palette = [] if mask.palette is None else mask.palette.tolist()
    shown = {value: palette[value] for value in values if value < len(palette)}
    return replace(facts, mask_size=(height, width), values=values, shown={v: (r, g, b) for v, (r, g, b) in shown.items()})


def _with_own_mask(facts: Facts, mask: PaletteMask) -> Facts:
    """The same where the image is known to be readable, so that its place can be compared too."""
    source = facts.sample.mask
    elsewhere = misplaced(facts.sample.image, source.path) if isinstance(source, MaskFile) else ""
    return replace(with_mask(facts, mask), elsewhere=elsewhere)


def _mean_color(image: ImageArray) -> tuple[float, ...]:
    """As it is stored: a picture of it for the eye goes from dark to bright, however dark the image is."""
    pixels = image[::4, ::4].reshape(-1, image.shape[2])  # every fourth pixel tells the mean well enough
    counted = np.isfinite(pixels)
    total = np.where(counted, pixels, 0).sum(axis=0, dtype=np.float64)
    return tuple((total / np.maximum(counted.sum(axis=0), 1) / kind_of(image).full_scale).tolist())


def _nodata(sample: Sample, picture: Picture) -> tuple[float, float] | None:
    if picture.nodata is None or picture.image.dtype == np.float32:  # there they are holes
        return None
    share = nodata_share(sample.image)  # once more from the file, but few declare such a value
    return (picture.nodata, share) if share else None


def examine(
    partition: Partition,
    also: Sequence[Sample] = (),
    *,
    track: Callable[[Sequence[Part]], Iterable[Part]] = iter,
) -> list[Facts]:
    """Read every image once, and the masks that the partition uses; several at a time.

    Args:
        partition: of the data set.
        also: further evaluation images, which this partition does not score on.
        track: wraps the images and their roles, to show progress.
    """
    parts: list[Part] = [
        *((sample, "labeled") for sample in partition.labeled),
        *((sample, "evaluation") for sample in (*partition.evaluation, *also)),
        *((sample, "unlabeled") for sample in partition.unlabeled),
    ]
    return in_threads(_examine, parts, track=track)


def _examine(part: Part) -> Facts:
    sample, role = part
    try:
        facts = facts_of(sample, role, read_picture(sample.image), None, thorough=True)
    except ValueError as error:
        return Facts(sample, role, fault=str(error))
    if role == "unlabeled" or sample.mask is None:  # a mask that is not used is never opened
        return facts
    try:
        return _with_own_mask(facts, read_with_palette(sample.mask))
    except ValueError as error:
        return replace(facts, mask_fault=str(error))
