"""Predict a folder of images: for each an index PNG, an overlay and a confidence map, at the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import nn

from protoseg.data.geo import is_georeferenced, write_geo_mask
from protoseg.data.images import read_image, to_rgb
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UnreadableImageError, write_mask
from protoseg.engine.evaluate import WHOLE, Normalization, predict_image
from protoseg.engine.inference import Inference
from protoseg.engine.pictures import gray, overlay


class PredictReport(NamedTuple):
    skipped: list[str]  # what was wrong with images that could not be read
    unplaced: int  # georeferenced images whose masks lost their place, because rasterio is not installed


def predict(
    network: nn.Module,
    samples: Sequence[Sample],
    classes: ClassTable,
    normalization: Normalization,
    *,
    out: Path,
    inference: Inference = WHOLE,
    track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> PredictReport:
    """Write `NAME.png` (mask values, with a palette), `NAME.overlay.jpg` and `NAME.confidence.png` below `out`.

    A georeferenced image also gets `NAME.tif`, which lies where the image does.

    Args:
        network: in any mode; put into eval mode.
        samples: images; folders in their names are kept.
        classes: of the model.
        normalization: as in training.
        out: folder, made where it is missing.
        inference: how the network sees an image.
        track: wraps the list, to show progress.

    Returns:
        PredictReport.
    """
    network.eval()
    can_place = find_spec("rasterio") is not None
    skipped, unplaced = list[str](), 0
    for sample in track(samples):
        try:
            image = read_image(sample.image, normalization.kind)
        except UnreadableImageError as error:
            skipped.append(str(error))
            continue
        prediction = predict_image(network, image, normalization, inference)
        label = prediction.label.cpu().numpy().astype(np.uint8)
        target = out / f"{sample.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mask(target, classes.decode(label), classes.palette())
        if is_georeferenced(sample.image):
            unplaced += not can_place
            if can_place:
                write_geo_mask(target.with_suffix(".tif"), classes.decode(label), sample.image, classes)
        Image.fromarray(overlay(to_rgb(image), label, classes)).save(target.with_suffix(".overlay.jpg"), quality=92)
        Image.fromarray(gray(prediction.confidence.cpu().numpy())).save(target.with_suffix(".confidence.png"))
    return PredictReport(skipped, unplaced)
