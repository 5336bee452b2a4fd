"""What the page shows, as data.

N pixels · C classes · K prototypes per class
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoseg.atlas.likeness import Pair

Kind = Literal["labelled", "unlabelled"]
KINDS: tuple[Kind, ...] = ("labelled", "unlabelled")
DISAGREEMENT = (
    ("both say the same", (0, 0, 0)),
    ("only the linear classifier is right", (0, 114, 178)),
    ("only the prototypes are right", (230, 140, 0)),
    ("they differ, and neither is right", (170, 51, 119)),
    ("they differ, and there is no label", (240, 228, 66)),
)
"""Of both predictors: what may be, and its colour."""


class Region(NamedTuple):
    """What surrounds a pixel that is near a prototype. Attributes: its image; cosine; a JPEG."""

    name: str
    cosine: float
    picture: bytes


@dataclass(frozen=True)
class PrototypeView:
    """What is known of one prototype.

    Attributes:
        color: of its own, a shade of its class's.
        labeled, unlabeled: pixels that follow it.
        regions: the nearest ones, by kind.
        dead: hardly any pixel follows it.
    """

    color: tuple[int, int, int]
    labeled: int
    unlabeled: int
    regions: dict[Kind, tuple[Region, ...]]
    dead: bool


@dataclass(frozen=True)
class ClassView:
    """A class. Attributes: name; colour; its prototypes, none where training has brought it no pixel."""

    name: str
    color: tuple[int, int, int]
    prototypes: tuple[PrototypeView, ...]


class Layer(NamedTuple):
    """A picture over an image. Attributes: what it shows; a PNG; mIoU against the mask; shares in words, for those who cannot
    see it."""

    name: str
    picture: bytes
    score: float | None
    shares: dict[str, float]


@dataclass(frozen=True)
class ImageView:
    """A whole image. Attributes: name; what it was in the run; (W, H) of the pictures; a JPEG; pictures over it."""

    name: str
    role: str
    size: tuple[int, int]
    picture: bytes
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Cloud:
    """Pixels and prototypes in the plane.

    Attributes:
        place, label: (N, 2) and (N,) of labelled pixels, by their true class, and of unlabelled ones, by the predicted class.
        prototype: (C, K, 2); NaN for a class without prototypes.
        explained: shares of the variance of these pixels' features along both axes.
    """

    place: dict[Kind, NDArray[np.float64]]
    label: dict[Kind, NDArray[np.int64]]
    prototype: NDArray[np.float64]
    explained: tuple[float, float]


@dataclass(frozen=True)
class Atlas:
    """What the page shows.

    Attributes:
        name: of the run folder.
        data: the data set's folder.
        classes: in the order of the network's outputs.
        images: looked at, and there, by kind.
        pixels: looked at, by kind.
        agreeing: share of them where both predictors say the same.
        cloud: pixels and prototypes in the plane.
        maps: whole images.
        alike: prototypes that no pixel can tell apart, at most `_MOST_ALIKE` of `number_alike`.
        closest: the classes whose prototypes come nearest to each other.
        temperature: divides the cosine.
        largest: pixels a side of what the network sees; of larger images the middle is looked at.
        notes: what was left out.
    """

    name: str
    data: str
    classes: tuple[ClassView, ...]
    images: dict[Kind, tuple[int, int]]
    pixels: dict[Kind, int]
    agreeing: dict[Kind, float]
    cloud: Cloud
    maps: tuple[ImageView, ...]
    alike: tuple[Pair, ...]
    number_alike: int
    closest: tuple[Pair, ...]
    temperature: float
    largest: int
    notes: tuple[str, ...]
