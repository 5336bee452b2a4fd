"""COCO JSON: polygons and run-length codes. Lin et al., ECCV 2014, https://cocodataset.org/#format-data

The files are `*.json` of the folder or of its `annotations/`, or `_annotations.coco.json` in folders beside their images, as
Roboflow exports them (`train`, `valid`, `test`); where there are `instances_*.json`, those alone, and what is published beside
segmentations (captions, keypoints, panoptic files) counts only where nothing else is there. A file with "val" or "test" in its
name, or a folder so called, holds evaluation images. Classes are the categories in the order of their ids ("thing" and "stuff"
alike), after class 0, "background", which is what no annotation covers; a category that only groups others is none.

Where annotations overlap, crowds lie at the bottom and small areas on top, so that a part is not hidden by its whole; of two
equal areas the later one counts. Areas are counted in pixels: what a file says of them (`area`) is not looked at. An object
without an outline (a box alone, or a polygon of fewer than three corners) leaves its box unlabelled, as far as no other covers
it. Images without any outline are unlabelled: nothing says that somebody looked at them. Where a list of labelled images names
one, somebody has: then it is background, but for such boxes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.data.annotations import (
    ImageFinder,
    beginning,
    field,
    json_files,
    outer_keys,
    read_json,
    size_field,
    table_with_background,
)
from protoseg.data.index import BACKGROUND, DataIndex, Sample, Split, split_among
from protoseg.data.shapes import BoolArray, Patch, Region, Shape, ShapesMask, rectangle
from protoseg.types import IGNORE_INDEX
from protoseg.words import counted

_INSTANCES = "instances_"
_BESIDE = ("captions_", "person_keypoints_", "panoptic_", "image_info_")  # published beside instances or stuff
_SEGMENTS = "segments_info"  # in annotations of the panoptic kind alone
_LONGEST = 30  # bits of a run length before its last five
_TRIANGLE = 6  # numbers in the smallest polygon
_BOX, _CROWD, _OBJECT = 0, 1, 2  # levels, the lowest first
NEEDS = "a COCO JSON file, in it or in annotations/"


@dataclass(frozen=True)
class Segmentation(Region):
    """What COCO calls a segmentation: polygons, drawn by pycocotools so that they mean the same; or a run-length code."""

    code: Any
    number: Any = None  # the annotation's id, for messages

    def patch(self, size: tuple[int, int]) -> Patch:
        try:
            return self._patch(size)
        except ValueError as error:
            raise ValueError(f"annotation {self.number}: {error}") from error

    def _patch(self, size: tuple[int, int]) -> Patch:
        from pycocotools import mask

        try:
            if not isinstance(self.code, dict):
                rings: Any = [_ring(ring, size) for ring in self.code]
                if not rings:
                    raise ValueError("its list of polygons is empty")
                code = mask.merge(mask.frPyObjects(rings, *size))
                left, top, width, height = (int(side) for side in mask.toBbox(code))
                whole = mask.decode(code)
                return Patch(top, left, whole[top : top + height, left : left + width].astype(np.bool_))
            counts = self.code["counts"]
            if list(self.code["size"]) != list(size):
                raise ValueError(f"its code is of {self.code['size']}, the image of {list(size)}")
            if isinstance(counts, str):
                counts = run_lengths(counts)
            if sum(counts) != size[0] * size[1] or min(counts) < 0:
                raise ValueError("its run lengths do not add up to the image")
            runs: BoolArray = np.repeat(np.arange(len(counts)) % 2 == 1, counts)  # zeros first, column by column
            return Patch(0, 0, runs.reshape(size[::-1]).T)
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
            if shift > _LONGEST:  # Python's numbers have no end, and the time grows with the square of theirs
                raise ValueError("a number of a run-length code is longer than any image")
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
    if not isinstance(ring, list) or len(ring) < _TRIANGLE or len(ring) % 2 or any(type(x) not in (int, float) for x in ring):
        raise ValueError("a polygon is a list of at least three x, y, ...; correct or remove it")
    if not all(abs(x) <= 10 * max(size) for x in ring):  # false for NaN too
        raise ValueError("a corner of a polygon lies far outside the image; correct or remove it")
    return ring


def _outline(annotation: Any) -> Any:
    """Its segmentation, without polygons of fewer than three corners, which tools write and which cover nothing."""
    code = annotation.get("segmentation")
    if not isinstance(code, list):
        return code
    return [ring for ring in code if not _is_short(ring)]


def _is_short(ring: Any) -> bool:
    """Whether it is a polygon of fewer than three corners; anything else that is none gets a message, once it is drawn."""
    return isinstance(ring, list) and len(ring) < _TRIANGLE and all(type(x) in (int, float) for x in ring)


def _box(annotation: Any, where: str) -> Shape | None:
    """The box of an object without outline, as "not labelled"; None where it has no box either."""
    if not annotation.get("bbox"):
        return None
    sides = field(annotation, "bbox", list, where)
    if len(sides) != 4 or any(type(side) not in (int, float) for side in sides):
        raise ValueError(f"{where}: a box is x, y, width, height, this one {sides}; correct or remove it")
    x, y, width, height = sides
    return Shape(IGNORE_INDEX, rectangle(x, y, x + width, y + height), _BOX)


def matches(root: Path) -> bool:
    return bool(_files(root))


def read(root: Path, *, folders: Sequence[Path] = ()) -> DataIndex:
    """List the data set, whose images may stand in further folders too. No image is opened.

    Raises:
        ValueError: pycocotools is not installed; a file that is not COCO's, categories that differ between files, two
            annotations of one image.
        FileNotFoundError: an image that is not there.
    """
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise ValueError("COCO files need pycocotools: pip install 'protoseg[coco]'") from error
    finder = ImageFinder(root, folders)
    files = [(path, read_json(path)) for path in _files(root)]
    names, said = _categories(files)
    classes = table_with_background(list(names.values()))
    value_of = {category: classes.names.index(name) for category, name in names.items()}
    masks: dict[Path, tuple[ShapesMask | None, bool, Split]] = {}
    notes = _say_left_aside(root) + said
    for path, content in files:
        found, said = _read_file(path, content, finder, value_of)
        notes += said
        for image, mask, is_drawn in found:
            if image in masks:
                raise ValueError(f"{path} lists {image}, which another file (or line) lists too")
            masks[image] = mask, is_drawn, _split(path)
    unlisted: tuple[None, bool, Split] = (None, False, "train")
    samples = []
    for image in finder.beside(masks):
        mask, is_drawn, split = masks.get(image, unlisted)
        samples.append(Sample(finder.name_of(image), image, mask if is_drawn else None, split, if_listed=mask))
    return DataIndex(root, "coco", tuple(samples), classes, notes)


def _files(root: Path) -> list[Path]:
    found = _all_files(root)
    instances = [path for path in found if path.name.startswith(_INSTANCES)]
    return instances or [path for path in found if not path.name.startswith(_BESIDE)] or found


def _say_left_aside(root: Path) -> tuple[str, ...]:
    """Stuff, captions and keypoints come beside the instances of the published data; only the first says more of pixels."""
    used = _files(root)
    stuff = [path for path in _all_files(root) if path not in used and path.name.startswith("stuff_")]
    if not stuff:
        return ()
    return (
        f"{stuff[0]} is not read, because of {used[0].name}: {_INSTANCES}*.json alone count, and what they do "
        "not cover is background; to learn the stuff classes, take the instances away or merge the files",
    )


def _all_files(root: Path) -> list[Path]:
    files = [
        *json_files(root),
        *json_files(root / "annotations"),
        *sorted(root.glob("*/_annotations.coco.json")),
    ]
    return [path for path in files if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    """Whether it looks like COCO's. One that is called so and is empty or cut off shall be named, not passed over."""
    if path.name.startswith(_INSTANCES):
        return True
    keys = outer_keys(beginning(path))
    return bool(keys & {"images", "annotations"}) and "shapes" not in keys


def _split(path: Path) -> Split:
    return split_among([*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name])


def _categories(files: list[tuple[Path, Any]]) -> tuple[dict[int, str], tuple[str, ...]]:
    """Id -> name, by rising id, and what to say about them. All files have to agree."""
    names: dict[int, str] = {}
    for path, content in files:
        for category in field(content, "categories", list, str(path)):
            number, name = (
                field(category, "id", int, f"{path}, a category"),
                field(category, "name", str, f"{path}, a category"),
            )
            if names.setdefault(number, name) != name:
                raise ValueError(f"{path} calls category {number} {name!r}; another file calls it {names[number]!r}")
    notes = tuple(
        f"category {number} of {files[0][0]}, {names.pop(number)!r}, only groups others (their 'supercategory') and has no "
        "annotation: it is no class"
        for number in _grouping(files)
    )
    if repeated := [name for name, count in Counter(names.values()).items() if count > 1 and name != BACKGROUND]:
        raise ValueError(f"{files[0][0]} has two categories named {repeated[0]!r}")
    return dict(sorted(names.items())), notes


def _grouping(files: list[tuple[Path, Any]]) -> list[int]:
    """The ids of categories that group others and label nothing: Roboflow's exports begin with one, called like the project."""
    categories = [category for _, content in files for category in content["categories"]]
    groups = [category.get("supercategory") for category in categories]
    annotations = [a for path, content in files for a in field(content, "annotations", list, str(path))]
    used = [a.get("category_id") for a in annotations if isinstance(a, dict)]
    above = [c for c in categories if c.get("supercategory") in (None, "", "none") and c["name"] in groups]
    return sorted({category["id"] for category in above if category["id"] not in used})


def _read_file(
    path: Path, content: Any, finder: ImageFinder, value_of: dict[int, int]
) -> tuple[list[tuple[Path, ShapesMask | None, bool]], tuple[str, ...]]:
    """Each image with its mask and whether any outline is in it, and what to say about the annotations."""
    by_image: dict[int | str, list[Any]] = {}  # tools write either
    for annotation in field(content, "annotations", list, str(path)):
        if isinstance(annotation, dict) and _SEGMENTS in annotation:
            raise ValueError(_say_panoptic(path))
        by_image.setdefault(field(annotation, "image_id", (int, str), f"{path}, an annotation"), []).append(annotation)
    found: list[tuple[Path, ShapesMask | None, bool]] = []
    without_outline = list[tuple[Any, str]]()
    seen, missing = set[int | str](), list[FileNotFoundError]()
    records = field(content, "images", list, str(path))
    if not records:
        raise ValueError(f"{path} lists no image; export it again, or take it away")
    for record in records:
        number, name = (
            field(record, "id", (int, str), f"{path}, an image"),
            field(record, "file_name", str, f"{path}, an image"),
        )
        if number in seen:
            raise ValueError(f"{path} lists two images of the id {number!r}")
        seen.add(number)
        where = f"{path}, image {name}"
        try:
            image = finder.find(name, beside=path)
        except FileNotFoundError as error:
            missing.append(error)
            by_image.pop(number, None)
            continue
        outlined = [(a, _outline(a)) for a in by_image.pop(number, [])]
        drawn = [(a, code) for a, code in outlined if code]
        bare = [a for a, code in outlined if not code]
        mask = None
        if drawn or ("height" in record and "width" in record):
            size = size_field(record, "height", "width", where)
            boxes = [box for a in bare if (box := _box(a, f"{where}, annotation {a.get('id')}"))]
            shapes = (*boxes, *_shapes(drawn, value_of, size, where))
            mask = ShapesMask(path, name, size, shapes, file=image, by_area=True)
        without_outline += [(a, name) for a in bare]
        found.append((image, mask, bool(drawn)))
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: {len(missing)} of its {counted(len(records), 'image')} cannot be found; put them there, or take "
            "them out of its 'images', and what they have out of its 'annotations'"
        ) from missing[0]
    if by_image:
        lost = next(iter(by_image))
        twin = "; it lists a text and a number, which are two ids" if str(lost) in map(str, seen) else ""
        raise ValueError(f"{path} has annotations of image {lost!r}, which it does not list{twin}")
    return found, _say_boxes(path, without_outline)


def _say_panoptic(path: Path) -> str:
    return (
        f"{path} is COCO's panoptic kind, which is not read: its areas are in PNG files whose colours number segments, not "
        f"classes. Export polygons or run-length codes as {_INSTANCES}*.json instead, or turn the segments into PNG masks of "
        "class numbers and put them into masks/, the images into images/ (panopticapi has converters for both)"
    )


def _say_boxes(path: Path, without_outline: Sequence[tuple[Any, str]]) -> tuple[str, ...]:
    if not without_outline:
        return ()
    boxless = sum(not annotation.get("bbox") for annotation, _ in without_outline)
    lost = f", and {counted(boxless, 'has', 'have')} no box either: left out" if boxless else ""
    first, image = without_outline[0]
    return (
        f"{counted(len(without_outline), f'annotation in {path} has', f'annotations in {path} have')} no outline (the first is "
        f"{first.get('id')}, of {image}): pixels in such boxes are not labelled, nor are images without any other{lost}; draw "
        "outlines to learn from them",
    )


def _shapes(drawn: list[tuple[Any, Any]], value_of: dict[int, int], size: tuple[int, int], where: str) -> tuple[Shape, ...]:
    """Of annotations and their outlines."""
    for annotation, _ in drawn:
        if field(annotation, "category_id", int, where) not in value_of:
            raise ValueError(f"{where}: category {annotation['category_id']} is not among the categories")
    return tuple(
        Shape(value_of[a["category_id"]], Segmentation(code, a.get("id")), _CROWD if a.get("iscrowd") else _OBJECT)
        for a, code in drawn
    )
