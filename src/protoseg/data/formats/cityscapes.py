"""Cityscapes: `leftImg8bit/SPLIT/CITY` and `gtFine/SPLIT/CITY`. Cordts et al., CVPR 2016, https://www.cityscapes-dataset.com

The 19 classes of the benchmark, read from `labelIds` as they come (or from `labelTrainIds`); polygons are not needed.
`train_extra` trains without labels. The masks of `test` are empty, so its images are left out.
"""

from __future__ import annotations

from pathlib import Path

from protoseg.data.index import ClassTable, DataIndex, Sample, Split
from protoseg.data.io import walk
from protoseg.data.masks import Color, MaskFile

FOLDERS = ("leftImg8bit", "gtFine")
NEEDS = f"{FOLDERS[0]}/ and {FOLDERS[1]}/"
_CLASSES: tuple[tuple[str, int, Color], ...] = (  # name, id, colour; in the order of the train ids
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_NAMES, _IDS, _COLORS = zip(*_CLASSES, strict=True)
BY_ID = ClassTable(
    _NAMES,
    tuple((i,) for i in _IDS),
    _COLORS,
    ignored=tuple(i for i in range(256) if i not in _IDS),  # the other 15 ids, and -1 stored as 255
)
BY_TRAIN_ID = ClassTable(_NAMES, tuple((i,) for i in range(len(_NAMES))), _COLORS)
_KINDS = (("_gtFine_labelIds.png", BY_ID), ("_gtFine_labelTrainIds.png", BY_TRAIN_ID))
_FOLDERS: dict[str, Split] = {"train": "train", "train_extra": "train", "val": "val"}


def matches(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in FOLDERS)


def no_masks(root: Path) -> str:
    """What to say where `gtFine/` holds annotations of other kinds than the masks that are read; empty where that is not so."""
    other = next((path for path in walk(root / "gtFine") if "_gtFine_" in path.name), None)
    if other is None or any(path.name.endswith(tuple(ending for ending, _ in _KINDS)) for path in walk(root / "gtFine")):
        return ""
    return (
        f"there is no *{_KINDS[0][0]} and no *{_KINDS[1][0]} in {root / 'gtFine'}, but e.g. {other.name}: make them from the "
        "polygons (*_gtFine_polygons.json) with csCreateTrainIdLabelImgs of cityscapesscripts, or unpack "
        "gtFine_trainvaltest.zip again"
    )


def read(root: Path) -> DataIndex:
    """List the data set. No image is opened."""
    # One kind for all masks: the same number means different things in the two.
    ending, classes = next((kind for kind in _KINDS if next((root / "gtFine").rglob(f"[!.]*{kind[0]}"), None)), _KINDS[0])
    samples = []
    for folder, split in _FOLDERS.items():
        for image in sorted((root / "leftImg8bit" / folder).glob("[!.]*/[!.]*_leftImg8bit.png")):
            scene = image.name.removesuffix("_leftImg8bit.png")
            mask = root / "gtFine" / folder / image.parent.name / f"{scene}{ending}"
            name = f"{folder}/{image.parent.name}/{scene}_leftImg8bit"
            samples.append(Sample(name, image, MaskFile(mask) if mask.is_file() else None, split))
    return DataIndex(root, "cityscapes", tuple(samples), classes)
