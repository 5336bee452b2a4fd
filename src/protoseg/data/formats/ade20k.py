"""ADE20K as the scene parsing benchmark distributes it: `images/training`, `annotations/training`, the same for `validation`.

Zhou et al., CVPR 2017, http://sceneparsing.csail.mit.edu. Masks hold 1..150 for the classes and 0 for "other", which is
ignored: the usual "reduce by one". Where `objectInfo150.txt` is there, the first of its words for a class is the name.
"""

from __future__ import annotations

import re
from pathlib import Path

from protoseg.data.class_list import read_class_list
from protoseg.data.index import ClassTable, DataIndex, Sample, Split, default_colors
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES, files_by_name, read_lines
from protoseg.data.left_out import unused_masks
from protoseg.data.masks import MaskFile

NEEDS = "images/training/ and annotations/training/"
NAMES = tuple(
    (
        "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, "
        "door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, "
        "field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, "
        "signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, "
        "stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, "
        "toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, "
        "arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television "
        "receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, "
        "stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, "
        "waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, "
        "bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, "
        "pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"
    ).split(", ")
)
"""In the order of the mask values 1..150, as the benchmark has them."""
NUM_CLASSES = len(NAMES)
_FOLDERS: dict[str, Split] = {"training": "train", "validation": "val"}


def matches(root: Path) -> bool:
    return (root / "images/training").is_dir() and (root / "annotations").is_dir()


def read(root: Path, *, asked_for: bool = False) -> DataIndex:
    """List the data set. No image is opened.

    Args:
        root: of the data set.
        asked_for: whether the user has said that it is ADE20K, by whatever names the files go.

    Raises:
        ValueError: `objectInfo150.txt` does not name 150 classes.
    """
    samples = []
    for folder, split in _FOLDERS.items():
        mask_of = files_by_name(root / "annotations" / folder, MASK_SUFFIXES)
        for name, image in files_by_name(root / "images" / folder, IMAGE_SUFFIXES).items():
            samples.append(Sample(f"{folder}/{name}", image, MaskFile(mask_of[name]) if name in mask_of else None, split))
    left_out = [found for folder in _FOLDERS for found in unused_masks(root / "annotations" / folder, samples)]
    values = tuple((value,) for value in range(1, NUM_CLASSES + 1))
    is_original = (root / "objectInfo150.txt").is_file() or any(s.image.name.startswith("ADE_") for s in samples)
    classes, notes = read_class_list(root), tuple[str, ...]()
    if classes is None and (is_original or asked_for):  # others use these folders for classes of their own
        classes = ClassTable(_names(root / "objectInfo150.txt"), values, default_colors(NUM_CLASSES), ignored=(0, 255))
    elif classes is None:
        notes = (
            "the folders are ADE20K's, but no image is called ADE_... and objectInfo150.txt is not there: the classes are "
            "those that the masks hold, 0 among them; --format ade20k reads them as ADE20K's 150, and 0 as not labelled",
        )
    return DataIndex(root, "ade20k", tuple(samples), classes, notes, tuple(left_out))


def _names(path: Path) -> tuple[str, ...]:
    """Of the last column of each line after the header the first word, e.g. `building` of `building, edifice`."""
    if not path.is_file():
        return NAMES
    names = tuple(re.split("[,;]", line.split("\t")[-1])[0].strip() for line in read_lines(path)[1:] if line.strip())
    if len(names) != NUM_CLASSES:
        raise ValueError(f"{path} names {len(names)} classes; ADE20K has {NUM_CLASSES}")
    return names
