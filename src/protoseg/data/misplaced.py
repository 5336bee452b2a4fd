"""What to say about data that is not where it is looked for, or not called so: which folder or file was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from protoseg.data.index import named_split
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES, OTHER_PICTURES, walk

_MASK_ENDING = re.compile(r"[-_ .](masks?|labels?|seg|gt|annotations?)$", re.IGNORECASE)


def no_masks_folder(root: Path) -> str:
    """The message for a folder with `images/` and without `masks/`."""
    what = f"{root} has no masks/ folder"
    if others := [name for name in _folders_of_pictures(root) if name != "images/"]:
        return f"{what}; if {' or '.join(others)} holds the masks, rename it to masks/"
    if foreign := foreign_annotation(root):
        return f"{what}, and {foreign}"
    if beside := _mask_beside_its_image(root / "images"):
        mask, image = beside
        return f"{what}; if {mask} is the mask of {image.name}, move all such to {root / 'masks'}, each under its image's name"
    return f"{what}; put masks of a few images there, as PNG under the images' names, to learn from"


def apart(root: Path, names: tuple[str, str]) -> str:
    """What to do about two folders that belong together and lie in two others, as each archive of a download makes one for
    itself; empty where that is not so."""
    found = [next(iter(sorted(root.glob(f"*/{name}"))), None) for name in names]
    if None in found:
        return ""
    return f"{root} holds {found[0]} and {found[1]}; move both into one folder, and give that"


def _mask_beside_its_image(folder: Path) -> tuple[Path, Path] | None:
    """A file that is called like an image in the same folder, or so and `_mask`, and that image; None where there is none."""
    files = [path for path in walk(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    images = {path.with_suffix(""): path for path in files}  # of two equal names the later, which is the mask
    for path in files:
        stem = _MASK_ENDING.sub("", path.stem)
        image = images.get(path.with_name(stem))
        if image is not None and image != path:
            mask, image = (path, image) if stem != path.stem else (image, path)
            if mask.suffix.lower() in MASK_SUFFIXES:
                return mask, image
    return None


def no_images_folder(root: Path) -> str:
    """The message for a folder of no known layout."""
    others = [name for name in _folders_of_pictures(root) if name != "masks/"]
    if not others and (packed := next(iter(sorted(root.glob("*.zip"))), None)):
        return f"{root} has no images/ folder; if {packed} is the data set, give it itself"
    if beside := next((found for name in others if (found := _mask_beside_its_image(root / name))), None):
        mask, image = beside
        return (
            f"{root} has no images/ folder; if {mask} is the mask of {image.name} (as Roboflow has them), move the images to "
            f"{root}/images and the masks to {root}/masks, each under its image's name, or export COCO Segmentation instead"
        )
    which = f"if {' or '.join(others)} holds the images, rename it to images/" if others else "put the images there"
    said = f"{root} has no images/ folder; {which}; masks of equal names belong into {root}/masks"
    return f"{said}; {foreign}" if (foreign := foreign_annotation(root)) else said


def foreign_annotation(root: Path) -> str:
    """What to do about labels of another kind than masks; empty where there are none."""
    files = walk(root)
    boxes = next((p for p in files if p.suffix == ".xml" or (p.suffix == ".txt" and p.parts[-2].lower() == "labels")), None)
    if boxes is None:
        return ""
    kind = "YOLO's labels" if boxes.suffix == ".txt" else "CVAT's XML or VOC's boxes"
    return f"{boxes} ({kind}) is not read: export masks (CVAT: Segmentation mask 1.1) or COCO JSON from the tool instead"


def unread_pictures(folder: Path) -> str:
    """What to do about pictures of other kinds in a folder; empty where there are none."""
    files = [path for path in walk(folder) if path.suffix.lower() in OTHER_PICTURES]
    return f": {files[0]} is of a kind that is not read, convert it to PNG or JPEG" if files else ""


def meant_by(name: str, names: Iterable[str]) -> str | None:
    """Which of the images a mask of another name probably belongs to.

    Args:
        name: of the mask: path without suffix.
        names: of the images.

    Returns:
        The image of the same file name in another folder; else the one whose file name is the largest part of the mask's
        (`a` for `a_mask`), or, where there is none, holds the mask's; None where none does.
    """
    own = _last(name)
    same = [other for other in names if _last(other) == own]
    parts = sorted((other for other in names if _last(other) in own), key=lambda other: -len(_last(other)))
    wholes = sorted((other for other in names if own in _last(other)), key=lambda other: len(_last(other)))
    return next(iter([*same, *parts, *wholes]), None)


def rename_hint(mask_of: Mapping[str, Path], image_of: Mapping[str, Path]) -> str:
    """How to rename the first mask that has no image: `: e.g. ...`; empty where all have one."""
    orphan = next((name for name in mask_of if name not in image_of), None)
    if orphan is None:
        return ""
    mask, image = mask_of[orphan], meant_by(orphan, image_of)
    if image is None:
        return f": e.g. {mask} belongs to images/{orphan}.*"
    masks = Path(str(mask.with_suffix("")).removesuffix(orphan))
    return f": e.g. {mask} belongs to images/{orphan}.*; if {image_of[image]} is meant, call it {masks / image}{mask.suffix}"


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _folders_of_pictures(root: Path) -> list[str]:
    """The folders directly in another one that hold pictures, as `name/`; those of evaluation splits left out."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and named_split(path.name) in {None, "train"})
    return [f"{path.name}/" for path in folders if any(file.suffix.lower() in IMAGE_SUFFIXES for file in walk(path))]
