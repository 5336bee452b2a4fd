"""Label Studio's JSON export: brush strokes (in a run-length code of their own), polygons, rectangles and ellipses.

https://labelstud.io/guide/export. The file is a `*.json` of the folder. Of several annotations of a task the last one counts
that was not cancelled; later regions lie on top. What no region covers is class 0, "background". Tasks without annotation are
unlabelled, and so are those where one without a region was submitted, unless a list of labelled images names their image: then
it is background. `val` and `test` folders hold evaluation images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from protoseg.data.annotations import (
    ImageFinder,
    beginning,
    check_text,
    field,
    json_files,
    mentions,
    read_json,
    size_field,
    split_of,
    table_with_background,
)
from protoseg.data.index import DataIndex, Sample
from protoseg.data.rle import decode_brush
from protoseg.data.shapes import BlankMask, Ellipse, Patch, Polygon, Region, Shape, ShapesMask, rectangle
from protoseg.words import counted

NEEDS = "Label Studio's JSON export"
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
_NO_AREAS = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "ranker", "relation")
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # put before the file name of an upload


@dataclass(frozen=True)
class Brush(Region):
    """A brush stroke in Label Studio's run-length code."""

    code: tuple[int, ...]

    def patch(self, size: tuple[int, int]) -> Patch:
        return Patch(0, 0, decode_brush(self.code, size))


def matches(root: Path) -> bool:
    return bool(_files(root))


def read(root: Path, *, folders: Sequence[Path] = ()) -> DataIndex:
    """List the data set, whose images may stand in further folders too. No image is opened.

    Raises:
        ValueError: something in the file that does not belong there, or a region without area; with file and task.
        FileNotFoundError: an image that is not there.
    """
    files = _files(root)
    if len(files) > 1:
        raise ValueError(f"{files[0]} and {files[1]} are both exports of Label Studio; keep one of them")
    path, finder = files[0], ImageFinder(root, folders)
    tasks = [(task, f"{path}, task {field(task, 'id', (int, str), str(path))}") for task in read_json(path)]
    results = [_result(task, where) for task, where in tasks]
    named = [(r, where) for (_, where), result in zip(tasks, results, strict=True) for r in result or ()]
    names = {label for r, where in named for label in _labels(r, where)}
    classes = table_with_background(sorted(names))
    masks: dict[Path, ShapesMask | BlankMask] = {}
    empty = list[str]()
    for (task, where), result in zip(tasks, results, strict=True):
        if result is None:
            continue
        text = _image(task, where)
        image = finder.find(text, beside=path, names=[_UPLOAD.sub("", text.rsplit("/", 1)[-1], count=1)])
        if image in masks:
            raise ValueError(f"{where} annotates {image}, and so does another task")
        if not result:
            empty.append(f"task {task['id']}, {image}")
            masks[image] = BlankMask(path, text, image)
            continue
        size = size_field(result[0], "original_height", "original_width", where)
        shapes = tuple(Shape(classes.names.index(_labels(r, where)[0]), _region(r, size, where)) for r in result)
        masks[image] = ShapesMask(path, text, size, shapes, file=image)
    samples = []
    for image in finder.beside(masks):
        name, found = finder.name_of(image), masks.get(image)
        seen = found if isinstance(found, ShapesMask) else None
        samples.append(Sample(name, image, seen, split_of(name), if_listed=found))
    return DataIndex(root, "label_studio", tuple(samples), classes, _say_several(path, tasks) + _say_empty(path, empty))


def _say_several(path: Path, tasks: Sequence[tuple[Any, str]]) -> tuple[str, ...]:
    several = [task["id"] for task, where in tasks if len(_done(task, where)) > 1]
    if not several:
        return ()
    return (
        f"{counted(len(several), f'task in {path} has', f'tasks in {path} have')} several annotations (the first is task "
        f"{several[0]}): of each, the last one in the file counts that was not cancelled; delete it in Label Studio to have "
        "another one count",
    )


def _say_empty(path: Path, empty: Sequence[str]) -> tuple[str, ...]:
    if not empty:
        return ()
    return (
        f"{counted(len(empty), 'annotation')} in {path} without a region (the first: {empty[0]}), although submitted: such "
        "images count as unlabelled; if they show none of the classes, name them in a list for --labels, beside the labelled "
        "ones, and they are background",
    )


def _files(root: Path) -> list[Path]:
    heads = ((path, beginning(path)) for path in json_files(root))
    return [path for path, head in heads if head.startswith("[") and ('"annotations"' in head or _is_late(path, head))]


def small_export(root: Path) -> Path | None:
    """A JSON_MIN export, which is not read; None where there is none."""
    heads = ((path, beginning(path)) for path in json_files(root))
    words = [f'"{kind}"' for kind in _KINDS]
    return next((path for path, head in heads if head.startswith("[") and any(word in head for word in words)), None)


def _is_late(path: Path, head: str) -> bool:
    """Whether the annotations come after a first task that is longer than the beginning of the file."""
    return '"data"' in head and mentions(path, '"annotations"')


def _done(task: Any, where: str) -> list[Any]:
    """The annotations of a task that were not cancelled."""
    return [a for a in field(task, "annotations", list, where) if isinstance(a, dict) and not a.get("was_cancelled")]


def _result(task: Any, where: str) -> list[Any] | None:
    """The regions of the annotation that counts; None where there is none."""
    done = _done(task, where)
    if not done:
        return None
    regions = field(done[-1], "result", list, where)
    for region in regions:
        kind = field(region, "type", str, where)
        if kind not in _KINDS and kind not in _NO_AREAS:
            raise ValueError(f"{where}: regions of type {kind!r} are not read; label with {', '.join(_KINDS)}")
        if region.get("image_rotation"):
            raise ValueError(
                f"{where}: the image was turned by {region['image_rotation']} degrees in Label Studio; turn its file"
            )
    return [region for region in regions if region["type"] in _KINDS]


def _labels(region: Any, where: str) -> list[str]:
    labels: list[str] = field(field(region, "value", dict, where), region["type"], list, where)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise ValueError(f"{where}: a region has the labels {labels!a}; it takes one")
    check_text(labels[0], f"{where}: a label")
    return labels


def _image(task: Any, where: str) -> str:
    """The path of a task's image, out of an upload's name, a local file's address, or a URL."""
    data = field(task, "data", dict, where)
    texts = [name for name, value in data.items() if isinstance(value, str)]
    if "image" not in texts and len(texts) != 1:
        which = f"'data' holds the texts {', '.join(texts)}, none of them called 'image'" if texts else "'data' holds no text"
        raise ValueError(f"{where}: {which}; it takes the image's path or address under 'image'")
    text = data["image" if "image" in texts else texts[0]]
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError(f"{where}: {text!r} is no path or address of an image: {error}") from error
    local = parse_qs(parts.query).get("d")  # /data/local-files/?d=folder/photo.jpg
    return local[0] if local else unquote(parts.path).lstrip("/")


def _region(region: Any, size: tuple[int, int], where: str) -> Region:
    value, (height, width) = region["value"], size
    if size_field(region, "original_height", "original_width", where) != size:
        raise ValueError(f"{where}: its regions are of images of different sizes")
    if region["type"] == "brushlabels":
        return Brush(tuple(field(value, "rle", list, where)))
    if region["type"] == "polygonlabels":
        points = field(value, "points", list, where)
        if not all(isinstance(p, list) and len(p) == 2 and all(type(x) in (int, float) for x in p) for p in points):
            raise ValueError(f"{where}: a polygon is a list of points (x, y)")
        return Polygon((tuple((x * width / 100, y * height / 100) for x, y in points),))  # stored in per cent
    if value.get("rotation"):
        raise ValueError(f"{where}: a rotated {region['type'].removesuffix('labels')} is not supported; draw a polygon")
    x, y = (field(value, name, (int, float), where) / 100 for name in ("x", "y"))
    if region["type"] == "rectanglelabels":
        w, h = (field(value, name, (int, float), where) / 100 for name in ("width", "height"))
        return rectangle(x * width, y * height, (x + w) * width, (y + h) * height)
    radii = field(value, "radiusX", (int, float), where) / 100, field(value, "radiusY", (int, float), where) / 100
    return Ellipse((x * width, y * height), (radii[0] * width, radii[1] * height))
