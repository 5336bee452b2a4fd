"""The images that may be looked at: those of one folder, listed once, and a few that were uploaded. Nothing else has a number,
and only numbers come from the page."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from protoseg.data.formats import open_dataset
from protoseg.data.formats.folder import read_images
from protoseg.data.images import ImageArray, read_image
from protoseg.data.index import DataIndex, Sample
from protoseg.data.io import IMAGE_SUFFIXES, UnreadableImageError, is_text
from protoseg.data.masks import MaskFile
from protoseg.words import counted

MOST_BYTES = 256 << 20
"""Of one uploaded file."""
MOST_FILES, MOST_STORED = 24, 1 << 30
"""Uploaded files that are kept, and their bytes; the oldest go first. As many may be on their way at a time beside them."""
_DECODED_AT_ONCE = 2  # uploads: each may take as much memory as the largest image that is read
_PIECE = 1 << 20
_LONGEST_NAME = 120


class BusyError(Exception):
    """Too much is being uploaded at the moment."""


class Entry(NamedTuple):
    """An image. Attributes: id of the page; name; what it is in its data set; the sample."""

    id: str
    name: str
    role: str
    sample: Sample


@dataclass(frozen=True)
class Shelf:
    """What a folder holds.

    Attributes:
        root: the folder.
        entries: its images.
        index: the data set that it is, where it is one.
        left_out: links that lead out of the folder.
    """

    root: Path
    entries: tuple[Entry, ...]
    index: DataIndex | None
    left_out: int


def list_folder(root: Path, *, format: str | None = None) -> Shelf:
    """List the images of a data set, or of any other folder. Links out of the folder are left out.

    Args:
        root: folder, or a data set in a zip file.
        format: layout of the data set; recognised when left out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image is in it.
    """
    if not root.exists():
        raise FileNotFoundError(f"there is no folder {root} with images")
    try:
        index: DataIndex | None = open_dataset(root, format=format, for_training=False)
    except FileNotFoundError:  # no layout of a data set
        if format is not None or not root.is_dir():
            raise
        index = None
    if index is None:
        samples = [Sample(_below(sample.image, root), sample.image, None, "test") for sample in read_images(root, "the app")]
        roles = {"test": ""}
    else:
        root, samples, roles = index.root, list(index.samples), {"test": "test", "val": "val", "train": "train"}
    inside = [sample for sample in samples if _is_inside(sample, root)]
    if not inside:
        raise ValueError(f"there is no image in {root}; links that lead out of it are not followed")
    entries = [
        Entry(f"f{i}", s.name, f"{roles[s.split]} image{'' if s.mask else ', no mask'}".strip(), s)
        for i, s in enumerate(inside)
    ]
    if index is None:
        entries = [entry._replace(role="") for entry in entries]
    return Shelf(root, tuple(entries), index, len(samples) - len(inside))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _is_inside(sample: Sample, root: Path) -> bool:
    """Whether image and mask file lie in a folder, wherever links lead."""
    files = [sample.image, *([sample.mask.path] if isinstance(sample.mask, MaskFile) else [])]
    real = os.path.realpath(root)
    return all(os.path.commonpath([real, os.path.realpath(file)]) == real for file in files)


class Gallery:
    """Images by their ids.

    Args:
        shelf: of a folder; none when left out.
        most_bytes, most_files, most_stored: limits of what is uploaded, the last two also of what is on its way.
    """

    def __init__(
        self,
        shelf: Shelf | None = None,
        *,
        most_bytes: int = MOST_BYTES,
        most_files: int = MOST_FILES,
        most_stored: int = MOST_STORED,
    ) -> None:
        self.shelf, self.most_bytes, self.most_files, self.most_stored = shelf, most_bytes, most_files, most_stored
        self._folder = tempfile.TemporaryDirectory(prefix="protoseg-app-")
        self._uploads: dict[str, Entry] = {}
        self._coming: dict[str, int] = {}  # bytes of the uploads on their way, from before the first is read
        self._number, self._lock, self._decoding = 0, threading.Lock(), threading.Semaphore(_DECODED_AT_ONCE)

    def close(self) -> None:
        """Delete what was uploaded."""
        self._folder.cleanup()

    def entries(self) -> list[Entry]:
        """What can be chosen: the newest upload first, then the folder."""
        with self._lock:
            return [*reversed(self._uploads.values()), *(self.shelf.entries if self.shelf else ())]

    def find(self, id: str) -> Entry:
        """The image of an id.

        Raises:
            LookupError: there is none, or what lies there now leads out of the folder.
        """
        if re.fullmatch(r"[fu]\d{1,8}", id, flags=re.ASCII):
            number = int(id[1:])
            with self._lock:
                uploaded = self._uploads.get(id)
            if uploaded is not None:
                return uploaded
            if id == f"f{number}" and self.shelf and number < len(self.shelf.entries):
                entry = self.shelf.entries[number]
                if _is_inside(entry.sample, self.shelf.root):  # the file may have become a link since
                    return entry
        raise LookupError("there is no such image any more; choose another one")

    def read(self, entry: Entry) -> ImageArray:
        """An image, however it is stored.

        Raises:
            UnreadableImageError: not an image, or too large; the message calls it by the name that the page shows.
        """
        path = entry.sample.image
        try:
            return read_image(path)
        except UnreadableImageError as error:
            raise UnreadableImageError(str(error).replace(str(path), entry.name)) from error

    def add(self, name: str, size: int, read: Callable[[int], bytes]) -> Entry:
        """Keep an uploaded file, and see whether it is an image.

        Args:
            name: that it had; only its end says anything here, and no file gets it.
            size: bytes that come.
            read: gives so many of them, or fewer.

        Raises:
            OverflowError: it is too large.
            BusyError: so much is on its way already that nothing has been read of it.
            UnreadableImageError: not an image.
            ConnectionError: it ended too early.
        """
        if size > self.most_bytes:
            raise OverflowError(
                f"the file has {size / 1e6:,.0f} MB, and at most {self.most_bytes / 1e6:,.0f} MB are taken; start the app with "
                "its folder instead"
            )
        shown = _shown_name(name)
        suffix = Path(shown).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            raise UnreadableImageError(f"{shown} is none of {', '.join(sorted(IMAGE_SUFFIXES))}")
        id = self._expect(shown, size)
        path = Path(self._folder.name) / f"{id}{suffix}"
        entry = Entry(id, shown, "uploaded", Sample(Path(shown).stem, path, None, "test"))
        try:
            with path.open("xb") as file:
                left = size
                while left:
                    piece = read(min(_PIECE, left))
                    if not piece:
                        raise ConnectionError(f"{shown} ended {left} bytes too early")
                    file.write(piece)
                    left -= len(piece)
            with self._decoding:
                self.read(entry)
        except BaseException:
            path.unlink(missing_ok=True)
            with self._lock:
                del self._coming[id]
            raise
        with self._lock:
            del self._coming[id]
            self._uploads[id] = entry
            while len(self._uploads) > self.most_files or (len(self._uploads) > 1 and self._stored() > self.most_stored):
                oldest = self._uploads.pop(next(iter(self._uploads)))
                oldest.sample.image.unlink(missing_ok=True)
        return entry

    def _expect(self, shown: str, size: int) -> str:
        """Set room aside for an upload, and give it its id.

        Raises:
            BusyError: there is none.
        """
        with self._lock:
            full = len(self._coming) >= self.most_files or sum(self._coming.values()) + size > self.most_stored
            if self._coming and full:
                raise BusyError(f"{shown} is not taken: too many files are being uploaded at the moment; try again in a while")
            self._number += 1
            id = f"u{self._number}"
            self._coming[id] = size
        return id

    def _stored(self) -> int:
        return sum(entry.sample.image.stat().st_size for entry in self._uploads.values())


def _shown_name(name: str) -> str:
    """What the page calls an uploaded file: the last part of its name, without what cannot be printed."""
    last = re.split(r"[/\\]", name)[-1]
    printable = "".join(letter for letter in last if letter.isprintable()) if is_text(last) else ""
    return printable[-_LONGEST_NAME:] or "image"


def left_out_note(shelf: Shelf) -> str:
    """What to say of links; empty where all is shown."""
    if not shelf.left_out:
        return ""
    links = counted(shelf.left_out, "image is", "images are")
    return f"{links} not shown: links lead out of {shelf.root}"
