"""Images that are the same picture under two names: a re-saved copy, a neighbouring video frame. By perceptual hash.

N, M images
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.images import ImageArray, read_image, to_rgb
from protoseg.data.index import Sample
from protoseg.data.io import UnreadableImageError

NEAR = 5
"""Bits of 64 that may differ. Re-saving, resizing and small shifts of a camera change fewer; another picture about 32."""

RESAVED = 2
"""Bits that a re-saved copy may differ by, rather than the next frame of a video."""

_SIDE = 8
_FLAT = 3  # grey levels: a difference below it is noise, and a picture of such differences alone has no hash


class Pair(NamedTuple):
    first: str  # names of samples
    second: str
    bits: int  # that differ


def perceptual_hash(image: ImageArray) -> int | None:
    """The 64-bit difference hash of a picture: is each of 8 x 8 cells brighter than its left neighbour?

    Args:
        image: (H, W, I).

    Returns:
        The hash; None for a flat picture, which would equal every other one.

    Source: Krawetz, "Kind of like that", 2013.
    """
    grey = Image.fromarray(to_rgb(image)).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey).astype(np.int64)
    difference = np.diff(cells, axis=1)
    if np.abs(difference).max() < _FLAT:
        return None
    return int("".join("1" if bit else "0" for bit in (difference > 0).ravel()), 2)


def hash_images(samples: Sequence[Sample], *, track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter) -> dict[str, int]:
    """The hash of every image that can be read and has one, by the name of its sample."""
    hashes: dict[str, int] = {}
    for sample in track(samples):
        try:
            found = perceptual_hash(read_image(sample.image))
        except UnreadableImageError:  # the doctor's and the training's own finding
            continue
        if found is not None:
            hashes[sample.name] = found
    return hashes


def near_pairs(first: dict[str, int], second: dict[str, int], *, near: int = NEAR) -> list[Pair]:
    """For each picture of the first part that has a near one in the second: the nearest pair. Nearest pairs first.

    Args:
        first, second: name -> hash, of N and M images; names that stand in both are not compared with themselves.
        near: bits that may differ.
    """
    if not first or not second:
        return []
    names = list(second)
    hashes = np.array([second[name] for name in names], dtype=np.uint64)
    place = {name: i for i, name in enumerate(names)}
    pairs = []
    for name, value in first.items():
        bits = _count_bits(hashes ^ np.uint64(value))
        if name in place:
            bits[place[name]] = 65  # itself
        best = int(bits.argmin())
        if bits[best] <= near:
            pairs.append(Pair(name, names[best], int(bits[best])))
    return sorted(pairs, key=lambda pair: (pair.bits, pair.first, pair.second))


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)
    return counts
