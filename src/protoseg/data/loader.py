"""Endless streams of labelled and unlabelled crops, decoded in worker processes.

B images of this process · I channels · S side of the crop
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from protoseg.data.cache import ImageCache
from protoseg.data.check import read_pair
from protoseg.data.images import PHOTOGRAPH, ImageArray, ImageKind, missing_pixels, read_image
from protoseg.data.in_hand import Slots, note
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UInt8Array, UnreadableImageError
from protoseg.data.patience import AwayError, patiently
from protoseg.data.rare import RareCrops, pixel_of
from protoseg.data.sampler import Draw, StreamSampler
from protoseg.data.samples import packed
from protoseg.data.views import CropView, crop_view
from protoseg.functional.random import fold, generator
from protoseg.types import IGNORE_INDEX

_REPLACEMENTS = 16  # tries before a run of unreadable images is taken for a broken data set

_GRACE = 20  # seconds that a worker goes on after SIGTERM

_STALLED = 900  # seconds without a batch from a worker, which waits less for one file, after which the drive is taken for lost


@dataclass(frozen=True)
class Geometry:
    """How crops are cut.

    Attributes:
        size: side of the crop in pixels.
        scale: range of the random factor.
        flip: mirror left-right with probability 0.5.
        fill: value of padding in each channel, in units of the full scale.
        label_padding: call padding class 0 instead of ignoring it.
        kind: of the images; one of another kind is as good as unreadable.
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    fill: tuple[float, ...] = (0.485, 0.456, 0.406)
    label_padding: bool = False
    kind: ImageKind = PHOTOGRAPH

    def crop(self, image: ImageArray, mask: UInt8Array | None, seed: int, *, around: tuple[int, int] | None = None) -> CropView:
        """Cut one random view out of an image (H, W, I). 8-bit ones stay 8-bit, others become float, 1.0 the full scale.

        A pixel (row, column) may be named that the view has to contain.
        """
        fill = torch.tensor(self.fill)
        if image.dtype == np.uint8:
            # Only what Pillow gives, which nobody may write to, is copied for torch, which would warn of it.
            pixels, fill = torch.from_numpy(np.require(image, requirements=["C", "W"])), (255 * fill).round().to(torch.uint8)
        else:
            scaled = image.astype(np.float32) / self.kind.full_scale
            # A pixel without a value is like padding: it would spread when the view is resized or blurred.
            pixels = torch.from_numpy(np.where(np.isfinite(scaled), scaled, np.asarray(self.fill, dtype=np.float32)))
        return crop_view(
            pixels.permute(2, 0, 1),
            None if mask is None else torch.from_numpy(mask.copy()),
            size=self.size,
            fill=fill,
            generator=generator(seed, "geometry"),
            scale=self.scale,
            flip=self.flip,
            label_padding=self.label_padding,
            around=around,
        )


class LabeledCrops(Dataset[dict[str, Any]]):
    """A crop of a labelled image for each draw, now and then around a rare class."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: ClassTable,
        geometry: Geometry,
        *,
        rare: RareCrops | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        self.samples, self.classes, self.geometry, self.rare, self.cache = tuple(samples), classes, geometry, rare, cache

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        chosen, rare_class = (draw.image, None) if self.rare is None else self.rare.replace(draw)
        sample = self.samples[chosen]
        read = partial(read_pair, sample, self.geometry.kind, read=_reader(self.cache))
        image, mask = patiently(read, f"{_source(sample.image, self.cache)} or its mask {sample.mask}")
        label = self.classes.encode(mask)
        label[missing_pixels(image)] = IGNORE_INDEX
        around = None if rare_class is None else pixel_of(torch.from_numpy(label), rare_class, seed=draw.seed)
        view = self.geometry.crop(image, label, draw.seed, around=around)
        return {"image": view.image, "mask": view.mask, "seed": draw.seed}


class UnlabeledCrops(Dataset[dict[str, Any]]):
    """A crop of an unlabelled image for each draw. Masks are never opened.

    An unreadable file is replaced by another image, chosen by the draw's seed alone; its name travels in `skipped`. So is one
    that its drive does not give, but not two in a row: then the drive is away, and gives no other image either.
    """

    def __init__(self, samples: Sequence[Sample], geometry: Geometry, *, cache: ImageCache | None = None) -> None:
        self.samples, self.geometry, self.cache = packed(samples), geometry, cache

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, skipped, is_away = draw.image, list[str](), False
        for attempt in range(_REPLACEMENTS):
            path = self.samples[index].image
            try:
                image = patiently(partial(_reader(self.cache), path, self.geometry.kind), _source(path, self.cache))
            except UnreadableImageError as error:
                if isinstance(error, AwayError):
                    if is_away:
                        raise
                    is_away = True
                skipped.append(str(path))
                index = fold(draw.seed, "replacement", attempt) % len(self.samples)
                continue
            view = self.geometry.crop(image, None, draw.seed)
            return {"image": view.image, "valid": view.valid, "seed": draw.seed, "skipped": skipped}
        raise UnreadableImageError(
            f"{_REPLACEMENTS} unlabelled images in a row cannot be read, the last was {skipped[-1]}; check the folder"
        )


def _reader(cache: ImageCache | None) -> Callable[[Path, ImageKind | None], ImageArray]:
    read = read_image if cache is None else cache.read

    def noted(path: Path, kind: ImageKind | None) -> ImageArray:
        note(path)
        return read(path, kind)

    return noted


def _source(path: Path, cache: ImageCache | None) -> str:
    return str(path) if cache is None else cache.source(path)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors; keep seeds and names as lists, which stay on the CPU when the batch moves to a GPU."""
    batch: dict[str, Any] = {}
    for key in items[0]:
        values = [item[key] for item in items]
        batch[key] = torch.stack(values) if isinstance(values[0], Tensor) else values
    return batch


def make_loader(
    dataset: Dataset[dict[str, Any]],
    sampler: StreamSampler,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    slots: Slots | None = None,
) -> DataLoader[dict[str, Any]]:
    """An endless DataLoader over a stream. The number of workers changes nothing but the speed; each notes its files in a
    slot of its own."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=False,
        worker_init_fn=partial(_start_worker, slots) if workers else None,
        timeout=_STALLED if workers else 0,
    )


def _start_worker(slots: Slots | None, worker: int) -> None:
    if slots is not None:
        slots.take(worker)
    torch.set_num_threads(1)  # or every worker starts a pool as large as the machine
    # A terminal sends Ctrl-C to all processes, SLURM SIGTERM too: the main one still needs its batch, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
