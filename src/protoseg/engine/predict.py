"""Predict a folder of images: for each an index PNG, an overlay and a confidence map, at the image's own size.

While one image is in the network, the next ones are read and the last ones written. Of an image of any size no more is held
than the decoded image (of a TIFF in tiles or strips a few rows), one row of windows, and a byte each for label and confidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from protoseg.data.geo import is_georeferenced, write_geo_mask
from protoseg.data.images import header_size, missing_pixels, open_rows, to_rgb
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UInt8Array, UnreadableImageError, write_mask
from protoseg.data.parallel import WriteBehind, read_ahead
from protoseg.data.tiff_rows import ImageRows
from protoseg.engine.evaluate import WHOLE, Normalization, predict_strips
from protoseg.engine.inference import Inference
from protoseg.engine.pictures import gray, mask_palette, overlay
from protoseg.types import IGNORE_INDEX

LARGE = 16_000_000
"""Pixels above which an image is seen through windows where nothing else was said."""
LARGEST_OVERLAY = 16_384
"""Pixels of an overlay's longer side; that of a larger image is reduced. JPEG itself ends at 65,535."""
_WINDOW = 1024
_LOGIT_BYTES = 1 << 31  # of one row of windows, as far as the crop of the training allows
_ROWS = 1024  # of an image that are reduced at a time


class PredictReport(NamedTuple):
    skipped: list[tuple[Path, str]]  # images that could not be read, and what was wrong with each
    unplaced: int  # georeferenced images whose masks lost their place, because rasterio is not installed
    windowed: list[int]  # of each large image: the side of the windows through which it was seen unasked
    reduced: int  # images whose overlay is smaller than they are
    holes: int  # images with pixels of no data


class _Answer(NamedTuple):
    label: UInt8Array  # (H, W) class ids, IGNORE_INDEX for no data
    confidence: UInt8Array  # (H, W), 0 for no data
    holes: bool


def predict(
    network: nn.Module,
    samples: Sequence[Sample],
    classes: ClassTable,
    normalization: Normalization,
    *,
    out: Path,
    inference: Inference = WHOLE,
    crop: int | None = None,
    track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> PredictReport:
    """Write `NAME.png` (mask values, with a palette), `NAME.overlay.jpg` and `NAME.confidence.png` below `out`.

    Pixels without data get the ignored value and no confidence, as they have no label in training; only where a class of the
    model has that value in masks they keep what the network says. A georeferenced image also gets `NAME.tif`, which lies where
    the image does.

    Args:
        network: in any mode; put into eval mode.
        samples: images; folders in their names are kept.
        classes: of the model.
        normalization: as in training.
        out: folder, made where it is missing.
        inference: how the network sees an image.
        crop: of the training. Where it is given and `inference` has no window, images of more than `LARGE` pixels are seen
            through windows, of at least that side; None for whole images of any size.
        track: wraps the list, to show progress.

    Returns:
        PredictReport.
    """
    network.eval()
    can_place = find_spec("rasterio") is not None
    report = PredictReport([], 0, [], 0, 0)

    def read(sample: Sample) -> ImageRows | UnreadableImageError:
        try:
            return open_rows(sample.image, normalization.kind)
        except UnreadableImageError as error:
            return error

    images = read_ahead(read, samples, alone=lambda sample: _is_large(sample.image))
    with WriteBehind() as behind, closing(images):
        for sample in track(samples):
            image = next(images)
            if isinstance(image, UnreadableImageError):
                report.skipped.append((sample.image, str(image)))
                continue
            height, width = image.shape[:2]
            seen = inference
            if inference.window is None and crop is not None and height * width > LARGE:
                seen = dataclasses.replace(inference, window=window_for(width, len(classes), crop))
            try:
                answer = _answer(network, image, normalization, seen, marks_holes=IGNORE_INDEX not in classes.written)
            except UnreadableImageError as error:  # of which rows are read on the way
                report.skipped.append((sample.image, str(error)))
                continue
            lies_somewhere = is_georeferenced(sample.image)
            report = report._replace(
                unplaced=report.unplaced + (lies_somewhere and not can_place),
                reduced=report.reduced + (max(height, width) > LARGEST_OVERLAY),
                holes=report.holes + answer.holes,
            )
            if seen != inference and seen.window is not None:
                report.windowed.append(seen.window)
            place = sample.image if lies_somewhere and can_place else None
            behind(_write, out / f"{sample.name}.png", image, answer, classes, place)
            if height * width > LARGE:
                behind.wait()
            del image, answer  # or they would be held while the next image is read
    return report


def window_for(width: int, num_classes: int, crop: int) -> int:
    """Side of the windows of a large image: smaller where many classes on a wide image would fill the memory, but no smaller
    than what the network was trained on."""
    fitting = _LOGIT_BYTES // (4 * num_classes * width) // 32 * 32
    return max(crop, min(_WINDOW, fitting))


def _is_large(path: Path) -> bool:
    try:
        height, width = header_size(path)
    except UnreadableImageError:
        return False
    return height * width > LARGE


def _answer(
    network: nn.Module, image: ImageRows, normalization: Normalization, inference: Inference, *, marks_holes: bool
) -> _Answer:
    """Of a network, in a byte each for what it says and how sure it is."""
    size = image.shape[:2]
    answer, top = _Answer(np.empty(size, dtype=np.uint8), np.empty(size, dtype=np.uint8), False), 0
    for label, confidence in predict_strips(network, image, normalization, inference):
        rows = slice(top, top + len(label))
        answer.label[rows], answer.confidence[rows] = label.cpu().numpy(), gray(confidence.cpu().numpy())
        top = rows.stop
    if normalization.kind.dtype != "float32":  # whole numbers are all data
        return answer
    holes = False
    for top in range(0, size[0], _ROWS):
        rows = slice(top, min(top + _ROWS, size[0]))
        missing = missing_pixels(image[rows])
        holes |= bool(missing.any())
        if marks_holes:
            answer.label[rows][missing], answer.confidence[rows][missing] = IGNORE_INDEX, 0
    return answer._replace(holes=holes)


def _write(target: Path, image: ImageRows, answer: _Answer, classes: ClassTable, place: Path | None) -> None:
    """All files of one image. `place`: the image whose place on earth is that of the mask."""
    target.parent.mkdir(parents=True, exist_ok=True)
    values = classes.decode(answer.label)
    write_mask(target, values, mask_palette(classes))
    if place is not None:
        write_geo_mask(target.with_suffix(".tif"), values, place, classes)
    del values
    Image.fromarray(answer.confidence).save(target.with_suffix(".confidence.png"))
    step = -(-max(image.shape[:2]) // LARGEST_OVERLAY)
    shown = overlay(to_rgb(_every(image, step)), answer.label[::step, ::step], classes)
    Image.fromarray(shown).save(target.with_suffix(".overlay.jpg"), quality=92)


def _every(image: ImageRows, step: int) -> NDArray[Any]:
    """Every so many pixels of an image, along both sides."""
    if isinstance(image, np.ndarray) and step == 1:
        return image
    rows = _ROWS // step * step
    return np.concatenate([image[top : top + rows][::step, ::step] for top in range(0, image.shape[0], rows)])
