"""Reading and writing images and masks. Every error names its file."""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from protoseg.data.limit import too_large

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit only warns up to twice its number, and no setting reaches it: see `opened`

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"}) | TIFF_SUFFIXES
MASK_SUFFIXES = frozenset({".png", ".bmp"}) | TIFF_SUFFIXES  # a GIF re-numbers its colours, so it cannot hold classes

OTHER_PICTURES = frozenset(
    (
        ".gif .jp2 .j2k .jpf .jpx .jfif .jpe .heic .heif .avif .jxl .tga .ppm .pgm .pbm .pnm .pcx .exr .hdr .psd .svg .dng "
        ".cr2 .cr3 .nef .arw .raw .npy .npz .mat .h5 .hdf5 .nc .dcm .nii .mha .nrrd .svs .ndpi .vrt .img .ecw .sid"
    ).split()
)
"""Suffixes of pictures that are not read: they are named, because an image left out without a word is missed by nobody."""

UInt8Array = NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # no PostScript under another name, which would be run


_ANIMATED = {"PNG", "WEBP"}  # what a phone writes behind the photograph in a JPEG (MPO) only accompanies it

DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
    struct.error,
)
"""What Pillow raises of a damaged file: it checks few of the numbers and types that it reads."""
_POINTER = b"version https://git-lfs"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such a file begins; the last two are larger than 4 GB

# Pillow warns of odd EXIF without a file's name. What is read here needs no warning, and what is refused gets a message.
# (Appended: whoever has said what becomes of such warnings is still obeyed.)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)


class UnreadableImageError(ValueError):
    """A file that is not a whole image; the message names it."""

    def __init__(self, message: str) -> None:
        # A DataLoader hands on an error of a worker as its whole traceback; the message is the last line.
        super().__init__(message.strip().rsplit(f"{type(self).__name__}: ", 1)[-1])


class DamagedImageError(UnreadableImageError):
    """It holds no whole image, so that there is nothing to correct in it."""


def walk(root: Path) -> list[Path]:
    """All files below a folder, sorted; linked folders included, each folder once, hidden files and folders and those of
    the system left out.

    Raises:
        ValueError: a name that is no UTF-8 or holds a line break, so that no list or result could hold it.
    """
    return [root / file for file in walk_below(root)]


def walk_below(root: Path) -> list[str]:
    """`walk`, as paths below the folder with slashes: a million of these take a tenth of what as many `Path`s do.

    Raises:
        ValueError: see `walk`.
    """
    found, seen = list[str](), set[str]()
    for folder, below, files in os.walk(root, followlinks=True):
        below.sort()  # of two ways to a folder the first one counts, on every machine
        place = os.path.realpath(folder)
        if place in seen:  # a link that leads back would go round for ever
            below.clear()
            continue
        seen.add(place)
        parts = Path(folder).relative_to(root).parts
        if not any(map(_is_hidden, parts)):
            found += ["/".join((*parts, file)) for file in files if not _is_hidden(file)]
    found.sort(key=lambda file: file.replace("/", "\0"))  # folder by folder: a, a/b, a-b
    if found:
        check_names([root, *(root / file for file in found if not is_plain(file))])
    return found


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part in _OF_SYSTEMS


_OF_SYSTEMS = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN"})  # of Synology (thumbnails of every image), macOS, Windows


def check_names(paths: Iterable[Path]) -> None:
    """Stop at the first path that could stand in no list or result.

    Raises:
        ValueError: a name that is no UTF-8 or holds a line break.
    """
    for path in paths:
        broken = next((i for i, part in enumerate(path.parts) if not is_text(part)), None)
        if broken is not None:
            folder, stored = Path(*path.parts[:broken]), ascii(os.fsencode(path.parts[broken]))[2:-1]
            raise ValueError(
                f"the name '{stored}' in the folder {folder} is not UTF-8; rename it (if it is Latin-1, this renames all such: "
                f"convmv -r -f latin1 -t utf8 --notest '{folder}')"
            )
        if len(str(path).splitlines()) > 1:
            raise ValueError(
                f"the name {path.name!r} in the folder {path.parent} holds a line break, as no list can; rename it"
            )


def is_text(name: str) -> bool:
    """Whether UTF-8 can hold it, so that it can be a file's name and be printed."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half letters: what Python makes of other bytes, and of `\\ud800` in JSON
        return False
    return True


def resolver() -> Callable[[str], str]:
    """A function that follows links, as `Path.resolve` does, and looks at each folder once."""
    folders = dict[str, str]()

    def resolved(path: str) -> str:
        folder, separator, file = path.rpartition(os.sep)
        if not folder or _is_link(path):
            return os.path.realpath(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return folders[folder] + separator + file

    return resolved


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def is_plain(name: str) -> bool:
    """Whether a name holds nothing that `check_names` could mind; False does not say that it does."""
    return name.isascii() and name.isprintable()


def composed(name: str) -> str:
    """A name as it is compared: a file may have come from macOS, which stores ü as two characters, or from elsewhere."""
    return unicodedata.normalize("NFC", name)


def files_by_name(root: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Relative path without suffix -> file, sorted.

    Raises:
        ValueError: two files share a name.
    """
    return {name: root / file for name, file in by_name(root, walk_below(root), suffixes).items()}


def by_name(root: Path, files: Iterable[str], suffixes: Set[str]) -> dict[str, str]:
    """Name -> file, both below a folder: its path, and that without suffix as it is compared.

    Args:
        root: folder, for messages.
        files: below it.
        suffixes: of those that are wanted.

    Raises:
        ValueError: two files share a name.
    """
    found: dict[str, str] = {}
    for file in files:
        folder, slash, last = file.rpartition("/")
        stem, suffix = split_suffix(last)
        if suffix.lower() not in suffixes:
            continue
        name = composed(folder + slash + stem)
        if name in found:
            raise ValueError(f"{root / found[name]} and {root / file} have the same name; keep one of them")
        found[name] = file
    return found


def path_below(folder: Path) -> Callable[[str], str]:
    """A function that makes `str(folder / file)` of a file below a folder, in a fraction of the time."""
    before = str(folder / "_")[:-1]
    return lambda file: before + file.replace("/", os.sep)


def split_suffix(file: str) -> tuple[str, str]:
    """A file's name in front of its suffix, and that with its dot; as pathlib sees them."""
    stem, dot, suffix = file.rpartition(".")
    return (stem, dot + suffix) if stem and suffix else (file, "")


def read_lines(path: Path) -> list[str]:
    """Lines of a text file in UTF-8.

    Raises:
        ValueError: it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; save it in that encoding") from error


def listed_path(text: str) -> str:
    """A path in a list as it is compared: some come from Windows or from `find .`, some published ones begin with a slash."""
    return composed(text).replace("\\", "/").removeprefix("./").lstrip("/")


def write_mask(path: Path | BinaryIO, values: UInt8Array, palette: dict[int, tuple[int, int, int]]) -> None:
    """Write an index mask as a palette PNG: the numbers are the classes, the colours are for the eye.

    Args:
        path: of the PNG, or a file to write it into.
        values: (H, W) uint8.
        palette: colour of each value; others become black.
    """
    colors = np.zeros((256, 3), dtype=np.uint8)
    for value, color in palette.items():
        colors[value] = color
    image = Image.fromarray(values)
    image.putpalette(colors.flatten().tolist())
    image.save(path, format="PNG")


class OtherNameError(Exception):
    """A TIFF file that is not called so. Pillow would read its first page, turn white 0 round, or know nothing of its bands."""


Read = TypeVar("Read")


def by_content(path: Path, tiff: Callable[[Path], Read], other: Callable[[Path], Read]) -> Read:
    """Read a TIFF file in one way and every other image in another, whatever its name is. No file is opened only to be told.

    Args:
        path: of the image.
        tiff: reads TIFF files.
        other: reads the others, and raises OtherNameError of a TIFF file.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        return tiff(path)
    try:
        return other(path)
    except OtherNameError:
        return tiff(path)


@contextmanager
def opened(path: Path, *, tiff: bool = False) -> Iterator[Image.Image]:
    """An image file that Pillow knows, of which only the header has been read.

    Args:
        path: of the image.
        tiff: whether it is known to be a TIFF file that Pillow reads well.

    Raises:
        UnreadableImageError: missing, truncated, not an image, or larger than what is read.
        OtherNameError: it is a TIFF file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "TIFF" and not tiff:
                raise OtherNameError
            if wrong := too_large(image.height, image.width):
                raise UnreadableImageError(f"{path} {wrong}")
            yield image
    except (UnreadableImageError, OtherNameError):
        raise
    except FileNotFoundError as error:
        raise DamagedImageError(f"{path} does not exist") from error
    except UnidentifiedImageError as error:
        if not tiff and _beginning(path).startswith(_TIFF):
            raise OtherNameError from error
        why = why_no_image(path, f"its content is none of {', '.join(FORMATS)}")
        raise DamagedImageError(f"{path} cannot be read as an image: {why}") from error
    except DAMAGED as error:
        raise DamagedImageError(f"{path} cannot be read as an image: {error}") from error


def why_no_image(path: Path, otherwise: str) -> str:
    """What a file that no library knows holds: nothing, or what Git leaves in the place of a large file; else as given."""
    head = _beginning(path)
    if not head:
        return "it is empty"
    return "it is a pointer of Git LFS, which `git lfs pull` replaces by the image" if head == _POINTER else otherwise


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_POINTER))


def open_image(path: Path, *, tiff: bool = False) -> tuple[Image.Image, str]:
    """A decoded image, and how the file stores its pixels (Pillow's raw mode): decoding may hide 16 bits or spread 2.

    Args:
        path: of the image.
        tiff: see `opened`.

    Raises:
        UnreadableImageError: missing, truncated, not an image, or an animation.
        OtherNameError: it is a TIFF file.
    """
    with opened(path, tiff=tiff) as image:
        if image.format in _ANIMATED and (num_images := getattr(image, "n_frames", 1)) > 1:
            raise UnreadableImageError(f"{path} holds {num_images} images; store one in a file")
        stored = _raw_mode(image)
        image.load()
    return image, stored


def _raw_mode(image: Image.Image) -> str:
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if arguments and isinstance(arguments[0], str):
            return arguments[0]
    return ""
