"""The same few images as every method of a column sees them: what the first training is best and worst at.

Run folders go when their trainings have ended, and models with them; so each training adds its picture to those of the others
while it is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.bench.cells import column_folder
from protoseg.engine.examples import add_layer, read_examples, write_examples
from protoseg.engine.tally import TALLY, Tally
from protoseg.files import held, make_folder, write_text
from protoseg.stored import is_color, is_text, is_whole, read_json

PICTURES = "pictures"
"""Folder beside the results of a benchmark: a folder for each number of labels."""
_SHOWN = "shown.json"
_SAID = {"method": is_text, "seed": is_whole, "classes": [is_text], "colors": [is_color]}


@dataclass(frozen=True)
class Shown:
    """Pictures of a column.

    Attributes:
        folder: of `write_examples`.
        method, seed: of the training that the images were chosen by.
        classes: their names.
        colors: of the classes.
        examples: of `read_examples`.
    """

    folder: Path
    method: str
    seed: int
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    examples: tuple[dict[str, Any], ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Whose predictions they show."""
        return tuple(layer["name"] for example in self.examples[:1] for layer in example["layers"][1:])  # after the truth


def keep_pictures(
    pictures: Path, row: Mapping[str, Any], run: Path, root: Path, *, format: str | None = None, is_first: bool = False
) -> None:
    """Show what a finished training says of its column's images; the column's first training chooses them.

    Other seeds of a method add nothing: the pictures are there to compare methods, and where images are held back by seed,
    other seeds score other images.

    Args:
        pictures: folder for all columns.
        row: identity of the training's cell, or its finished row.
        run: its folder.
        root, format: of the data set, see `open_dataset`.
        is_first: no other training of the column has finished; pictures of an earlier benchmark in the same folder go.

    Raises:
        ValueError, OSError: the data set has changed since, or cannot be read; or the pictures are damaged.
    """
    from protoseg.rescore import scored_images
    from protoseg.trained import load_model

    method, seed, folder = row["method"], row["seed"], pictures / column_folder(row)
    make_folder(pictures)
    with held(pictures):  # another benchmark may share the results, and finish a training at the same time
        shown = None if is_first else read_pictures(pictures, row)
        if shown is not None and seed != shown.seed:
            return
        model, tally = load_model(run), Tally.load(run / TALLY)
        samples, classes = scored_images(run, model, root, format=format)
        # On the CPU: a few images, beside trainings that may need all of the GPU's memory.
        network, own = model.network, (classes, model.normalization)
        if shown is None:
            write_examples(folder, samples, {method: tally}, {method: network}, *own, inference=model.inference)
            said = {"method": method, "seed": seed, "classes": classes.names, "colors": classes.colors}
            write_text(folder / _SHOWN, json.dumps(said) + "\n")
        else:
            add_layer(folder, method, samples, tally, network, *own, inference=model.inference)


def read_pictures(pictures: Path, row: Mapping[str, Any]) -> Shown | None:
    """What was kept of a column; None where nothing was.

    Args:
        pictures: folder for all columns.
        row: any of the column.

    Raises:
        ValueError: it is damaged.
    """
    folder = pictures / column_folder(row)
    if not (folder / _SHOWN).is_file():
        return None
    advice = f"remove {folder}, and later trainings make its pictures anew"
    said = read_json(folder / _SHOWN, _SAID, advice=advice)
    if len(said["colors"]) != len(said["classes"]):
        raise ValueError(f"{folder / _SHOWN} is damaged (its classes have other colours); {advice}")
    colors = tuple((red, green, blue) for red, green, blue in said["colors"])
    examples = tuple(read_examples(folder, advice=advice))
    return Shown(folder, said["method"], said["seed"], tuple(said["classes"]), colors, examples)
