"""Images pass by twice, one at a time, and little is kept of each: first to find what is nearest to each prototype, then to cut
it out of the few images that hold it.

N pixels · C classes · K prototypes per class · H W image
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from protoseg.atlas.collect import Found, Nearest, Sampled, count
from protoseg.atlas.follow import Seen, answers, lattice, read, see
from protoseg.atlas.pictures import REGION, Box, box_around, jpeg, middle, outlined, resized, shown_size
from protoseg.atlas.views import Region
from protoseg.data.images import ImageArray, missing_pixels, read_image, to_rgb
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UInt8Array, UnreadableImageError
from protoseg.engine.evaluate import Normalization, read_labeled
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.trained import TrainedModel, device
from protoseg.types import IGNORE_INDEX

Track = Callable[[Sequence[Sample]], Iterable[Sample]]
"""Wraps a list, to show progress."""
_CELLS = 96  # per side of the grid whose pixels are looked at in each image
_LARGEST = 1536  # pixels a side that the network sees at once, where the model has no window of its own
_MOST_REGIONS = 1200  # in the page: fewer for each prototype where there are many
_POINTS, _MOST_POINTS = 1500, 150  # in the plane, of either kind: of all classes together, of one class


class View(NamedTuple):
    """The part of an image that is looked at."""

    image: ImageArray
    truth: UInt8Array | None
    seen: Seen


class Looker:
    """A model that looks at images."""

    def __init__(self, model: TrainedModel, head: PrototypeHead, classes: ClassTable) -> None:
        self.network, self.head, self.classes = model.network.to(device()), head.eval(), classes
        self.normalization: Normalization = model.normalization
        self.largest = model.inference.window or _LARGEST
        self.most_regions = max(1, min(3, _MOST_REGIONS // (2 * head.num_classes * head.per_class)))

    def __call__(self, sample: Sample) -> View:
        """Read an image, its mask where it has one, and pass it through the network.

        Raises:
            UnreadableImageError: the image of an unlabelled sample.
            ValueError: see `read_labeled`.
        """
        if sample.mask is None:
            image, truth = read_image(sample.image, self.normalization.kind), None
        else:
            image, truth = read_labeled(sample, self.classes, self.normalization)
        box = middle(image.shape[:2], self.largest)
        part = (slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
        seen = see(self.network, image[part], self.normalization, device())
        return View(image[part], None if truth is None else truth[part], seen)

    def own(self, view: View) -> Tensor:
        """(H, W) the class whose prototypes a pixel may follow: its true one, or what the linear classifier says."""
        if view.truth is not None:
            return torch.from_numpy(view.truth.astype(np.int64)).to(device())
        missing = torch.from_numpy(missing_pixels(view.image)).to(device())
        return view.seen.linear.masked_fill(missing, IGNORE_INDEX)


@dataclass
class Survey:
    """What is kept of the images of one kind."""

    nearest: Nearest
    sampled: Sampled
    use: Tensor  # (C * K,) pixels that follow each prototype
    pixels: int
    agreeing: int
    skipped: list[str]


def survey(looker: Looker, samples: Sequence[Sample], track: Track) -> Survey:
    head = looker.head
    number = head.num_classes * head.per_class
    most = min(_MOST_POINTS, max(4, _POINTS // head.num_classes))
    survey = Survey(
        Nearest(number, most=looker.most_regions),
        Sampled(head.num_classes, most=most),
        torch.zeros(number, dtype=torch.int64),
        0,
        0,
        [],
    )
    for i, sample in enumerate(track(samples)):
        try:
            view = looker(sample)
        except UnreadableImageError as error:
            if sample.mask is not None:
                raise
            survey.skipped.append(str(error))
            continue
        own = looker.own(view)
        height, width = own.shape
        points = lattice(0, 0, height, width, rows=min(_CELLS, height), columns=min(_CELLS, width), device=device())  # (N, 2)
        label = own[points[:, 0], points[:, 1]]
        said = answers(view.seen, head, points, label)
        survey.nearest.add(i, points, said.followed, said.cosine)
        survey.sampled.add(i, label, read(view.seen, points))
        survey.use += count(said.followed, number).cpu()
        survey.pixels += len(points)
        survey.agreeing += int((said.linear == said.prototype).sum())
    return survey


def cut_out(looker: Looker, samples: Sequence[Sample], nearest: Nearest, track: Track) -> list[list[Region]]:
    """Pictures of what was found: for each prototype, nearest first."""
    wanted: dict[int, list[tuple[int, Found]]] = {}
    for prototype, few in enumerate(nearest.found):
        for one in few:
            wanted.setdefault(one.image, []).append((prototype, one))
    order = sorted(wanted)
    cut: dict[tuple[int, int], Region] = {}
    for image, sample in zip(order, track([samples[i] for i in order]), strict=True):
        view = looker(sample)
        own, rgb = looker.own(view), to_rgb(view.image)
        for prototype, found in wanted[image]:
            box = box_around(found.y, found.x, rgb.shape[:2])
            picture = _region(looker, view.seen, own, rgb, box, prototype)
            cut[prototype, image] = Region(sample.name, found.cosine, picture)
    return [[cut[prototype, one.image] for one in few] for prototype, few in enumerate(nearest.found)]


def _region(looker: Looker, seen: Seen, own: Tensor, rgb: UInt8Array, box: Box, prototype: int) -> bytes:
    rows, columns = shown_size(box.height, box.width, REGION, enlarge=True)
    points = lattice(*box, rows=rows, columns=columns, device=device())
    said = answers(seen, looker.head, points, own[points[:, 0], points[:, 1]])
    follows = (said.followed == prototype).view(rows, columns).cpu().numpy()
    cut = rgb[box.top : box.top + box.height, box.left : box.left + box.width]
    return jpeg(outlined(resized(cut, rows, columns), follows))
