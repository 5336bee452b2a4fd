"""Predict a folder of images: for each an index PNG, an overlay and a confidence map, at the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from protoseg.data.images import read_image, to_rgb
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UnreadableImageError, write_mask
from protoseg.engine.evaluate import Normalization, predict_image
from protoseg.engine.pictures import gray, overlay


def predict(
    network: nn.Module,
    samples: Sequence[Sample],
    classes: ClassTable,
    normalization: Normalization,
    *,
    out: Path,
    track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> list[str]:
    """Write `NAME.png` (mask values, with a palette), `NAME.overlay.jpg` and `NAME.confidence.png` below `out`.

    Args:
        network: in any mode; put into eval mode.
        samples: images; folders in their names are kept.
        classes: of the model.
        normalization: as in training.
        out: folder, made where it is missing.
        track: wraps the list, to show progress.

    Returns:
        What was wrong with images that could not be read, and were skipped.
    """
    network.eval()
    skipped = []
    for sample in track(samples):
        try:
            image = read_image(sample.image, normalization.kind)
        except UnreadableImageError as error:
            skipped.append(str(error))
            continue
        prediction = predict_image(network, image, normalization)
        label = prediction.label.cpu().numpy().astype(np.uint8)
        target = out / f"{sample.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mask(target, classes.decode(label), classes.palette())
        Image.fromarray(overlay(to_rgb(image), label, classes)).save(target.with_suffix(".overlay.jpg"), quality=92)
        Image.fromarray(gray(prediction.confidence.cpu().numpy())).save(target.with_suffix(".confidence.png"))
    return skipped
