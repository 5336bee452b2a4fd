"""ADE20K as the scene parsing benchmark distributes it: `images/training`, `annotations/training`, the same for `validation`.

Zhou et al., CVPR 2017, http://sceneparsing.csail.mit.edu. Masks hold 1..150 for the classes and 0 for "other", which is
ignored: the usual "reduce by one". Names come from `objectInfo150.txt` where it stands in the folder.
"""

from __future__ import annotations

from pathlib import Path

from protoseg.data.class_list import read_class_list
from protoseg.data.index import ClassTable, DataIndex, Sample, Split, default_colors, unnamed
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES, files_by_name, read_lines
from protoseg.data.left_out import unused_masks
from protoseg.data.masks import MaskFile

NEEDS = "images/training/ and annotations/training/"
NUM_CLASSES = 150
_FOLDERS: dict[str, Split] = {"training": "train", "validation": "val"}


def matches(root: Path) -> bool:
    return (root / "images/training").is_dir() and (root / "annotations").is_dir()


def read(root: Path) -> DataIndex:
    """List the data set. No image is opened.

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
    classes = read_class_list(root)
    if classes is None and is_original:  # others use these folders for classes of their own
        classes = ClassTable(_names(root / "objectInfo150.txt"), values, default_colors(NUM_CLASSES), ignored=(0, 255))
    return DataIndex(root, "ade20k", tuple(samples), classes, left_out=tuple(left_out))


def _names(path: Path) -> tuple[str, ...]:
    """The last column of each line after the header, e.g. `wall`."""
    if not path.is_file():
        return tuple(unnamed(value) for value in range(1, NUM_CLASSES + 1))
    names = tuple(line.split("\t")[-1].strip() for line in read_lines(path)[1:] if line.strip())
    if len(names) != NUM_CLASSES:
        raise ValueError(f"{path} names {len(names)} classes; ADE20K has {NUM_CLASSES}")
    return names
