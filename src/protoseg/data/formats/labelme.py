"""LabelMe: one JSON file for each image, with polygons, rectangles, circles and masks. https://github.com/wkentaro/labelme

Later shapes lie on top. What no shape covers is class 0, "background"; `__ignore__` is not labelled. Images without a file are
unlabelled. `val` and `test` folders hold evaluation images.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from protoseg.data.annotations import (
    ImageFinder,
    beginning,
    field,
    is_json,
    outer_keys,
    read_json,
    size_field,
    split_of,
    table_with_background,
)
from protoseg.data.index import BACKGROUND, DataIndex, Sample
from protoseg.data.io import walk
from protoseg.data.shapes import Ellipse, Patch, Polygon, Region, Shape, ShapesMask, check_near, rectangle
from protoseg.types import IGNORE_INDEX

NEEDS = "JSON files of LabelMe"
_NO_AREAS = ("point", "points", "line", "linestrip")
_ALIASES = {"_background_": BACKGROUND, "__ignore__": None}  # LabelMe's own words


@dataclass(frozen=True)
class StoredMask(Region):
    """A PNG inside the JSON file, placed at (left, top)."""

    left: int
    top: int
    code: str  # base64

    def patch(self, size: tuple[int, int]) -> Patch:
        check_near(np.array([float(self.left), float(self.top)]), size)
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.code, validate=True)), formats=["PNG"]) as image:
                if image.height > size[0] + 1 or image.width > size[1] + 1:  # LabelMe's boxes include their last corner
                    raise ValueError(f"its mask is {image.width}x{image.height}, larger than the image; remove or redraw it")
                part = np.asarray(image.convert("L")) > 0
        except UnidentifiedImageError as error:
            raise ValueError("its mask cannot be read: it is no PNG; remove or redraw it") from error
        except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"its mask cannot be read: {error}; remove or redraw it") from error
        part = part[max(0, -self.top) :, max(0, -self.left) :]
        top, left = min(max(0, self.top), size[0]), min(max(0, self.left), size[1])
        return Patch(top, left, part[: size[0] - top, : size[1] - left])


def matches(root: Path) -> bool:
    return next(_files(root), None) is not None


def read(root: Path, *, folders: Sequence[Path] = ()) -> DataIndex:
    """List the data set, whose images may stand in further folders too. No image is opened.

    Raises:
        ValueError: a file that is not LabelMe's, or a shape without area; with the file's name.
        FileNotFoundError: an image that is not there.
    """
    finder = ImageFinder(root, folders)
    files = [(path, read_json(path)) for path in _files(root)]
    labels = {_label(shape, str(path)) for path, content in files for shape in field(content, "shapes", list, str(path))}
    names = sorted(label for label in labels if label is not None)
    classes = table_with_background(names)
    value_of: dict[str | None, int] = {name: i for i, name in enumerate(classes.names)} | {None: IGNORE_INDEX}

    masks: dict[Path, ShapesMask] = {}
    for path, content in files:
        where = str(path)
        text = field(content, "imagePath", str, where)
        image = _find(finder, text, path, has_image=bool(content.get("imageData")))
        if image in masks:
            raise ValueError(f"{path} and {masks[image].path} both annotate {image}")
        shapes = tuple(Shape(value_of[_label(shape, where)], _region(shape, where)) for shape in content["shapes"])
        masks[image] = ShapesMask(path, text, size_field(content, "imageHeight", "imageWidth", where), shapes, file=image)
    samples = [Sample(finder.name_of(i), i, masks.get(i), split_of(finder.name_of(i))) for i in finder.beside(masks)]
    return DataIndex(root, "labelme", tuple(samples), classes)


def _find(finder: ImageFinder, text: str, path: Path, *, has_image: bool) -> Path:
    """The image of a file of LabelMe's, by its path on whatever machine, or else by the file's own name."""
    try:
        return finder.find(text, beside=path, names=[path.with_suffix(suffix).name for suffix in (".jpg", ".png", ".jpeg")])
    except FileNotFoundError as error:
        if not has_image:
            raise
        raise FileNotFoundError(
            f"{error}; the file holds the image itself ('imageData'), which is not read: labelme_export_json writes it out"
        ) from error


def _files(root: Path) -> Iterator[Path]:
    """LabelMe's files: JSON objects of shapes. Others, such as results of a run, are none of it."""
    keys = ((path, outer_keys(beginning(path))) for path in walk(root) if is_json(path))
    # With its fields sorted, the image itself comes first, and is longer than what is looked at.
    return (path for path, found in keys if found & {"shapes", "imagePath", "imageData"})


def _label(shape: Any, where: str) -> str | None:
    """The class of a shape, None for what is ignored."""
    label = field(shape, "label", str, where).strip()  # typed by hand
    return _ALIASES.get(label, label)


def _region(shape: Any, where: str) -> Region:
    points = [_point(point, where) for point in field(shape, "points", list, where)]
    kind = field(shape, "shape_type", str, where) if shape.get("shape_type") else "polygon"
    if kind == "polygon":
        return Polygon((tuple(points),))
    if kind in {"rectangle", "circle", "mask"} and len(points) != 2:
        raise ValueError(f"{where}: a {kind} has two points, this one {len(points)}")
    if kind == "rectangle":
        return rectangle(*points[0], *points[1])
    if kind == "circle":
        radius = math.dist(points[0], points[1])
        return Ellipse(points[0], (radius, radius))
    if kind == "mask":
        return StoredMask(round(points[0][0]), round(points[0][1]), field(shape, "mask", str, where))
    what = f"{where}: a {kind} ({shape['label']})"
    if kind in _NO_AREAS:
        raise ValueError(f"{what} covers no area; remove it, or draw a polygon")
    raise ValueError(f"{what} is not read; draw it as a polygon, rectangle, circle or mask")


def _point(point: Any, where: str) -> tuple[float, float]:
    if not (isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)):
        raise ValueError(f"{where}: {point!r} is no point (x, y)")
    return float(point[0]), float(point[1])
