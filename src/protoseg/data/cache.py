"""Decoded 8-bit images in one file, so that no step decodes them again: `--cache DIR`.

The file is called after the bytes of the image files in it, wherever these lie and whatever they are called. So a file that has
changed belongs to another cache, and data sets, divisions and seeds with the same images share one. At each start every image
file is read (not decoded) to find the cache, and every byte of the cache is checked.

N images · I channels · H W image
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import PIL
import tifffile
from numpy.typing import NDArray

from protoseg.data.images import ImageArray, ImageKind, header_size, read_image
from protoseg.data.index import Sample
from protoseg.data.io import UInt8Array, UnreadableImageError
from protoseg.data.limit import most_pixels
from protoseg.data.parallel import in_threads
from protoseg.data.patience import is_passing, patiently
from protoseg.files import CannotWriteError, held, make_folder
from protoseg.words import counted

MOST_BYTES = 64 << 30  # of decoded images: more do not stay in memory, and come from the disk slower than JPEG is decoded
_MAGIC = b"protoseg images1"
_ENTRY = np.dtype([("source", "u1", 32), ("pixels", "u1", 32), ("offset", "<i8"), ("height", "<i8"), ("width", "<i8")])
"""One image: SHA-256 of its file and of its pixels, and where they lie. Height 0: its file holds no image of this kind."""

_START = len(_MAGIC) + 32  # bytes before the entries: of what kind the file is, and their SHA-256

Say = Callable[[str], None]
Track = Callable[[Sequence[Sample]], Iterable[Sample]]


class Place(NamedTuple):
    """Where an image lies in the file."""

    offset: int
    height: int
    width: int


class ImageCache:
    """Images of one run by their paths. What is not in it is read from its own file, and so fails as it does without a cache.

    A worker process gets the places and opens the file itself, if it is still the same one. It stays open: whoever deletes it
    takes it from nobody.

    Args:
        file: whole, see `open_cache`.
        kind: of all images.
        places: of each path's image.
    """

    def __init__(self, file: Path, kind: ImageKind, places: Mapping[str, Place]) -> None:
        self.file, self.kind, self.places = file, kind, places
        self._open()
        self._begins = self._bytes(0, _START).tobytes()  # which holds the hash of all places

    def _open(self) -> None:
        self._descriptor = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()
        if self._bytes(0, _START).tobytes() != self._begins:
            raise ValueError(f"{self.file} was written anew while a run used it; let the run go on with --resume")

    def read(self, path: Path, kind: ImageKind | None = None) -> ImageArray:
        """As `read_image`: the same pixels, or the same error; and those of a drive that is away, see `patiently`."""
        place = self.places.get(str(path))
        if place is None or kind not in {None, self.kind}:
            return read_image(path, kind)
        return self._bytes(place.offset, _size(place, self.kind)).reshape(place.height, place.width, self.kind.channels)

    def source(self, path: Path) -> str:
        """Where an image comes from, for messages."""
        return f"{path} in {self.file}" if str(path) in self.places else str(path)

    def _bytes(self, offset: int, size: int) -> UInt8Array:
        """Read and not mapped: a drive that is away would end the process (SIGBUS), or hold up whoever looks at the pixels.

        Raises:
            ValueError: the file has become shorter.
        """
        if not hasattr(os, "preadv"):  # Windows, which lets nobody put another file in the place of an open one
            return _mapped(self.file)[offset : offset + size].copy()
        content = np.empty(size, dtype=np.uint8)
        rest = memoryview(content.data)
        while rest:
            count = os.preadv(self._descriptor, [rest], offset + size - len(rest))
            if not count:
                raise ValueError(f"{self.file} was cut short while a run used it; let the run go on with --resume")
            rest = rest[count:]
        return content


def open_cache(folder: Path, samples: Sequence[Sample], kind: ImageKind, *, say: Say, track: Track = iter) -> ImageCache:
    """Find the decoded images in a folder, or decode them into it.

    Args:
        folder: of caches; made where it is missing. A cache is a file of its own there, which may be deleted at any time.
        samples: whose images it holds. One that cannot be read stays out.
        kind: of the images; 8 bits, or there is nothing to gain.
        say: is told what there is, and what was damaged.
        track: wraps the samples whose images are decoded, to show progress.

    Raises:
        ValueError: images of another depth, or more than fit.
        CannotWriteError: nothing can be written there.
    """
    if kind.dtype != "uint8":
        raise ValueError(f"--cache holds images of 8 bits, and these have {kind}; leave it out")
    _check_size(sum(in_threads(_stored, samples)))  # files are smaller than what is in them: a large pool is not even read
    digests = in_threads(lambda sample: patiently(lambda: _digest(sample.image), sample.image), samples)
    found = {digest: sample for sample, digest in zip(samples, digests, strict=True) if digest is not None}
    sources = {digest: found[digest] for digest in sorted(found)}
    file = folder / f"{_key(sources, kind)}.images"
    make_folder(folder)
    with held(folder) as is_held:  # of several processes that start at once one decodes, and the others find what it has done
        for left in folder.glob(f"{file.stem}-*.partial") if is_held else ():  # by one that was killed
            left.unlink(missing_ok=True)
        entries = _checked(file, sources, kind) if file.is_file() else None
        if entries is None:
            if file.is_file():
                say(f"warning: the cache {file} is damaged; the images are decoded again")
            _write(file, sources, kind, track)
            entries = _checked(file, sources, kind)
    if entries is None:
        raise CannotWriteError(f"{file} was written and reads otherwise; give --cache a folder on another disk")
    places = {bytes(entry["source"]): _place(entry) for entry in entries}
    pairs = [(str(sample.image), places[digest]) for sample, digest in zip(samples, digests, strict=True) if digest is not None]
    cache = ImageCache(file, kind, {path: place for path, place in pairs if place.height})
    say(f"cache: {len(cache.places)} of {counted(len(samples), 'image')} in {file} ({file.stat().st_size >> 20:,} MiB)")
    return cache


def _digest(path: Path) -> bytes | None:
    """None of what cannot be read: training tries it, and says so."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        if is_passing(error):  # read again, see `patiently`: without it, this would seem to be another cache
            raise
        return None


def _key(sources: Iterable[bytes], kind: ImageKind) -> str:
    """Of the files' content, and of all else that pixels or their place depend on."""
    libraries = (PIL.__version__, tifffile.__version__, imagecodecs.__version__)
    hashed = hashlib.sha256(repr((_MAGIC, tuple(kind), most_pixels(), libraries)).encode())
    for digest in sources:
        hashed.update(digest)
    return hashed.hexdigest()[:16]


def _checked(file: Path, sources: Mapping[bytes, Sample], kind: ImageKind) -> NDArray[np.void] | None:
    """(N,) entries of a whole file; None of a damaged one."""
    end = _START + len(sources) * _ENTRY.itemsize
    if file.stat().st_size < end:
        return None
    content = _mapped(file)
    table = content[_START:end].tobytes()
    if content[:_START].tobytes() != _MAGIC + hashlib.sha256(table).digest():
        return None
    entries = np.frombuffer(table, dtype=_ENTRY)
    places = [_place(entry) for entry in entries]
    if len(content) != end + sum(_size(place, kind) for place in places):
        return None
    if any(min(place) < 0 or place.offset + _size(place, kind) > len(content) for place in places):
        return None
    pixels = in_threads(lambda place: _hash(_pixels(content, place, kind)), places)
    whole = all(bytes(entry["pixels"]) == digest for entry, digest in zip(entries, pixels, strict=True))
    return entries if whole and [bytes(entry["source"]) for entry in entries] == list(sources) else None


def _write(file: Path, sources: Mapping[bytes, Sample], kind: ImageKind, track: Track) -> None:
    """Decode all images into a new file, several at a time; it gets its name when it is whole."""
    end = _START + len(sources) * _ENTRY.itemsize
    samples, lock = list(sources.values()), threading.Lock()
    _check_room(file.parent, end + sum(in_threads(_area, samples)) * kind.channels)
    entries, order = np.zeros(len(samples), dtype=_ENTRY), {sample.image: i for i, sample in enumerate(samples)}
    entries["source"] = np.frombuffer(b"".join(sources), dtype=np.uint8).reshape(-1, 32)

    def decode(sample: Sample) -> None:
        entry, image = entries[order[sample.image]], np.zeros((0, 0, kind.channels), dtype=np.uint8)
        with suppress(UnreadableImageError):
            image = np.ascontiguousarray(read_image(sample.image, kind))
        if _digest(sample.image) != bytes(entry["source"]):  # replaced a moment ago
            image = image[:0]
        entry["pixels"] = np.frombuffer(_hash(image), dtype=np.uint8)
        entry["height"], entry["width"] = image.shape[:2]
        with lock:
            entry["offset"] = opened.tell()
            opened.write(image.data)

    # A name of its own: where the file system knows no locks, two processes may be here at once.
    partial = file.with_name(f"{file.stem}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as opened:
            opened.seek(end)
            in_threads(decode, samples, track=track)
            opened.seek(0)
            opened.write(_MAGIC + hashlib.sha256(entries.tobytes()).digest() + entries.tobytes())
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
    except OSError as error:
        raise CannotWriteError(f"{file.parent} cannot be written to ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _stored(sample: Sample) -> int:
    try:
        return sample.image.stat().st_size
    except OSError:
        return 0


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(
            f"--cache would hold {_gib(size)} of decoded images or more, and takes at most {_gib(MOST_BYTES)}: more would come "
            "from the disk, slower than files are decoded; leave it out"
        )


def _check_room(folder: Path, size: int) -> None:
    _check_size(size)
    if size > (room := shutil.disk_usage(folder).free):
        raise ValueError(
            f"--cache would hold {_gib(size)} of decoded images, and {folder} has room for {_gib(room)}; make room, give a "
            "folder on another disk, or leave it out"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _area(sample: Sample) -> int:
    try:
        height, width = header_size(sample.image)
    except UnreadableImageError:
        return 0
    return height * width


def _mapped(file: Path) -> UInt8Array:
    with file.open("rb") as opened:
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def _place(entry: np.void) -> Place:
    return Place(*(int(entry[name]) for name in Place._fields))


def _pixels(content: UInt8Array, place: Place, kind: ImageKind) -> UInt8Array:
    """(H, W, I), read-only."""
    return content[place.offset : place.offset + _size(place, kind)].reshape(place.height, place.width, kind.channels)


def _size(place: Place, kind: ImageKind) -> int:
    return place.height * place.width * kind.channels


def _hash(pixels: UInt8Array) -> bytes:
    return hashlib.sha256(pixels.data).digest()
