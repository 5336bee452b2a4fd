"""Images of any depth and any number of channels, as they are stored: nothing is cut to 8 bits or to the first bands.

H W image · I channels
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.io import (
    DAMAGED,
    TIFF_SUFFIXES,
    DamagedImageError,
    UInt8Array,
    UnreadableImageError,
    by_content,
    open_image,
    opened,
    why_no_image,
)
from protoseg.data.limit import too_large
from protoseg.data.tiff_rows import TALLEST, ImageRows, TiffRows

ImageArray = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]

_ORIENTATION = 274  # the EXIF and TIFF tag
_TURNED = {  # EXIF orientation -> (transpose first, then flip rows, flip columns)
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_LARGE = 1 << 26  # pixels of an image of which Pillow's copy beside ours would count
_MOST_BYTES = 1 << 33
_LIKELY_BYTES, _MOST_COMPRESSED = 1 << 28, 2000  # deflate packs 1,032 equal bytes into one, LZW not many more
_NODATA = 42113  # the tag in which GDAL writes the value of pixels without one
# tifffile reads the tag more strictly, and would warn of every file; here it is read by `_nodata`. What else it has to say of
# odd tags goes to those who listen, not to everybody's screen: what cannot be read gets a message.
logging.getLogger("tifffile").addFilter(lambda record: "GDAL_NODATA" not in record.getMessage())
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_LOSSY = tuple(tifffile.COMPRESSION[name] for name in ("OJPEG", "JPEG", "JPEG_LOSSY", "WEBP"))
_OF_PILLOW = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000))  # TIFF's codings that every build of it knows
BLURS = "which blurs class numbers; export the mask again without loss, as PNG"
_TIME = "T"  # an axis that is certainly no bands; a Z may be: ImageJ calls the bands of an image from elsewhere slices
_EXTRA_SAMPLES, _UNSPECIFIED = 338, 0  # a fourth band of unspecified meaning is a band, else it is transparency


class ImageKind(NamedTuple):
    """What all images of one data set have in common."""

    channels: int
    dtype: str  # uint8, uint16 or float32

    @property
    def is_photograph(self) -> bool:
        """Whether it is what encoders are pre-trained on: 8-bit RGB."""
        return self == PHOTOGRAPH

    @property
    def full_scale(self) -> int:
        """What stands for 1.0."""
        return {"uint8": 255, "uint16": 65535, "float32": 1}[self.dtype]

    def __str__(self) -> str:
        return f"{self.channels} channel{'s' if self.channels > 1 else ''} of {self.dtype}"


class Picture(NamedTuple):
    """An image, and what its file says beside the pixels."""

    image: ImageArray  # (H, W, I), turned
    orientation: int = 1  # of EXIF or TIFF, by which it was turned
    nodata: float | None = None  # the stored value that a TIFF declares for pixels without one


_SEEN, _ROWS = 1024, 512  # pixels a side that tell the range of an image, and rows that are shown at a time

PHOTOGRAPH = ImageKind(3, "uint8")


def kind_of(image: ImageArray) -> ImageKind:
    return ImageKind(image.shape[2], image.dtype.name)


def read_image(path: Path, kind: ImageKind | None = None) -> ImageArray:
    """Read an image, turned as its EXIF orientation says.

    8-bit grey and palette images become RGB; transparency that is all or nothing is left out. Other depths and numbers of
    channels stay as they are: 16-bit numbers uint16, all further ones float32.

    Args:
        path: of the image.
        kind: that it must be of; any when left out.

    Returns:
        (H, W, I) uint8, uint16 or float32.

    Raises:
        UnreadableImageError: missing, truncated, not an image, several images (a stack, an animation), or of another kind.
    """
    return read_picture(path, kind).image


def read_picture(path: Path, kind: ImageKind | None = None) -> Picture:
    """`read_image`, and what the file says beside the pixels."""
    picture = by_content(path, _read_tiff, _read)
    _check_kind(path, kind_of(picture.image), kind)
    return picture


def _check_kind(path: Path, found: ImageKind, kind: ImageKind | None) -> None:
    if kind is not None and found != kind:
        raise UnreadableImageError(
            f"{path} has {found}, but the images that the model learns from have {kind}; convert it to that, or train on "
            "images of its kind"
        )


def open_rows(path: Path, kind: ImageKind | None = None) -> ImageRows:
    """`read_image`, but of a large TIFF in tiles or strips nothing is decoded until rows of it are asked for.

    Raises:
        UnreadableImageError: see `read_image`; also when rows are asked for.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        with _open_tiff(path) as file:
            if _has_rows(file):
                rows = TiffRows(path, file.pages.first, _finish(file, path))
                _check_kind(path, kind_of(rows[0:1]), kind)
                return rows
    return read_image(path, kind)


def header_size(path: Path) -> tuple[int, int]:
    """(H, W) as the file's header has it, before EXIF turns the image. Nothing is decoded.

    Raises:
        UnreadableImageError: missing, damaged, or not an image.
    """
    return by_content(path, _tiff_size, _size)


def _tiff_size(path: Path) -> tuple[int, int]:
    with _open_tiff(path) as file:
        return file.pages.first.imagelength, file.pages.first.imagewidth


def _size(path: Path) -> tuple[int, int]:
    with opened(path) as image:
        return image.height, image.width


def to_rgb(image: ImageArray) -> UInt8Array:
    """(H, W, I) to (H, W, 3) uint8, for the eye: the first three bands (or the first), from dark to bright."""
    if kind_of(image).is_photograph:
        return image.astype(np.uint8)
    bands = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    shown = np.zeros(bands.shape, dtype=np.uint8)
    step = 1 + max(image.shape[:2]) // _SEEN  # a large image in floats would fill the memory
    for i in range(3):
        seen = bands[::step, ::step, i].astype(np.float32)
        seen = seen[np.isfinite(seen)]
        if seen.size:
            low, high = np.percentile(seen, [2, 98])
            for y in range(0, len(bands), _ROWS):
                rows = np.nan_to_num(bands[y : y + _ROWS, :, i].astype(np.float32), nan=low, posinf=high, neginf=low)
                shown[y : y + _ROWS, :, i] = (255 * ((rows - low) / max(high - low, 1e-6)).clip(0, 1)).round()
    return shown


def _read(path: Path, *, tiff: bool = False) -> Picture:
    image, stored = open_image(path, tiff=tiff)
    orientation = exif_orientation(image)
    if image.format == "PNG" and ";16" in stored and image.mode in {"RGB", "RGBA", "LA"}:  # Pillow has cut them to 8 bits
        return Picture(turn(_decode_png(path), orientation), orientation)
    return Picture(turn(_bands(image, path), orientation), orientation)


def _bands(image: Image.Image, path: Path) -> ImageArray:
    """The channels of what Pillow has decoded whole."""
    if image.mode in {"RGBA", "LA"}:
        bands = _without_transparency(np.asarray(image))
        if bands.shape[2] in {2, 4}:
            return np.ascontiguousarray(bands)
    if image.mode == "P":
        image.info.pop("transparency", None)  # Pillow would warn of leaving it out
    if image.mode in {"I", "F"} or ";16" in image.mode:
        values = np.asarray(image)[..., None]
        if image.mode == "I" and values.min() >= 0 and values.max() < 1 << 16:
            values = values.astype(np.uint16)  # some versions of Pillow open 16-bit grey so
        return _plain(values, path)
    return _as_rgb(image)


def _as_rgb(image: Image.Image) -> UInt8Array:
    """(H, W, 3). A large image is taken over in parts: Pillow would make three copies on the way."""
    if image.width * image.height <= _LARGE:
        return np.asarray(image.convert("RGB"))
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _ROWS):
        bottom = min(top + _ROWS, image.height)
        rgb[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
    return rgb


def _decode_png(path: Path) -> NDArray[np.uint16]:
    """A PNG of 16 bits a channel."""
    try:
        image: NDArray[np.uint16] = imagecodecs.png_decode(path.read_bytes())
    except (imagecodecs.PngError, ValueError) as error:
        raise DamagedImageError(f"{path} cannot be read as an image: {error}") from error
    image = image if image.ndim == 3 else image[..., None]
    return _without_transparency(image) if image.shape[2] in {2, 4} else image


def _without_transparency(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W, I) without its last band where that is all or nothing, as the transparency of a photograph is. Any other is kept:
    programs without a name for a fourth band (near-infrared, depth) store it there."""
    last = image[..., -1]
    return image[..., :-1] if ((last == 0) | (last == np.iinfo(image.dtype).max)).all() else image


def _read_tiff(path: Path) -> Picture:
    with _open_tiff(path) as file:
        if not _is_photograph(file):
            image = _plain(_from_dark_to_bright(_stored(file, path), file), path)
        elif not _is_for_pillow(file):
            image = _as_photograph(_from_dark_to_bright(_stored(file, path), file))
        else:
            image = _read(path, tiff=True).image  # Pillow also knows palettes, CMYK and JPEG inside
        return Picture(image, _tiff_orientation(file), _nodata(file))


def nodata_share(path: Path) -> float:
    """The share of the pixels of a TIFF file whose bands all hold its value for no data, 0 where it declares none.

    The value is one of those in the file: where white is 0, or the numbers are those of a palette, the picture holds others.

    Raises:
        UnreadableImageError: missing or damaged.
    """
    with _open_tiff(path) as file:
        nodata = _nodata(file)
        if nodata is None:
            return 0.0
        stored = _stored(file, path, holes=False)
        bands = stored[..., : _num_colors(file)] if _is_photograph(file) else stored  # transparency has no such value
        return float(_equals(bands, nodata).all(axis=2).mean())


class TiffPage(NamedTuple):
    """The numbers of a TIFF file, and what they stand for."""

    values: NDArray[Any]  # (H, W, I) of the stored type, turned as the file's orientation says
    meaning: str  # of the numbers, as in TIFF's PhotometricInterpretation: MINISBLACK, RGB, PALETTE, ...
    palette: UInt8Array | None  # (N, 3) the colour of each number; None where the file has none


def read_tiff(path: Path) -> TiffPage:
    """Read the only page of a TIFF file as numbers: those of a palette stay numbers, and white may be 0.

    Raises:
        UnreadableImageError: missing, damaged, of several pages, or compressed with loss.
    """
    with _open_tiff(path) as file:
        if _num_images(file) > 1:
            raise UnreadableImageError(f"{path} holds {_num_images(file)} images; store one in a file")
        if file.pages.first.compression in _LOSSY:
            coding = tifffile.COMPRESSION(file.pages.first.compression).name
            raise UnreadableImageError(f"{path} is compressed as {coding}, {BLURS}")
        meaning = tifffile.PHOTOMETRIC(file.pages.first.photometric).name
        # A mask's numbers are all meant: one for no data is a class or an ignored value like any other.
        return TiffPage(_stored(file, path, holes=False), meaning, _colormap(file))


@contextmanager
def _open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    if not path.is_file():
        raise UnreadableImageError(f"{path} does not exist")
    try:
        # These three kinds may send the reader to other files, wherever they lie.
        with tifffile.TiffFile(path, is_ome=False, is_mmstack=False, is_ndtiff=False) as file:
            largest, stored = file.series[0], path.stat().st_size
            size = np.prod(largest.shape, dtype=np.float64) * largest.dtype.itemsize  # nothing is made of it yet
            if size > _MOST_BYTES:
                raise UnreadableImageError(f"{path} says that it is {largest.shape} large, which no image in memory is")
            if size > max(_LIKELY_BYTES, _MOST_COMPRESSED * stored):
                raise UnreadableImageError(
                    f"{path} says that it is {largest.shape} large, but has {stored} bytes, which cannot hold that; write it "
                    "again, without empty tiles"
                )
            if wrong := too_large(file.pages.first.imagelength, file.pages.first.imagewidth):
                raise UnreadableImageError(f"{path} {wrong}")
            yield file
    except UnreadableImageError:
        raise
    except Exception as error:  # tifffile raises whatever a damaged file leads it into
        raise DamagedImageError(f"{path} cannot be read as an image: {why_no_image(path, str(error))}") from error


def _stored(file: tifffile.TiffFile, path: Path, *, holes: bool = True) -> NDArray[Any]:
    """(H, W, I) turned; in types that become floats, NaN where there is no data, if holes are wanted."""
    images = [series for series in file.series if not _is_companion(series.keyframe)]
    series = images[0]
    bands = [axis for axis in range(series.ndim) if series.axes[axis] not in "YX"]
    if len(bands) > 1 or len(images) > 1 or _TIME in series.axes:
        raise UnreadableImageError(f"{path} is a stack of images ({series.axes}, {series.shape}); store one in a file")
    array = series.asarray()
    image = np.moveaxis(array, bands[0], -1) if bands else array[..., None]
    if image.ndim != 3 or 0 in image.shape:  # a damaged header
        raise UnreadableImageError(f"{path} holds an image of the shape {series.shape}")
    return turn(_with_holes(image, _nodata(file)) if holes else image, _tiff_orientation(file))


def _with_holes(image: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Without the value that stands for no data, where the numbers become floats, which have another."""
    if nodata is None or image.dtype.kind not in "if" or image.dtype.itemsize == 1:
        return image
    return np.where(_equals(image, nodata), np.nan, image.astype(np.promote_types(image.dtype, np.float32)))


def _from_dark_to_bright(image: NDArray[Any], file: tifffile.TiffFile) -> NDArray[Any]:
    """Where a file says that 0 is white, what Pillow does with 8 bits. Other numbers than counts have no white."""
    page = file.pages.first
    if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE or image.dtype not in (np.uint8, np.uint16):
        return image
    white = (1 << page.bitspersample) - 1
    colors = image.shape[2] if page.samplesperpixel == 1 else 1  # pages are grey each, further samples are bands
    return np.concatenate([white - image[..., :colors], image[..., colors:]], axis=2, dtype=image.dtype)


def _colormap(file: tifffile.TiffFile) -> UInt8Array | None:
    page = file.pages.first
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    # 16 bits by the standard; some programs write 8, which libtiff too takes for such where none is larger.
    return np.asarray(page.colormap.T >> (8 if page.colormap.max() > 255 else 0), dtype=np.uint8)


def _nodata(file: tifffile.TiffFile) -> float | None:
    tag = file.pages.first.tags.get(_NODATA)
    if tag is None:
        return None
    try:
        return float(str(tag.value).strip(" \0"))
    except ValueError as error:
        raise UnreadableImageError(
            f"{file.filename} declares {tag.value!r} as its value for no data, which is no number"
        ) from error


def _equals(image: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Where an image holds a value that a file gives as text: to the digits that the image's type has."""
    if image.dtype.kind != "f":
        return np.asarray(image == value)
    with np.errstate(over="ignore"):
        return np.asarray(image == image.dtype.type(value))


def missing_pixels(image: ImageArray) -> NDArray[np.bool_]:
    """(H, W) True where no channel has a number: there is nothing to see, so nothing to learn or to score."""
    return np.asarray(~np.isfinite(image).any(axis=2))


def _orientation(stored: object) -> int:
    """What a file says, 1 where that is none of the eight."""
    return stored if isinstance(stored, int) and stored in range(1, 9) else 1


def _tiff_orientation(file: tifffile.TiffFile) -> int:
    tag = file.pages.first.tags.get(_ORIENTATION)
    return _orientation(None if tag is None else tag.value)


def _is_companion(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    """Whether a page only accompanies the image: a smaller copy of it (an overview), or the mask of its valid pixels."""
    whole = page.aspage()
    return bool(whole.is_reduced or whole.is_mask)


def _num_images(file: tifffile.TiffFile) -> int:
    return sum(not _is_companion(page) for page in file.pages)


def _is_photograph(file: tifffile.TiffFile) -> bool:
    """Whether Pillow reads it without loss: one page of 8 bits, whose bands beyond colour are transparency."""
    page = file.pages.first
    if page.dtype not in (np.uint8, np.bool_) or _num_images(file) > 1:
        return False
    samples, colors = page.samplesperpixel, _num_colors(file)
    if samples == colors:
        return True
    extra = page.tags.get(_EXTRA_SAMPLES)
    if samples != colors + 1 or extra is None or _UNSPECIFIED in np.atleast_1d(extra.value):
        return False
    # Some programs mark any fourth band as transparency, near-infrared too. That of a photograph is all or nothing.
    last = np.take(page.asarray(), -1, axis=0 if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else -1)
    return bool(np.isin(last, (0, 255)).all())


def _num_colors(file: tifffile.TiffFile) -> int:
    """The bands of a photograph without its transparency."""
    kind, kinds = file.pages.first.photometric, tifffile.PHOTOMETRIC
    if kind in {kinds.MINISBLACK, kinds.MINISWHITE, kinds.PALETTE}:
        return 1
    return 4 if kind == kinds.SEPARATED else 3


def _has_rows(file: tifffile.TiffFile) -> bool:
    """Whether it is large, and any rows of it can be made of its tiles or strips alone, as `_read_tiff` makes the whole."""
    page, kinds = file.pages.first, tifffile.PHOTOMETRIC
    extra = page.tags.get(_EXTRA_SAMPLES)
    only_bands = extra is not None and _UNSPECIFIED in np.atleast_1d(extra.value)
    return bool(
        page.imagelength * page.imagewidth > _LARGE
        and _num_images(file) == 1
        and page.imagedepth == 1
        and (page.tilelength if page.is_tiled else page.rowsperstrip) <= TALLEST
        and _tiff_orientation(file) == 1
        and page.dtype is not None
        and page.bitspersample == 8 * page.dtype.itemsize
        and (
            page.dtype != np.uint8 or page.samplesperpixel not in {2, 4} or only_bands
        )  # transparency is a matter of the whole
        and (
            page.photometric in {kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB}
            or (page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG)
        )
    )


def _finish(file: tifffile.TiffFile, path: Path) -> Callable[[NDArray[Any]], ImageArray]:
    """What makes an image of rows as they are stored."""
    photograph, nodata = _is_photograph(file), _nodata(file)

    def finish(stored: NDArray[Any]) -> ImageArray:
        image = _from_dark_to_bright(_with_holes(stored, nodata), file)
        return _as_photograph(image) if photograph else _plain(image, path)

    return finish


def _is_for_pillow(file: tifffile.TiffFile) -> bool:
    """Whether a photograph is no plain grey or RGB, which Pillow alone turns into it; or of a size and coding that it knows."""
    page, kinds = file.pages.first, tifffile.PHOTOMETRIC
    plain = page.photometric in {kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB}
    plain |= page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG  # which becomes RGB in decoding
    is_known = page.compression in _OF_PILLOW and page.imagelength * page.imagewidth <= _LARGE
    return is_known or not plain or page.bitspersample != 8


def _as_photograph(image: NDArray[Any]) -> UInt8Array:
    """(H, W, I) grey or RGB to (H, W, 3), without the transparency that `_is_photograph` has found to be all or nothing."""
    bands = image[..., : 1 if image.shape[2] <= 2 else 3]
    return np.ascontiguousarray(bands.repeat(3, axis=2) if bands.shape[2] == 1 else bands)


def _plain(image: NDArray[Any], path: Path) -> ImageArray:
    """To one of the three types that are kept."""
    if image.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(image)
    if image.dtype.kind not in "iuf":
        raise UnreadableImageError(f"{path} holds {image.dtype}, which is no kind of pixel; store integers or floats")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is taken for no number
        return np.ascontiguousarray(image.astype(np.float32))


def exif_orientation(image: Image.Image) -> int:
    """By which of the eight a viewer turns a decoded image. 1 where its EXIF is damaged: the pixels are whole, and viewers show
    them as they are stored."""
    try:
        return _orientation(image.getexif().get(_ORIENTATION))
    except DAMAGED:
        return 1


def turn(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W) or (H, W, I) as a viewer shows it. Not by Pillow, which writes all other tags of the EXIF anew for that, and some
    that it reads it cannot write."""
    if orientation not in _TURNED:
        return image
    transpose, rows, columns = _TURNED[orientation]
    image = image.swapaxes(0, 1) if transpose else image
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])
