"""Pictures that stand among the data and are not read: named, because what is left out without a word is missed by nobody."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from protoseg.data.index import LeftOut, Sample
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES, OTHER_PICTURES, split_suffix, walk
from protoseg.data.masks import MaskFile
from protoseg.data.samples import packed


def unread_images(samples: Sequence[Sample]) -> list[LeftOut]:
    """Pictures of kinds that are not read, in the folders that hold images."""
    folders = sorted(packed(samples).folders())
    return _unread(
        (folder / name for folder in folders for name in _names(folder) if split_suffix(name)[1].lower() in OTHER_PICTURES),
        "file beside the images is of a kind that is not read",
        "files beside the images are of kinds that are not read",
        f"convert them to one of {', '.join(sorted(IMAGE_SUFFIXES))}",
        OTHER_PICTURES,
    )


def unused_masks(folder: Path, samples: Sequence[Sample]) -> list[LeftOut]:
    """Files in a folder of masks that are no image's: none has their name, or they are of a kind that holds no classes."""
    used = {sample.mask.path for sample in packed(samples).whole if isinstance(sample.mask, MaskFile)}
    files = walk(folder)
    orphans = [path for path in files if path.suffix.lower() in MASK_SUFFIXES and path not in used]
    return _some(
        orphans,
        "mask belongs to no image",
        "masks belong to no image",
        "give image and mask equal paths, suffix aside; without its mask an image counts as unlabelled",
    ) + _unread(
        files,
        "file among the masks is of a kind that holds no class numbers",
        "files among the masks are of kinds that hold no class numbers",
        f"save them as PNG without loss ({', '.join(sorted(MASK_SUFFIXES))} are read); their images count as unlabelled",
        (IMAGE_SUFFIXES | OTHER_PICTURES) - MASK_SUFFIXES,
    )


def unread_class_lists(root: Path) -> list[LeftOut]:
    """Files that list the classes under another name than is looked for. Without a list classes have no names, and no order."""
    return _some(
        sorted(path for path in root.iterdir() if path.name.lower() in _OTHER_LISTS and path.is_file()),
        "file may list the classes and is not read",
        "files may list the classes and are not read",
        "write the names into classes.txt, one a line, in the order of the mask values 0, 1, 2, ...",
    )


_OTHER_LISTS = frozenset(
    f"{name}{suffix}"
    for name in ("classes", "_classes", "class_names", "classnames", "labels", "label_names", "names", "categories")
    for suffix in (".txt", ".csv", ".json", ".yaml", ".yml", ".names")
)


def _names(folder: Path) -> list[str]:
    """Of all that lies in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _unread(files: Iterable[Path], one: str, many: str, advice: str, suffixes: Collection[str]) -> list[LeftOut]:
    return _some([path for path in files if path.suffix.lower() in suffixes and path.is_file()], one, many, advice)


def _some(files: Sequence[Path], one: str, many: str, advice: str) -> list[LeftOut]:
    return [LeftOut(one, many, advice, tuple(files))] if files else []
