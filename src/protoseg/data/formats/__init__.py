"""One short file for each layout; each fills a DataIndex."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from protoseg.data.archive import opened, unpack
from protoseg.data.class_list import read_class_list
from protoseg.data.formats import ade20k, camvid, cityscapes, coco, cvat, folder, label_studio, labelme, voc
from protoseg.data.index import BACKGROUND, DataIndex, in_order
from protoseg.data.io import check_names, is_plain, resolver
from protoseg.data.left_out import unread_class_lists, unread_images
from protoseg.data.masks import MaskFile
from protoseg.data.misplaced import apart, no_images_folder
from protoseg.data.samples import packed
from protoseg.words import counted


class Format(Protocol):
    """What a module of this package offers."""

    NEEDS: str  # what a folder of this layout holds, for messages

    def matches(self, root: Path) -> bool:
        """Whether a folder looks like it, by names alone."""
        ...

    def read(self, root: Path) -> DataIndex:
        """List the data set. No image is opened."""
        ...


class AnnotationFormat(Format, Protocol):
    """A format of annotation files, which name their images by path."""

    def read(self, root: Path, *, folders: Sequence[Path] = ()) -> DataIndex:
        """The same, with images in further folders that the user has named."""
        ...


_ANNOTATION_FORMATS: dict[str, AnnotationFormat] = {"coco": coco, "label_studio": label_studio, "labelme": labelme}

FORMATS: dict[str, Format] = {
    "cityscapes": cityscapes,
    "cvat": cvat,  # before voc, whose folders it uses
    "voc": voc,
    "camvid": camvid,
    "ade20k": ade20k,
    **_ANNOTATION_FORMATS,
}
"""All but the plain folder, which asks for least and so is tried last."""


def open_dataset(
    root: Path,
    *,
    format: str | None = None,
    unlabeled: Path | None = None,
    for_training: bool = True,
    is_listed: bool = False,
) -> DataIndex:
    """List what is in a data set. No image is opened.

    Args:
        root: the data set's folder, or a zip file of it.
        format: its layout, `folder` or one of FORMATS; recognised when left out.
        unlabeled: one more folder of images, or a zip file of it, at any depth, that have no masks. Files that the data set
            lists already are left out, so that an evaluation image never comes in by this door.
        for_training: whether there must be training images, and masks for some of them.
        is_listed: whether a list of the user's names the labelled images; it may name those that the data set's own lists pass
            over.

    Returns:
        DataIndex.

    Raises:
        FileNotFoundError: a folder is missing, or the layout is none of those known.
        ValueError: no such layout, nothing useful is in it, or a file name that is no UTF-8.
    """
    root = Path(os.path.normpath(root.absolute()))  # links stay as the user made them
    unlabeled = unlabeled and opened(unlabeled)
    if not root.is_file():
        return _open(root, format=format, unlabeled=unlabeled, for_training=for_training, is_listed=is_listed)
    unpacked = unpack(root)
    try:
        return _open(unpacked, format=format, unlabeled=unlabeled, for_training=for_training, is_listed=is_listed)
    except (ValueError, FileNotFoundError) as error:  # nobody knows the folder in the cache, and nobody should mend it there
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(str(error).replace(str(unpacked), str(root))) from error


def with_mask_files(root: Path) -> DataIndex | None:
    """The data set that a folder is, where some of the pictures in it are masks; None for any other folder.

    Annotation files are not read: they are no pictures, and predictions do not need them.

    Raises:
        FileNotFoundError, ValueError: see `open_dataset`.
    """
    layouts = (layout for name, layout in FORMATS.items() if name not in _ANNOTATION_FORMATS)
    is_known = any(layout.matches(root) for layout in layouts)
    if not is_known and not folder.matches(root):
        return None
    index = open_dataset(root, format=None if is_known else "folder", for_training=False)
    return index if any(isinstance(sample.mask, MaskFile) for sample in (*index.whole, *index.spare)) else None


def _open(root: Path, *, format: str | None, unlabeled: Path | None, for_training: bool, is_listed: bool) -> DataIndex:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give the folder that holds images/ and masks/")
    name = _recognise(root) if format is None else _checked(root, format)
    if name == "folder":
        index = folder.read(root, for_training=for_training)
    else:
        folders = () if unlabeled is None else (Path(os.path.normpath(unlabeled.absolute())),)
        if (annotated := _ANNOTATION_FORMATS.get(name)) is not None:
            index = _by_class_list(annotated.read(root, folders=folders))
        elif name == "ade20k":
            index = ade20k.read(root, asked_for=format is not None)
        else:
            index = FORMATS[name].read(root)
        stock = (*index.of("train").whole, *(index.spare if is_listed else ()))
        if for_training and not any(sample.mask for sample in stock):
            raise ValueError(
                f"{root} looks like {name}, but no training image in it has a mask; {_lacking(index, FORMATS[name].NEEDS)}"
            )
    samples = packed(index.samples)
    if unlabeled is not None:
        resolved = resolver()
        listed = set(map(resolved, samples.images()))
        found = folder.read_images(unlabeled, "--unlabeled", to_learn_from=True)
        samples += found.where(lambda image: resolved(image) not in listed, of="image")
    check_names(Path(image) for image in samples.images() if not is_plain(image))
    lists = unread_class_lists(root) if index.classes is None else ()
    return dataclasses.replace(index, samples=samples, left_out=(*index.left_out, *unread_images(samples), *lists))


def _lacking(index: DataIndex, needs: str) -> str:
    """What to do about a data set without a labelled training image."""
    if kept := sum(sample.mask is not None for sample in index.whole):
        spare = sum(sample.mask is not None for sample in index.spare)
        if spare:
            return (
                f"all of {counted(kept, 'listed image')} with masks are for evaluation (val or test), and {spare} more with "
                "masks stand in no list: write the names of those to train on into ImageSets/Segmentation/train.txt, or into a "
                "list for --labels"
            )
        return (
            f"all of {counted(kept, 'image')} with masks are for evaluation (val or test): add a list, a folder or an "
            "annotation file of training images"
        )
    if index.format == "cityscapes" and (said := cityscapes.no_masks(index.root)):
        return said
    return f"it needs {needs}"


def _by_class_list(index: DataIndex) -> DataIndex:
    """Annotation files name their classes; a class list beside them gives the order, and classes that do not occur yet.

    Raises:
        ValueError: the list lacks a class of the files.
    """
    listed = read_class_list(index.root) if index.names_classes else None
    if listed is None or index.classes is None:
        return index
    names, colors = listed.names, listed.colors
    if BACKGROUND not in names:  # what no shape covers, which many lists leave out
        names, colors = (BACKGROUND, *names), (index.classes.colors[0], *colors)
    if lacking := [name for name in index.classes.names if name not in names]:
        raise ValueError(
            f"the class list in {index.root} names {', '.join(listed.names)}, the annotation files {', '.join(lacking)} too; "
            "list every class by the name that it has there, or remove the list"
        )
    return in_order(index, names, colors)


def _recognise(root: Path) -> str:
    # Finished masks count more than the annotation files that they were made from.
    skipped = tuple(_ANNOTATION_FORMATS) if (root / "masks").is_dir() and folder.matches(root) else ()
    found = [name for name, layout in FORMATS.items() if name not in skipped and layout.matches(root)]
    if not found and not (root / "masks").is_dir() and (small := label_studio.small_export(root)):
        raise ValueError(f"{small} is Label Studio's JSON_MIN, which lacks sizes and ids; export as JSON instead")
    if found or folder.matches(root):
        return found[0] if found else "folder"
    if near := _near(root):
        raise FileNotFoundError(f"{root} is no data set, but {near} looks like one; give that folder")
    if advice := apart(root, cityscapes.FOLDERS):
        raise FileNotFoundError(advice)
    known = "; ".join(f"{layout.NEEDS} ({name})" for name, layout in FORMATS.items())
    raise FileNotFoundError(f"{no_images_folder(root)}. Or give a folder with {known}")


def _near(root: Path) -> Path | None:
    """The data set that a folder is a part of, or that lies a little below it. Annotation files are not looked for, because
    that may mean to read through everything that somebody has."""
    looks = [folder.matches, *(layout.matches for name, layout in FORMATS.items() if name not in _ANNOTATION_FORMATS)]
    above = [root.parent] if root.name in {"images", "masks"} else []
    below = [path for depth in ("[!.]*", "[!.]*/[!.]*") for path in sorted(root.glob(depth)) if path.is_dir()]
    return next((path for path in (*above, *below) if any(matches(path) for matches in looks)), None)


def _checked(root: Path, format: str) -> str:
    if format != "folder" and format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; choose one of folder, {', '.join(FORMATS)}")
    layout = folder if format == "folder" else FORMATS[format]
    if layout.matches(root):
        return format
    if other := next((name for name, other in FORMATS.items() if other.matches(root)), None):
        raise FileNotFoundError(
            f"{root} is not laid out as {format}, it looks like {other}: leave out --format, or give --format {other}"
        )
    if format != "folder":  # which has messages of its own
        raise FileNotFoundError(f"{root} is not laid out as {format}: it needs {FORMATS[format].NEEDS}")
    return format
