"""Everything that the atlas of a run shows. What stays in memory depends on the number of prototypes, not on that of images.

C classes · K prototypes per class
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from protoseg.atlas.likeness import alike, closest_classes, dead, too_similar
from protoseg.atlas.lists import lists_of, thinned
from protoseg.atlas.look import Looker, Survey, cut_out, survey
from protoseg.atlas.maps import maps
from protoseg.atlas.pictures import shades
from protoseg.atlas.plane import fit_plane, project
from protoseg.atlas.views import Atlas, ClassView, Cloud, Kind, PrototypeView, Region
from protoseg.data.formats import open_dataset
from protoseg.data.index import Sample
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.trained import classes_of, device, load_model, load_prototypes, matched, progress

_CLOSEST = 5  # pairs of classes that are named
_MOST_ALIKE = 20  # pairs of prototypes that are named


def gather(
    run: Path,
    root: Path,
    *,
    console: Console,
    images: int,
    format: str | None = None,
    unlabeled: Path | None = None,
) -> Atlas:
    """Look at a run's images through its prototypes.

    Args:
        run: folder of a finished run.
        root: the data set that it was trained on, wherever it lies now.
        console: for progress.
        images: how many labelled and how many unlabelled ones are looked at, evenly spaced.
        format: layout of the data set; recognised when left out.
        unlabeled: one more folder of unlabelled images, as `train` was given.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: it has no prototypes, or was not trained on this data set.
    """
    if images < 1:
        raise ValueError(f"--images is {images}; give at least 1")
    model = load_model(run)
    head = load_prototypes(model, run, advice="train with --method prototype or METHOD+prototypes to have some").to(device())
    index = open_dataset(root, format=format, unlabeled=unlabeled, for_training=False)
    lists = lists_of(run, index)
    looker = Looker(model, head, matched(model.classes, classes_of(index, model), root))
    kinds: dict[Kind, list[Sample]] = {"labelled": lists.labeled, "unlabelled": lists.unlabeled}
    chosen = {kind: thinned(samples, images) for kind, samples in kinds.items()}
    surveys = {kind: survey(looker, samples, progress(f"{kind} images", console)) for kind, samples in chosen.items()}
    regions = {
        kind: cut_out(looker, chosen[kind], surveys[kind].nearest, progress(f"{kind} regions", console)) for kind in chosen
    }
    whole = tuple(maps(looker, lists, progress("maps", console)))
    labeled, unlabeled_use = (surveys[kind].use.view(-1, head.per_class) for kind in ("labelled", "unlabelled"))
    idle = dead(labeled, unlabeled_use, head.ready.cpu())
    similar = alike(head.prototype, head.ready, at_least=too_similar(head.temperature))
    return Atlas(
        name=run.resolve().name,
        data=str(root),
        classes=tuple(_class_views(looker, labeled, unlabeled_use, regions, idle)),
        images={kind: (len(chosen[kind]) - len(surveys[kind].skipped), len(kinds[kind])) for kind in chosen},
        pixels={kind: surveys[kind].pixels for kind in chosen},
        agreeing={kind: surveys[kind].agreeing / max(surveys[kind].pixels, 1) for kind in chosen},
        cloud=_cloud(head, surveys),
        maps=whole,
        alike=tuple(similar[:_MOST_ALIKE]),
        number_alike=len(similar),
        closest=tuple(closest_classes(head.prototype, head.ready, most=_CLOSEST)),
        temperature=head.temperature,
        largest=looker.largest,
        notes=tuple(f"skipped, {text}" for found in surveys.values() for text in found.skipped),
    )


def _cloud(head: PrototypeHead, surveys: dict[Kind, Survey]) -> Cloud:
    """In the plane of unit-length features, because a cosine sees no other length."""
    unit = {kind: F.normalize(found.sampled.features, dim=1) for kind, found in surveys.items() if found.pixels}
    plane = fit_plane(torch.cat(list(unit.values())))
    prototype = project(plane, F.normalize(head.prototype.cpu(), dim=-1)).numpy()
    prototype[~head.ready.cpu().numpy()] = np.nan
    return Cloud(
        {kind: project(plane, points).numpy() for kind, points in unit.items()},
        {kind: surveys[kind].sampled.label.numpy() for kind in unit},
        prototype,
        plane.explained,
    )


def _class_views(
    looker: Looker,
    labeled: Tensor,
    unlabeled: Tensor,
    regions: dict[Kind, list[list[Region]]],
    idle: list[tuple[int, int]],
) -> Iterator[ClassView]:
    per_class, classes = looker.head.per_class, looker.classes
    tones = shades(classes.colors, per_class)
    for c, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        prototypes = [
            PrototypeView(
                (int(tones[c, k, 0]), int(tones[c, k, 1]), int(tones[c, k, 2])),
                int(labeled[c, k]),
                int(unlabeled[c, k]),
                {kind: tuple(found[c * per_class + k]) for kind, found in regions.items()},
                (c, k) in idle,
            )
            for k in range(per_class)
        ]
        yield ClassView(name, color, tuple(prototypes) if looker.head.ready[c] else ())
