"""One short file for each layout; each fills a DataIndex."""

from __future__ import annotations

from pathlib import Path

from protoseg.data.formats import camvid, folder
from protoseg.data.index import DataIndex


def open_dataset(root: Path, *, unlabeled: Path | None = None, for_training: bool = True) -> DataIndex:
    """Recognise the layout of a folder and list what is in it. No image is opened.

    Args:
        root: the data set's folder.
        unlabeled: one more folder of images, at any depth, that have no masks. Files that the data set lists already are
            left out, so that an evaluation image never comes in by this door.
        for_training: whether there must be training images.

    Returns:
        DataIndex.

    Raises:
        FileNotFoundError: a folder is missing, or the layout is none of those known.
        ValueError: the layout is known, but nothing useful is in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give the folder that holds images/ and masks/")
    if camvid.matches(root):
        index = camvid.read(root)
    elif folder.matches(root):
        index = folder.read(root, for_training=for_training)
    else:
        raise FileNotFoundError(
            f"{root} has no images/ folder; put the images there, and masks of equal names into {root}/masks"
        )
    if unlabeled is None:
        return index
    listed = {sample.image.resolve() for sample in index.samples}
    more = [sample for sample in folder.read_images(unlabeled, "--unlabeled") if sample.image.resolve() not in listed]
    return DataIndex(index.root, index.format, (*index.samples, *more), index.classes)
