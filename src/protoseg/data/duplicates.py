"""Images that are the same picture under two names, by their content, or look nearly so, by perceptual hash: a copy that was
saved again, or the next frame of a camera that stands still. Which of the two it is the hash cannot tell, so none is called the
same picture for it.

Of pictures that do not change from left to right (black frames, plain gradients) only exact copies are found: what would tell
a re-saved copy is as alike in two dark frames of different nights, and a false alarm costs more trust than a missed copy.

N, M images
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.images import ImageArray, read_image, to_rgb
from protoseg.data.index import Sample
from protoseg.data.io import UnreadableImageError
from protoseg.data.parallel import in_threads

NEAR = 5
"""Bits of 64 that may differ. Re-saving, resizing and small shifts of a camera change fewer; another picture about 32."""

ALIKE = 16
"""Bits that two pictures of one name may differ by and still be versions of one: cut out, turned brighter, drawn over."""

RESAVED = 2
"""Bits that a re-saved copy may differ by; frames of a camera that stands still often differ by no more."""

_SIDE = 8
_FLAT = 3  # grey levels: a difference below it is noise, and a picture of such differences alone has no hash


class Look(NamedTuple):
    """What one picture is compared by."""

    content: bytes  # a digest of size, type and pixels: equal for copies alone, however flat the picture
    hash: int | None  # perceptual; None for a picture that is the same from left to right


class Pair(NamedTuple):
    first: str  # names of samples
    second: str
    bits: int  # of the perceptual hash that differ; 0 for equal content


class Doubles(NamedTuple):
    """Pictures that stand twice in a data set. Nearest pairs first."""

    leaks: list[Pair]  # an evaluation image, and a training image nearly the same
    labeled: list[Pair]  # two labelled images with the same pixels
    unlabeled: list[Pair]  # an unlabelled image, and the labelled one that has the same pixels
    alike_labeled: list[Pair]  # two labelled images that look nearly the same
    alike_unlabeled: list[Pair]  # an unlabelled image, and the labelled one that looks nearly the same


def look_at(image: ImageArray) -> Look:
    """What a picture is compared by.

    Args:
        image: (H, W, I).
    """
    digest = hashlib.blake2b(f"{image.shape} {image.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Look(digest.digest(), perceptual_hash(image))


def perceptual_hash(image: ImageArray) -> int | None:
    """The 64-bit difference hash of a picture: is each of 8 x 8 cells brighter than its left neighbour?

    Args:
        image: (H, W, I).

    Returns:
        The hash; None where no row changes from left to right, which would equal every other such picture.

    Source: Krawetz, "Kind of like that", 2013.
    """
    grey = Image.fromarray(to_rgb(image)).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey).astype(np.int64)
    difference = np.diff(cells, axis=1)
    if np.abs(difference).max() < _FLAT:
        return None
    return int("".join("1" if bit else "0" for bit in (difference > 0).ravel()), 2)


def look_at_all(samples: Sequence[Sample], *, track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter) -> dict[str, Look]:
    """What every image that can be read is compared by, under the name of its sample."""
    looks = in_threads(_look_if_readable, samples, track=track)
    return {sample.name: look for sample, look in zip(samples, looks, strict=True) if look is not None}


def _look_if_readable(sample: Sample) -> Look | None:
    try:
        return look_at(read_image(sample.image))
    except UnreadableImageError:  # the doctor's and the training's own finding
        return None


def find_doubles(*, labeled: dict[str, Look], unlabeled: dict[str, Look], evaluation: dict[str, Look]) -> Doubles:
    """Pictures that stand twice, within a part or in two of them.

    Args:
        labeled, unlabeled, evaluation: name -> look.
    """
    twice = [pair for pair in near_pairs(labeled, labeled, near=0) if pair.second < pair.first]
    unlabeled_pairs = near_pairs(unlabeled, labeled, near=RESAVED)
    looks = labeled | unlabeled

    def is_copy(pair: Pair) -> bool:
        return looks[pair.first].content == looks[pair.second].content

    return Doubles(
        near_pairs(evaluation, looks),
        labeled=[pair for pair in twice if is_copy(pair)],
        unlabeled=[pair for pair in unlabeled_pairs if is_copy(pair)],
        alike_labeled=[pair for pair in twice if not is_copy(pair)],
        alike_unlabeled=[pair for pair in unlabeled_pairs if not is_copy(pair)],
    )


def bits_between(first: Look, second: Look) -> int | None:
    """Bits of the perceptual hash in which two pictures differ; None where it cannot tell, since one of them has none."""
    if first.content == second.content:
        return 0
    return None if first.hash is None or second.hash is None else (first.hash ^ second.hash).bit_count()


def near_pairs(first: Mapping[str, Look], second: Mapping[str, Look], *, near: int = NEAR) -> list[Pair]:
    """For each picture of the first part that has a near one in the second: the nearest pair. Nearest pairs first.

    Args:
        first, second: name -> look, of N and M images; names that stand in both are not compared with themselves.
        near: bits that may differ.
    """
    copies: dict[bytes, list[str]] = {}
    for name in sorted(second):
        copies.setdefault(second[name].content, []).append(name)
    hashed = [(name, look.hash) for name, look in sorted(second.items()) if look.hash is not None]
    hashes = np.array([value for _, value in hashed], dtype=np.uint64)
    place = {name: i for i, (name, _) in enumerate(hashed)}
    pairs = []
    for name, look in first.items():
        if copy := next((other for other in copies.get(look.content, ()) if other != name), None):
            pairs.append(Pair(name, copy, 0))
        elif look.hash is not None and hashed:
            bits = _count_bits(hashes ^ np.uint64(look.hash))
            if name in place:
                bits[place[name]] = 65  # itself
            best = int(bits.argmin())
            if bits[best] <= near:
                pairs.append(Pair(name, hashed[best][0], int(bits[best])))
    return sorted(pairs, key=lambda pair: (pair.bits, pair.first, pair.second))


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)
    return counts
