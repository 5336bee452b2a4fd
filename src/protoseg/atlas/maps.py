"""Whole images: what both predictors say, where they disagree, which prototype each pixel follows.

C classes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from protoseg.atlas.follow import Answers, grid_answers, lattice
from protoseg.atlas.lists import Lists, thinned
from protoseg.atlas.look import Looker, Track
from protoseg.atlas.pictures import LONGEST, flat_png, jpeg, resized, shades, shown_size
from protoseg.atlas.views import DISAGREEMENT, ImageView, Layer
from protoseg.data.images import to_rgb
from protoseg.data.index import Sample
from protoseg.data.io import UnreadableImageError
from protoseg.engine.metrics import count_pairs
from protoseg.engine.tally import make_tally
from protoseg.trained import device
from protoseg.types import IGNORE_INDEX

_MAPS, _SCORED_MAPS = 5, 3  # images that are shown whole; of them with a mask
_NAMED = 4  # parts of a picture that its description names


def maps(looker: Looker, lists: Lists, track: Track) -> Iterator[ImageView]:
    """A few whole images: such with masks first, so that every page can compare with them."""
    roles = {sample.name: f"{lists.evaluation_name} image" for sample in thinned(lists.evaluation, _SCORED_MAPS)}
    if not roles:  # better than none, and the page says so
        roles = {sample.name: "labelled image, which it learned from" for sample in thinned(lists.labeled, _SCORED_MAPS)}
    roles |= {sample.name: "unlabelled image" for sample in thinned(lists.unlabeled, _MAPS - len(roles))}
    samples = {sample.name: sample for sample in (*lists.evaluation, *lists.labeled, *lists.unlabeled)}
    for sample in track([samples[name] for name in roles]):
        with suppress(UnreadableImageError):  # of an unlabelled image; what the survey met of them it has noted
            yield _map(looker, sample, roles[sample.name])


def _map(looker: Looker, sample: Sample, role: str) -> ImageView:
    """What both predictors say of an image, at the size of its picture."""
    view, classes = looker(sample), looker.classes
    height, width = view.image.shape[:2]
    rows, columns = shown_size(height, width, LONGEST)
    points = lattice(0, 0, height, width, rows=rows, columns=columns, device=device()).view(rows, columns, 2)
    y, x = points[:, 0, 0], points[0, :, 1]
    said = Answers(*(part.cpu() for part in grid_answers(view.seen, looker.head, y, x)))
    truth = torch.full((rows, columns), IGNORE_INDEX)
    if view.truth is not None:
        truth = torch.from_numpy(view.truth.astype(np.int64))[y.cpu()][:, x.cpu()]
    palette = np.array(classes.colors, dtype=np.uint8)
    layers = []
    for name, label in (("truth", truth), ("linear classifier", said.linear), ("nearest prototype", said.prototype)):
        known = label != IGNORE_INDEX
        if known.any():
            picture = flat_png(palette[label.where(known, 0).numpy()], known.numpy())
            score = None if name == "truth" or view.truth is None else _score(label, truth, len(classes))
            layers.append(Layer(name, picture, score, _shares(label, classes.names)))
    kind = disagreement(said.linear, said.prototype, truth)
    colors = np.array([color for _, color in DISAGREEMENT], dtype=np.uint8)[kind.numpy()]
    words = [name for name, _ in DISAGREEMENT]
    layers.append(Layer("disagreement", flat_png(colors, kind.numpy() > 0), None, _shares(kind, words)))
    tones = shades(classes.colors, looker.head.per_class).reshape(-1, 3)
    names = [f"{name}, prototype {k + 1}" for name in classes.names for k in range(looker.head.per_class)]
    there = (said.followed >= 0).numpy()
    picture = flat_png(tones[said.followed.clamp(min=0).numpy()], there)
    layers.append(Layer("which prototype", picture, None, _shares(said.followed, names)))
    rgb = resized(to_rgb(view.image), rows, columns)
    return ImageView(sample.name, role, (columns, rows), jpeg(rgb), tuple(layers))


def disagreement(linear: Tensor, prototype: Tensor, truth: Tensor) -> Tensor:
    """Where both predictors differ, and who is right: numbers of DISAGREEMENT.

    Args:
        linear, prototype, truth: class ids of the same shape; IGNORE_INDEX in `truth` where nothing is known.
    """
    kind = torch.full_like(linear, 3)
    kind[truth == IGNORE_INDEX] = 4
    kind[linear == truth] = 1
    kind[prototype == truth] = 2
    return kind.masked_fill(linear == prototype, 0)


def _score(label: Tensor, truth: Tensor, num_classes: int) -> float | None:
    """Mean IoU over the classes that the truth holds, as for the images of a report."""
    score = float(make_tally(num_classes, [("", count_pairs(label, truth, num_classes))]).image_scores[0])
    return None if np.isnan(score) else score


def _shares(label: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The largest parts of a picture, in shares of all its pixels."""
    counts = torch.bincount(label[(label >= 0) & (label < len(names))].flatten(), minlength=len(names))
    largest = counts.argsort(descending=True, stable=True)[:_NAMED].tolist()
    return {names[i]: int(counts[i]) / label.numel() for i in largest if counts[i]}
