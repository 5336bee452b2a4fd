"""Images of any depth and any number of channels, as they are stored: nothing is cut to 8 bits or to the first bands.

H W image · I channels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ImageOps

from protoseg.data.io import UInt8Array, UnreadableImageError, open_image

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
_MOST_BYTES = 1 << 33
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
        UnreadableImageError: missing, truncated, not an image, a stack of images, or of another kind.
    """
    image = _read_tiff(path) if path.suffix.lower() in {".tif", ".tiff"} else _read(path)
    if kind is not None and kind_of(image) != kind:
        raise UnreadableImageError(f"{path} has {kind_of(image)}, the others have {kind}")
    return image


def to_rgb(image: ImageArray) -> UInt8Array:
    """(H, W, I) to (H, W, 3) uint8, for the eye: the first three bands (or the first), from dark to bright."""
    if kind_of(image).is_photograph:
        return image.astype(np.uint8)
    bands = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    bands = np.nan_to_num(bands.astype(np.float32))
    low, high = np.percentile(bands, [2, 98], axis=(0, 1))
    stretched = ((bands - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
    shown: UInt8Array = (255 * stretched).round().astype(np.uint8)
    return shown


def _read(path: Path) -> ImageArray:
    image, stored = open_image(path)
    if image.format == "PNG" and ";16" in stored and image.mode in {"RGB", "RGBA", "LA"}:  # Pillow has cut them to 8 bits
        return _turn(_decode_png(path), image.getexif().get(_ORIENTATION, 1))
    image = ImageOps.exif_transpose(image)
    if image.mode in {"RGBA", "LA"}:
        bands = _without_transparency(np.asarray(image))
        if bands.shape[2] in {2, 4}:
            return np.ascontiguousarray(bands)
    if image.mode in {"I", "F"} or ";16" in image.mode:
        values = np.asarray(image)[..., None]
        if image.mode == "I" and values.min() >= 0 and values.max() < 1 << 16:
            values = values.astype(np.uint16)  # some versions of Pillow open 16-bit grey so
        return _plain(values, path)
    return np.asarray(image.convert("RGB"))


def _decode_png(path: Path) -> NDArray[np.uint16]:
    """A PNG of 16 bits a channel."""
    image: NDArray[np.uint16] = imagecodecs.png_decode(path.read_bytes())
    image = image if image.ndim == 3 else image[..., None]
    return _without_transparency(image) if image.shape[2] in {2, 4} else image


def _without_transparency(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W, I) without its last band where that is all or nothing, as the transparency of a photograph is. Any other is kept:
    programs without a name for a fourth band (near-infrared, depth) store it there."""
    last = image[..., -1]
    return image[..., :-1] if ((last == 0) | (last == np.iinfo(image.dtype).max)).all() else image


def _read_tiff(path: Path) -> ImageArray:
    with _open_tiff(path) as file:
        if _is_photograph(file):
            return _read(path)  # which also knows palettes, CMYK and JPEG inside
        return _plain(_stored(file, path), path)


def read_tiff(path: Path) -> tuple[NDArray[Any], str]:
    """Read the only page of a TIFF file as numbers: those of a palette stay numbers, and white may be 0.

    Returns:
        (H, W, I) of the stored type, turned as the file's orientation says, and the name of what the numbers mean, as in
        TIFF's PhotometricInterpretation: MINISBLACK, RGB, PALETTE, ...

    Raises:
        UnreadableImageError: missing, damaged, or of several pages.
    """
    with _open_tiff(path) as file:
        if _num_images(file) > 1:
            raise UnreadableImageError(f"{path} holds {_num_images(file)} images; store one in a file")
        return _stored(file, path), tifffile.PHOTOMETRIC(file.pages.first.photometric).name


@contextmanager
def _open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    if not path.is_file():
        raise UnreadableImageError(f"{path} does not exist")
    try:
        with tifffile.TiffFile(path, is_ome=False) as file:  # OME may send the reader to other files
            largest = file.series[0]
            if np.prod(largest.shape, dtype=np.float64) * largest.dtype.itemsize > _MOST_BYTES:  # nothing is made of it yet
                raise UnreadableImageError(f"{path} says that it is {largest.shape} large, which no image in memory is")
            yield file
    except UnreadableImageError:
        raise
    except Exception as error:  # tifffile raises whatever a damaged file leads it into
        raise UnreadableImageError(f"{path} cannot be read as an image: {error}") from error


def _stored(file: tifffile.TiffFile, path: Path) -> NDArray[Any]:
    images = [series for series in file.series if not _is_companion(series.keyframe)]
    series = images[0]
    bands = [axis for axis in range(series.ndim) if series.axes[axis] not in "YX"]
    if len(bands) > 1 or len(images) > 1:
        raise UnreadableImageError(f"{path} is a stack of images ({series.axes}, {series.shape}); store one in a file")
    array, orientation = series.asarray(), file.pages.first.tags.get(_ORIENTATION)
    image = np.moveaxis(array, bands[0], -1) if bands else array[..., None]
    return _turn(image, 1 if orientation is None else int(orientation.value))


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
    samples, kinds = page.samplesperpixel, tifffile.PHOTOMETRIC
    if page.photometric in {kinds.MINISBLACK, kinds.MINISWHITE, kinds.PALETTE}:
        colors = 1
    else:
        colors = 4 if page.photometric == kinds.SEPARATED else 3
    if samples == colors:
        return True
    extra = page.tags.get(_EXTRA_SAMPLES)
    if samples != colors + 1 or extra is None or _UNSPECIFIED in np.atleast_1d(extra.value):
        return False
    # Some programs mark any fourth band as transparency, near-infrared too. That of a photograph is all or nothing.
    last = np.take(page.asarray(), -1, axis=0 if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else -1)
    return bool(np.isin(last, (0, 255)).all())


def _plain(image: NDArray[Any], path: Path) -> ImageArray:
    """To one of the three types that are kept."""
    if image.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(image)
    if image.dtype.kind not in "iuf":
        raise UnreadableImageError(f"{path} holds {image.dtype}, which is no kind of pixel; store integers or floats")
    return np.ascontiguousarray(image.astype(np.float32))


def _turn(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    transpose, rows, columns = _TURNED.get(orientation, (False, False, False))
    image = image.swapaxes(0, 1) if transpose else image
    return image[:: -1 if rows else 1, :: -1 if columns else 1]
