"""A few scored images to look at: the best and the worst, with what is true and what each model says.

I images · H W image
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from protoseg.data.images import ImageArray, to_rgb
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UInt8Array
from protoseg.engine.evaluate import WHOLE, Normalization, predict_image, read_labeled
from protoseg.engine.inference import Inference
from protoseg.engine.tally import Tally
from protoseg.files import make_folder, replacing, write_text
from protoseg.stored import is_number, is_score, is_text, is_whole, misfit, read_json
from protoseg.types import IGNORE_INDEX

EXAMPLES = "examples"
"""Folder of a run folder: pictures, and `examples.json`, which says what they show."""
_FILE = "examples.json"
_LONGEST = 640  # pixels of the longer side: enough to see, small enough to send a report by mail
_NAMED = 4  # classes that the description of a picture names


def _is_size(value: Any) -> bool:
    """(W, H) of a picture; `add_layer` makes another one of that size."""
    return not misfit(value, [is_whole]) and len(value) == 2 and all(1 <= side <= _LONGEST for side in value)


def _is_picture(value: Any) -> bool:
    """A file of the folder itself, and of a kind that a page shows. Others are written under a part of its name."""
    return is_text(value) and "\0" not in value and PurePath(value).name == value and PurePath(value).suffix in {".jpg", ".png"}


def _are_layers(value: Any) -> bool:
    return bool(value) and not misfit(value, [_LAYER])


_LAYER = {"name": is_text, "picture": _is_picture, "score": is_score, "shares": {str: is_number}}
_ROWS = [{"name": is_text, "rank": is_text, "size": _is_size, "image": _is_picture, "layers": _are_layers}]


class Chosen(NamedTuple):
    image: int
    rank: str  # "best" or "worst"


def choose(scores: NDArray[np.float64], *, each: int = 3) -> list[Chosen]:
    """The worst images and the best ones, worst first; every image once.

    Args:
        scores: (I,) of the images; NaN for what has none.
        each: images of either kind, at most.
    """
    order = [int(i) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]
    worst = order[: min(each, (len(order) + 1) // 2)]
    best = order[len(worst) :][-each:]
    return [*(Chosen(i, "worst") for i in worst), *(Chosen(i, "best") for i in best)]


def write_examples(
    folder: Path,
    samples: Sequence[Sample],
    tallies: Mapping[str, Tally],
    networks: Mapping[str, nn.Module],
    classes: ClassTable,
    normalization: Normalization,
    *,
    inference: Inference = WHOLE,
) -> None:
    """Predict the best and the worst images once more, with all networks, and write pictures of them.

    Args:
        folder: for the pictures; what was in it before is replaced.
        samples: the scored images.
        tallies: of each network; the last one says which images are chosen.
        networks: in eval mode, by the same names.
        classes: of the masks.
        normalization: as in training.
        inference: how the networks see an image.

    Raises:
        CannotWriteError: see `replacing`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    scores = {name: tally.image_scores for name, tally in tallies.items()}
    rows = list[dict[str, Any]]()
    for chosen in choose(scores[list(scores)[-1]]):
        sample = samples[chosen.image]
        image, truth = read_labeled(sample, classes, normalization)
        size = _shrunk(truth.shape)
        stem = f"{len(rows)}"
        photo = Image.fromarray(to_rgb(image)).resize(size, Image.Resampling.LANCZOS)
        with replacing(folder / f"{stem}-image.jpg") as partial:
            photo.save(partial, format="JPEG", quality=85)
        layers = [_layer(folder / f"{stem}-0.png", "truth", truth, classes, size)]
        for name, network in networks.items():
            label = _predicted(network, image, normalization, inference)
            score = float(scores[name][chosen.image]) if name in scores else None
            layers.append(_layer(folder / f"{stem}-{len(layers)}.png", name, label, classes, size, score))
        row = {"name": sample.name, "rank": chosen.rank, "size": size, "image": f"{stem}-image.jpg"}
        rows.append(row | {"layers": layers})
    _write_rows(folder, rows)


def add_layer(
    folder: Path,
    name: str,
    samples: Sequence[Sample],
    tally: Tally,
    network: nn.Module,
    classes: ClassTable,
    normalization: Normalization,
    *,
    inference: Inference = WHOLE,
) -> None:
    """What one more network says of the images that `write_examples` chose, instead of what one of its name said before.

    Args:
        folder: of `write_examples`.
        name: of the network.
        samples: the images that it was scored on, those in the folder among them.
        tally: of these.
        network, classes, normalization, inference: see `write_examples`.

    Raises:
        ValueError: an image of the folder is none of the samples; or see `read_examples`.
        CannotWriteError: see `replacing`.
    """
    rows, places = read_examples(folder, advice=f"remove {folder}"), {sample.name: i for i, sample in enumerate(samples)}
    for row in rows:
        if row["name"] not in places:
            raise ValueError(f"{row['name']}, which {folder} shows, is none of the images that {name} was scored on")
        place, layers = places[row["name"]], row["layers"]
        image, _ = read_labeled(samples[place], classes, normalization)
        label = _predicted(network, image, normalization, inference)
        i = next((i for i, layer in enumerate(layers) if layer["name"] == name), len(layers))
        picture = folder / f"{row['image'].partition('-')[0]}-{i}.png"
        layers[i:] = [_layer(picture, name, label, classes, row["size"], float(tally.image_scores[place])), *layers[i + 1 :]]
    _write_rows(folder, rows)


def read_examples(folder: Path, *, advice: str) -> list[dict[str, Any]]:
    """What `write_examples` left: of each image `name`, `rank`, `size` (W, H), `image` (a file in the folder) and `layers`,
    each with `name`, `picture` (a file), `score` (None for the truth) and `shares` of its largest classes.

    Args:
        folder: of `write_examples`.
        advice: what to do about a damaged one.

    Raises:
        ValueError: what says so is missing or damaged, or names a picture that is not in the folder.
    """
    path = folder / _FILE
    rows: list[dict[str, Any]] = read_json(path, _ROWS, advice=advice)
    for name in (name for row in rows for name in (row["image"], *(layer["picture"] for layer in row["layers"]))):
        if not (folder / name).is_file():
            raise ValueError(f"{path} names {name}, which is not there; {advice}")
    return rows


def _write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(folder / _FILE, json.dumps(rows, indent=2) + "\n")  # last: what it names is there


def _predicted(network: nn.Module, image: ImageArray, normalization: Normalization, inference: Inference) -> UInt8Array:
    return predict_image(network, image, normalization, inference).label.cpu().numpy().astype(np.uint8)


def _layer(
    picture: Path, name: str, label: UInt8Array, classes: ClassTable, size: Sequence[int], score: float | None = None
) -> dict[str, Any]:
    """Write the picture of a mask; gives its row."""
    shown = _paletted(label, classes).resize((size[0], size[1]), Image.Resampling.NEAREST)
    with replacing(picture) as partial:
        shown.save(partial, format="PNG", optimize=True, transparency=IGNORE_INDEX)
    return {"name": name, "picture": picture.name, "score": score, "shares": _shares(label, classes)}


def _shrunk(shape: tuple[int, ...]) -> tuple[int, int]:
    """(W, H) of a picture of an image (H, W)."""
    factor = min(1.0, _LONGEST / max(shape))
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def _paletted(label: UInt8Array, classes: ClassTable) -> Image.Image:
    palette = np.zeros((256, 3), dtype=np.uint8)  # whole: Pillow cuts the numbers down to what a shorter one needs
    palette[: len(classes)] = classes.colors
    picture = Image.fromarray(label)
    picture.putpalette(palette.tobytes())
    return picture


def _shares(label: UInt8Array, classes: ClassTable) -> dict[str, float]:
    """The largest classes of a picture and their shares, for those who cannot see it."""
    counts = np.bincount(label[label != IGNORE_INDEX], minlength=len(classes))
    largest = np.argsort(-counts, kind="stable")[:_NAMED]
    return {classes.names[c]: round(float(counts[c] / label.size), 4) for c in largest if counts[c]}
