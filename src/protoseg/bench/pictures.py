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
from protoseg.files import write_text

PICTURES = "pictures"
"""Folder beside the results of a benchmark: a folder for each number of labels."""
_SHOWN = "shown.json"


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


def keep_pictures(pictures: Path, row: Mapping[str, Any], run: Path, root: Path, *, format: str | None = None) -> None:
    """Show what a finished training says of its column's images; the column's first training chooses them.

    Other seeds of a method add nothing: the pictures are there to compare methods, and where images are held back by seed,
    other seeds score other images.

    Args:
        pictures: folder for all columns.
        row: identity of the training's cell, or its finished row.
        run: its folder.
        root, format: of the data set, see `open_dataset`.

    Raises:
        ValueError, OSError: the data set has changed since, or cannot be read.
    """
    from protoseg.rescore import scored_images
    from protoseg.trained import load_model

    method, seed = row["method"], row["seed"]
    shown = read_pictures(pictures, row)
    if shown is not None and (seed != shown.seed or method in shown.methods):
        return
    model, tally = load_model(run), Tally.load(run / TALLY)
    samples, classes = scored_images(run, model, root, format=format)
    folder = pictures / column_folder(row)
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
    try:
        said = json.loads((folder / _SHOWN).read_text())
        colors = tuple((red, green, blue) for red, green, blue in said["colors"])
        return Shown(folder, said["method"], said["seed"], tuple(said["classes"]), colors, tuple(read_examples(folder)))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"the pictures in {folder} are damaged ({error}); remove it, and later trainings make them anew"
        ) from error
