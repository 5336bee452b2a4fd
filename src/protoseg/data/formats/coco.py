"""COCO JSON: polygons and run-length codes. Lin et al., ECCV 2014, https://cocodataset.org/#format-data

The files are `*.json` of the folder or of its `annotations/`; where there are `instances_*.json`, those alone. A file with
"val" or "test" in its name holds evaluation images. Classes are the categories in the order of their ids ("thing" and
"stuff" alike), after class 0, "background", which is what no annotation covers.

Where annotations overlap, crowds lie at the bottom and small areas on top, so that a part is not hidden by its whole. Images
without any annotation are unlabelled: nothing says that somebody looked at them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.data.annotations import BACKGROUND, ImageFinder, beginning, field, read_json, size_field, table_with_background
from protoseg.data.index import DataIndex, Sample, Split, named_split
from protoseg.data.shapes import BoolArray, Shape, ShapesMask

NEEDS = "a COCO JSON file, in it or in annotations/"


@dataclass(frozen=True)
class Segmentation:
    """What COCO calls a segmentation: polygons, drawn by pycocotools so that they mean the same; or a run-length code."""

    code: Any

    def fill(self, size: tuple[int, int]) -> BoolArray:
        from pycocotools import mask

        try:
            if not isinstance(self.code, dict):
                rings: Any = [_ring(ring, size) for ring in self.code]
                return mask.decode(mask.merge(mask.frPyObjects(rings, *size))).astype(np.bool_)
            counts = self.code["counts"]
            if list(self.code["size"]) != list(size):
                raise ValueError(f"its code is of {self.code['size']}, the image of {list(size)}")
            if isinstance(counts, str):
                counts = run_lengths(counts)
            if sum(counts) != size[0] * size[1] or min(counts) < 0:
                raise ValueError("its run lengths do not add up to the image")
            runs: BoolArray = np.repeat(np.arange(len(counts)) % 2 == 1, counts)  # zeros first, column by column
            return runs.reshape(size[::-1]).T
        except (KeyError, TypeError) as error:
            raise ValueError(f"its segmentation is neither polygons nor a run-length code ({error})") from error


def run_lengths(code: str) -> list[int]:
    """Run lengths out of COCO's compressed string: 5 bits a character, lowest first, from the fourth on less the last but one.

    Own code, because pycocotools takes a string that ends early for a mask.

    Raises:
        ValueError: a character that does not belong there, or half a number.
    """
    lengths: list[int] = []
    number, shift = 0, 0
    for character in code:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} does not belong into a run-length code")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # goes on
            continue
        if bits & 16:  # negative
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise ValueError("a run-length code ends in the middle of a number")
    return lengths


def _ring(ring: Any, size: tuple[int, int]) -> list[float]:
    """A polygon x, y, x, y, ..., checked before it reaches C code."""
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or any(type(x) not in (int, float) for x in ring):
        raise ValueError("a polygon is a list of at least three x, y, ...")
    if not all(abs(x) <= 10 * max(size) for x in ring):  # false for NaN too
        raise ValueError("a corner of a polygon lies far outside the image")
    return ring


def matches(root: Path) -> bool:
    return bool(_files(root))


def read(root: Path) -> DataIndex:
    """List the data set. No image is opened.

    Raises:
        ValueError: pycocotools is not installed; a file that is not COCO's, categories that differ between files, two
            annotations of one image.
        FileNotFoundError: an image that is not there.
    """
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise ValueError("COCO files need pycocotools: pip install 'protoseg[coco]'") from error
    finder = ImageFinder(root)
    files = [(path, read_json(path)) for path in _files(root)]
    names = _categories(files)
    classes = table_with_background(list(names.values()))
    value_of = {category: classes.names.index(name) for category, name in names.items()}
    masks: dict[Path, tuple[ShapesMask | None, Split]] = {}
    for path, content in files:
        for image, mask in _read_file(path, content, finder, value_of):
            if image in masks:
                raise ValueError(f"{path} lists {image}, which another file (or line) lists too")
            masks[image] = mask, _split(path)
    unlisted: tuple[None, Split] = (None, "train")
    samples = []
    for image in finder.beside(masks):
        mask, split = masks.get(image, unlisted)
        samples.append(Sample(finder.name_of(image), image, mask, split))
    return DataIndex(root, "coco", tuple(samples), classes)


def _files(root: Path) -> list[Path]:
    files = [
        *sorted(root.glob("*.json")),
        *sorted(root.glob("annotations/*.json")),
        *sorted(root.glob("*/_annotations.coco.json")),
    ]
    found = [path for path in files if _is_coco(path)]
    return [path for path in found if path.name.startswith("instances_")] or found


def _is_coco(path: Path) -> bool:
    head = beginning(path)
    return head.startswith("{") and ('"images"' in head or '"annotations"' in head) and '"shapes"' not in head


def _split(path: Path) -> Split:
    words = {*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name.lower()}
    splits = {named_split(word) for word in words}
    return "val" if "val" in splits else "test" if "test" in splits else "train"


def _categories(files: list[tuple[Path, Any]]) -> dict[int, str]:
    """Id -> name, by rising id. All files have to agree."""
    names: dict[int, str] = {}
    for path, content in files:
        for category in field(content, "categories", list, str(path)):
            number, name = (
                field(category, "id", int, f"{path}, a category"),
                field(category, "name", str, f"{path}, a category"),
            )
            if names.setdefault(number, name) != name:
                raise ValueError(f"{path} calls category {number} {name!r}; another file calls it {names[number]!r}")
    if repeated := [name for name, count in Counter(names.values()).items() if count > 1 and name != BACKGROUND]:
        raise ValueError(f"{files[0][0]} has two categories named {repeated[0]!r}")
    return dict(sorted(names.items()))


def _read_file(path: Path, content: Any, finder: ImageFinder, value_of: dict[int, int]) -> list[tuple[Path, ShapesMask | None]]:
    by_image: dict[int, list[Any]] = {}
    for annotation in field(content, "annotations", list, str(path)):
        by_image.setdefault(field(annotation, "image_id", int, f"{path}, an annotation"), []).append(annotation)
    found: list[tuple[Path, ShapesMask | None]] = []
    seen = set[int]()
    for record in field(content, "images", list, str(path)):
        number, name = field(record, "id", int, f"{path}, an image"), field(record, "file_name", str, f"{path}, an image")
        if number in seen:
            raise ValueError(f"{path} lists two images of the id {number}")
        seen.add(number)
        where = f"{path}, image {name}"
        drawn = [a for a in by_image.pop(number, []) if a.get("segmentation")]  # boxes alone say nothing about pixels
        mask = None
        if drawn:
            size = size_field(record, "height", "width", where)
            mask = ShapesMask(path, name, size, _shapes(drawn, value_of, size, where))
        found.append((finder.find(name, beside=path), mask))
    if by_image:
        raise ValueError(f"{path} has annotations of image {next(iter(by_image))}, which it does not list")
    return found


def _shapes(annotations: list[Any], value_of: dict[int, int], size: tuple[int, int], where: str) -> tuple[Shape, ...]:
    """Bottom first."""
    for annotation in annotations:
        if field(annotation, "category_id", int, where) not in value_of:
            raise ValueError(f"{where}: category {annotation['category_id']} is not among the categories")

    def area(annotation: Any) -> float:
        if "area" in annotation:
            return float(field(annotation, "area", (int, float), where))
        try:  # some tools leave it out
            return float(Segmentation(annotation["segmentation"]).fill(size).sum())
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    ordered = sorted(annotations, key=lambda a: (not a.get("iscrowd"), -area(a)))
    return tuple(Shape(value_of[a["category_id"]], Segmentation(a["segmentation"])) for a in ordered)
