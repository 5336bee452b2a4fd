"""What was taken for what in each scored image: enough for every IoU, and for its uncertainty, without the predictions.

I images · C classes · N pairs of classes that occur in an image
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protoseg.engine.metrics import IoU, iou
from protoseg.files import replacing
from protoseg.types import IGNORE_INDEX
from protoseg.words import shortened

TALLY = "evaluation.npz"
"""File of a run folder: the tally of its evaluation images."""
REMEDY = "delete it, and protoseg report RUN DATA, or the protoseg evaluate that wrote it, makes it anew"
"""What to do about a damaged one."""
_SMALL, _DENSEST = 1 << 20, 200
"""Bytes that any file may unpack to, and for each of its own: counts of pixels and names of images are not that regular."""
_MOST_PIXELS = 10**12  # of an image


class Pixels(NamedTuple):
    """Pixels of each image and class, (I, C) each."""

    hit: NDArray[np.int64]  # of the class, and predicted as it
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """The confusion matrix of each image, without its zeros: images hold few of many classes.

    Attributes:
        num_classes: C.
        names: of the I images.
        first: (I + 1,) where the pairs of each image begin.
        pair: (N,) true class * C + predicted class.
        count: (N,) pixels.
    """

    num_classes: int
    names: tuple[str, ...]
    first: NDArray[np.int64]
    pair: NDArray[np.int64]
    count: NDArray[np.int64]

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C) over all images, rows are the truth."""
        total = np.zeros(self.num_classes**2, dtype=np.int64)
        np.add.at(total, self.pair, self.count)
        return total.reshape(self.num_classes, self.num_classes)

    @property
    def iou(self) -> IoU:
        return iou(torch.from_numpy(self.confusion))

    @property
    def pixels(self) -> Pixels:
        """What IoU is made of, for each image."""
        image = np.repeat(np.arange(len(self.names)), np.diff(self.first))
        true, predicted = np.divmod(self.pair, self.num_classes)
        parts = [np.zeros((len(self.names), self.num_classes), dtype=np.int64) for _ in Pixels._fields]
        same = true == predicted
        np.add.at(parts[0], (image[same], true[same]), self.count[same])
        np.add.at(parts[1], (image, true), self.count)
        np.add.at(parts[2], (image, predicted), self.count)
        return Pixels(*parts)

    @property
    def image_scores(self) -> NDArray[np.float64]:
        """(I,) mean IoU over the classes that the truth of an image holds; NaN where it holds none.

        Classes that are only predicted do not enter with an IoU of 0, as they do in the score of a data set: a handful of wrong
        pixels would decide which image is the worst.
        """
        pixels = self.pixels
        union = pixels.truth + pixels.predicted - pixels.hit
        there = pixels.truth > 0
        part = np.divide(pixels.hit, union, out=np.zeros(union.shape), where=there)
        mean: NDArray[np.float64] = np.divide(part.sum(1), there.sum(1), out=np.full(len(part), np.nan), where=there.any(1))
        return mean

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            CannotWriteError: see `replacing`.
        """
        names = np.frombuffer(json.dumps(self.names).encode(), dtype=np.uint8)  # NumPy's own text drops NULs and pads
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file, num_classes=self.num_classes, names=names, first=self.first, pair=self.pair, count=self.count
            )

    @classmethod
    def load(cls, path: Path) -> Tally:
        """Read it back; nothing is unpickled.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            num_classes, names, first, pair, count = _read_arrays(path)
            tally = cls(int(num_classes), tuple(json.loads(names.tobytes())), first, pair, count)
            tally._check()
        except Exception as error:  # zip, zlib, NumPy and JSON each have their own
            raise ValueError(f"{path} is damaged ({shortened(error, 200)}); {REMEDY}") from error
        return tally

    def _check(self) -> None:
        """Stop at what is no tally: memory is made for what it says.

        Raises:
            ValueError: the parts do not fit together.
        """
        if not 0 < self.num_classes <= IGNORE_INDEX:
            raise ValueError(f"it is of {self.num_classes} classes, and there are 1 to {IGNORE_INDEX}")
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError("the name of an image is no text")
        if len(self.first) != len(self.names) + 1 or self.first[0] != 0 or (np.diff(self.first) < 0).any():
            raise ValueError("its images do not follow one another")
        if not self.first[-1] == len(self.pair) == len(self.count):
            raise ValueError("its parts are of different lengths")
        if ((self.pair < 0) | (self.pair >= self.num_classes**2)).any():
            raise ValueError("a pixel is of no class")
        if ((self.count < 1) | (self.count > _MOST_PIXELS)).any():
            raise ValueError("it counts what is no number of pixels")


def _read_arrays(path: Path) -> list[NDArray[Any]]:
    """The arrays of a file in the order of the fields, none of them larger than the file can hold."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _SMALL + _DENSEST * path.stat().st_size:
            raise ValueError("it unpacks to far more than it holds")
        contents = [archive.read(f"{name}.npy") for name in ("num_classes", "names", "first", "pair", "count")]
    return [_read_array(content, dimensions=min(i, 1)) for i, content in enumerate(contents)]


def _read_array(content: bytes, *, dimensions: int) -> NDArray[Any]:
    # Not `np.load`, which makes memory for what the header says before it looks at the rest.
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it was written in another way")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "iu" or len(shape) != dimensions:
        raise ValueError("it holds other arrays")
    array = np.frombuffer(content, dtype, offset=file.tell())
    if len(array) != math.prod(shape):
        raise ValueError("an array is not whole")
    return array.reshape(shape) if dtype == np.uint8 else array.reshape(shape).astype(np.int64)


def make_tally(num_classes: int, counts: Iterable[tuple[str, Tensor]]) -> Tally:
    """Put the confusion matrices of images together.

    Args:
        num_classes: C.
        counts: name and (C, C) counts of each image, rows are the truth; one after the other, because all of them may be large.
    """
    names, first = list[str](), [0]
    pair, count = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for name, confusion in counts:
        flat = confusion.cpu().numpy().reshape(-1)
        pair.append(np.flatnonzero(flat))
        count.append(flat[pair[-1]])
        names.append(name)
        first.append(first[-1] + len(pair[-1]))
    return Tally(num_classes, tuple(names), np.array(first), np.concatenate(pair), np.concatenate(count))
