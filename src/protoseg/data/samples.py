"""A list of samples that keeps a million images without masks as text, in some thirty megabytes, and makes a sample when asked.

N samples of a list · M of the table that it shares with the lists it was taken from
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from protoseg.data.io import split_suffix
from protoseg.data.masks import MaskSource

Split = Literal["train", "val", "test"]
_PART = 1 << 16  # rows that are Python's numbers at a time


@dataclass(frozen=True)
class Sample:
    """One image, and where its mask comes from if there is one. Whether that mask may be used is decided by the partition."""

    name: str  # path below the image folder, without suffix: unique within a data set
    image: Path
    mask: MaskSource | None
    split: Split
    if_listed: MaskSource | None = None  # the mask where a list of labelled images names an image that has none


class _Table(NamedTuple):
    """Training images without masks, taken apart; and all other samples."""

    stems: bytes  # of the files, one after the other; where one ends stands in:
    ends: NDArray[np.int64]  # (M,)
    folder: NDArray[np.int32]  # (M,) number of its folder
    suffix: NDArray[np.int16]  # (M,) number of its suffix
    folders: tuple[tuple[str, str], ...]  # what stands before the stem in the image's path, and in the sample's name
    suffixes: tuple[str, ...]
    whole: dict[int, Sample]  # row -> a sample that is not so simple

    def sample(self, row: int) -> Sample:
        if (sample := self.whole.get(row)) is not None:
            return sample
        start = self.ends.item(row - 1) if row else 0
        in_path, in_name = self.folders[self.folder.item(row)]
        stem = _text(self.stems[start : self.ends.item(row)])
        return Sample(in_name + stem, Path(in_path + stem + self.suffixes[self.suffix.item(row)]), None, "train")


def _text(stem: bytes) -> str:
    return stem.decode(errors="surrogatepass")


class Samples(Sequence[Sample]):
    """Samples in their order. What is taken from a list shares its text.

    Args:
        samples: to hold; none of them is kept as it is that is a training image without a mask.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        builder = SamplesBuilder()
        for sample in samples:
            builder.add(sample)
        self._table = builder.table()
        self._rows = np.arange(len(self._table.ends), dtype=np.int32)  # (N,)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> Samples: ...

    def __getitem__(self, place: int | slice) -> Sample | Samples:
        if isinstance(place, slice):
            return self._take(self._rows[place])
        return self._table.sample(self._rows.item(place))

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), _PART):
            yield from map(self._table.sample, self._rows[start : start + _PART].tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __add__(self, other: Samples) -> Samples:
        """Both, one after the other."""
        first, second = self._table, other._table
        number = len(first.ends)
        table = _Table(
            first.stems + second.stems,
            np.concatenate([first.ends, second.ends + len(first.stems)]),
            np.concatenate([first.folder, second.folder + np.int32(len(first.folders))]),
            np.concatenate([first.suffix, second.suffix + np.int16(len(first.suffixes))]),
            first.folders + second.folders,
            first.suffixes + second.suffixes,
            first.whole | {row + number: sample for row, sample in second.whole.items()},
        )
        return _made_of(table, np.concatenate([self._rows, other._rows + np.int32(number)]))

    @property
    def whole(self) -> list[Sample]:
        """At least those with masks and those for evaluation, without a look at the others."""
        rows = self._rows[np.isin(self._rows, np.fromiter(self._table.whole, np.int32))]
        return [self._table.whole[row] for row in rows.tolist()]

    def names(self) -> Iterator[str]:
        """Of the samples, in their order, without making these."""
        table = self._table
        for row, start, end, folder, _ in self._places():
            if (sample := table.whole.get(row)) is None:
                yield table.folders[folder][1] + _text(table.stems[start:end])
            else:
                yield sample.name

    def images(self) -> Iterator[str]:
        """Paths of the images."""
        table = self._table
        for row, start, end, folder, suffix in self._places():
            if (sample := table.whole.get(row)) is None:
                yield table.folders[folder][0] + _text(table.stems[start:end]) + table.suffixes[suffix]
            else:
                yield str(sample.image)

    def folders(self) -> set[Path]:
        """In which the images lie."""
        simple = self._rows[np.isin(self._rows, np.fromiter(self._table.whole, np.int32), invert=True)]
        numbers = np.unique(self._table.folder[simple]).tolist()
        return {Path(self._table.folders[i][0]) for i in numbers} | {sample.image.parent for sample in self.whole}

    def of(self, split: Split) -> Samples:
        """Those of a split."""
        others = [row for row, sample in self._table.whole.items() if sample.split != split]
        if split == "train":  # all that are simple
            return self._take(self._rows[np.isin(self._rows, np.asarray(others, np.int32), invert=True)])
        same = [row for row, sample in self._table.whole.items() if sample.split == split]
        return self._take(self._rows[np.isin(self._rows, np.asarray(same, np.int32))])

    def where(self, keep: Callable[[str], bool], *, of: Literal["name", "image"] = "name") -> Samples:
        """Those whose name, or whose image's path, shall be kept."""
        texts = self.names() if of == "name" else self.images()
        return self._take(self._rows[np.fromiter(map(keep, texts), np.bool_, len(self))])

    def by_name(self) -> Samples:
        """The same, sorted by name."""
        names = list(self.names())
        order = sorted(range(len(names)), key=names.__getitem__)
        return self._take(self._rows[np.asarray(order, dtype=np.int64)])

    def _take(self, rows: NDArray[np.int32]) -> Samples:
        kept = rows[np.isin(rows, np.fromiter(self._table.whole, np.int32))].tolist()
        # Text is shared; a sample with its mask is not handed to a worker process that has no use for it.
        return _made_of(self._table._replace(whole={row: self._table.whole[row] for row in kept}), rows)

    def _places(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Row, where the stem starts and ends, folder and suffix of each; in parts, for one number at a time takes longer."""
        table = self._table
        for start in range(0, len(self), _PART):
            rows = self._rows[start : start + _PART]
            starts, ends = np.where(rows > 0, table.ends[rows - 1], 0).tolist(), table.ends[rows].tolist()
            yield from zip(rows.tolist(), starts, ends, table.folder[rows].tolist(), table.suffix[rows].tolist(), strict=True)


class SamplesBuilder:
    """Takes samples apart, one at a time, so that they need not all be there at once."""

    def __init__(self) -> None:
        self._stems, self._ends, self._folder, self._suffix = bytearray(), array("q"), array("i"), array("h")
        self._folders = dict[tuple[str, str], int]()
        self._suffixes = dict[str, int]()
        self._whole = dict[int, Sample]()

    def add(self, sample: Sample) -> None:
        if sample.mask is None and sample.if_listed is None and sample.split == "train":
            self.add_image(sample.name, str(sample.image))
        else:
            self._add_whole(sample)

    def add_image(self, name: str, image: str) -> None:
        """A training image without a mask.

        Args:
            name: of the sample.
            image: its path.
        """
        folder, separator, file = image.rpartition(os.sep)
        above, slash, last = name.rpartition("/")
        stem, suffix = split_suffix(file)
        if stem != last or not folder:  # letters that were composed anew, or no folder at all
            self._add_whole(Sample(name, Path(image), None, "train"))
            return
        self._stems += stem.encode(errors="surrogatepass")
        before = (folder + separator, above + slash)
        number = self._folders.setdefault(before, len(self._folders))
        self._add_row(number, self._suffixes.setdefault(suffix, len(self._suffixes)))

    def _add_whole(self, sample: Sample) -> None:
        self._whole[len(self._ends)] = sample
        self._add_row(0, 0)

    def _add_row(self, folder: int, suffix: int) -> None:
        self._ends.append(len(self._stems))
        self._folder.append(folder)
        self._suffix.append(suffix)

    def table(self) -> _Table:
        ends, folder = np.asarray(self._ends, np.int64), np.asarray(self._folder, np.int32)
        suffix = np.asarray(self._suffix, np.int16)
        return _Table(bytes(self._stems), ends, folder, suffix, tuple(self._folders), tuple(self._suffixes), self._whole)

    def samples(self) -> Samples:
        table = self.table()
        return _made_of(table, np.arange(len(table.ends), dtype=np.int32))


def _made_of(table: _Table, rows: NDArray[np.int32]) -> Samples:
    samples = Samples()
    samples._table, samples._rows = table, rows
    return samples


def packed(samples: Sequence[Sample]) -> Samples:
    """Samples as such a list."""
    return samples if isinstance(samples, Samples) else Samples(samples)
