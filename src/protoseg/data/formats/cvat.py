"""CVAT's export "Segmentation mask 1.1", a folder or the zip as it comes. https://docs.cvat.ai/docs/manual/advanced/formats

Pascal VOC's folders with a `labelmap.txt` of the task's own classes and colours. Export with "save images", or put the images
into `JPEGImages/`. Images without a mask are unlabelled; subsets called "val" ("Validation", ...) or "test" are for evaluation.
"""

from __future__ import annotations

from pathlib import Path

from protoseg.data.class_list import read_class_list
from protoseg.data.formats.voc import read_samples, unlisted
from protoseg.data.index import DataIndex

NEEDS = "labelmap.txt, JPEGImages/ and SegmentationClass/"


def matches(root: Path) -> bool:
    return (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir()


def read(root: Path) -> DataIndex:
    """List the data set. No image is opened.

    Raises:
        FileNotFoundError: there are no images.
        ValueError: a line of `labelmap.txt` that does not fit.
    """
    if not (root / "JPEGImages").is_dir():
        raise FileNotFoundError(
            f"{root} holds masks and no images (JPEGImages/): export from CVAT once more with 'Save images' on, or put the "
            "images into JPEGImages/ there (a zip has to be unpacked for that; give the folder then)"
        )
    samples, spare = read_samples(root)
    classes = read_class_list(root)
    return DataIndex(root, "cvat", tuple(samples), classes, left_out=unlisted(root, spare), spare=tuple(spare))
