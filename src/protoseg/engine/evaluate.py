"""Score a network on labelled images at their own size: a confusion matrix of each, added up.

I channels · C classes · H W image
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from protoseg.data.check import read_pair
from protoseg.data.images import ImageArray, ImageKind, missing_pixels
from protoseg.data.index import ClassTable, Sample, UnknownValueError
from protoseg.data.io import UInt8Array
from protoseg.data.patience import patiently
from protoseg.data.tiff_rows import ImageRows
from protoseg.engine.inference import Inference
from protoseg.engine.metrics import IoU, count_pairs
from protoseg.engine.tally import Tally, make_tally
from protoseg.types import IGNORE_INDEX

WHOLE = Inference()
"""The image at its own size, in one piece."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, in units of the full scale of the images' type."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "uint8"

    @property
    def kind(self) -> ImageKind:
        """Of the images that it is for."""
        return ImageKind(len(self.mean), self.dtype)

    def __call__(self, image: ImageArray, device: torch.device) -> Tensor:
        """(H, W, I) -> (1, I, H, W) float on the device; pixels that are no numbers become 0, the mean."""
        pixels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None].to(torch.float32, copy=True)
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        pixels.div_(self.kind.full_scale).sub_(mean).div_(std)  # in place: an image may be large
        return pixels.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


class Prediction(NamedTuple):
    label: Tensor  # (H, W) int64 class ids
    confidence: Tensor  # (H, W) softmax probability of that class


def predict_image(
    network: nn.Module, image: ImageArray, normalization: Normalization, inference: Inference = WHOLE
) -> Prediction:
    """Predict one image at its own size.

    Args:
        network: in eval mode.
        image: (H, W, I), of the kind that the normalisation is for.
        normalization: as in training.
        inference: how the network sees it.
    """
    strips = list(predict_strips(network, image, normalization, inference))
    return Prediction(*(torch.cat(parts) for parts in zip(*strips, strict=True)))


def predict_strips(
    network: nn.Module, image: ImageRows, normalization: Normalization, inference: Inference = WHOLE
) -> Iterator[Prediction]:
    """`predict_image`, a few rows at a time from above, for images that may be larger than what memory holds."""
    device = next(network.parameters()).device
    height, width = image.shape[:2]
    for probability in inference.strips(network, lambda top, bottom: normalization(image[top:bottom], device), (height, width)):
        confidence, label = probability.max(dim=0)
        yield Prediction(label, confidence)


def evaluate(
    network: nn.Module,
    samples: Sequence[Sample],
    classes: ClassTable,
    normalization: Normalization,
    *,
    inference: Inference = WHOLE,
    track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> IoU:
    """Score a network on labelled images, each counted once: see `tally`.

    Returns:
        IoU per class and their mean, over the whole data set.
    """
    return tally(network, samples, classes, normalization, inference=inference, track=track).iou


def tally(
    network: nn.Module,
    samples: Sequence[Sample],
    classes: ClassTable,
    normalization: Normalization,
    *,
    inference: Inference = WHOLE,
    track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> Tally:
    """Count what a network takes for what in labelled images.

    Args:
        network: scored in eval mode; its mode is restored.
        samples: labelled images.
        classes: of their masks.
        normalization: as in training.
        inference: how the network sees an image.
        track: wraps the list, to show progress.

    Returns:
        The confusion matrix of each image.

    Raises:
        ValueError: a mask holds a value that is no class.
    """
    training = network.training
    network.eval()

    def counts() -> Iterator[tuple[str, Tensor]]:
        for sample in track(samples):
            image, label = read_labeled(sample, classes, normalization)
            prediction = predict_image(network, image, normalization, inference).label
            yield sample.name, count_pairs(prediction, torch.from_numpy(label).to(prediction.device), len(classes))

    found = make_tally(len(classes), counts())
    network.train(training)
    return found


def read_labeled(sample: Sample, classes: ClassTable, normalization: Normalization) -> tuple[ImageArray, UInt8Array]:
    """An image and its class ids (H, W), IGNORE_INDEX where nothing is known.

    Raises:
        UnknownValueError: the mask holds a value that is no class.
        ValueError: see `read_pair`; AwayError where the drive gives none of them.
    """
    image, mask = patiently(partial(read_pair, sample, normalization.kind), f"{sample.image} or its mask {sample.mask}")
    try:
        label = classes.encode(mask)
    except UnknownValueError as error:
        raise UnknownValueError(f"{sample.mask}: {error} of this model", error.value) from error
    label[missing_pixels(image)] = IGNORE_INDEX
    return image, label
