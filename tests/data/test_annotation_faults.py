"""What can be wrong in an annotation file: each fault stops with the file's name, and nothing outside the data is read."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_folder import draw_shapes, write_image
from make_formats import WRITERS, make_pictures
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.check import check_labels
from protoseg.data.formats import open_dataset
from protoseg.data.splits import make_partition

Change = Callable[[Any], Any]
FILE = {
    "coco": "annotations/instances_train2017.json",
    "labelme": "train/images/scene_1.json",
    "label studio": "project-3.json",
}


def inside(content: Any, path: Sequence[Any]) -> Any:
    """What a path of keys and positions leads to."""
    for step in path:
        content = content[step]
    return content


def drop(*path: Any) -> Change:
    """Leave out a field."""

    def change(content: Any) -> Any:
        del inside(content, path[:-1])[path[-1]]
        return content

    return change


def put(*path_and_value: Any) -> Change:
    """Set a field."""
    *path, last, value = path_and_value

    def change(content: Any) -> Any:
        inside(content, path)[last] = value
        return content

    return change


def twice(*path: Any) -> Change:
    """Repeat the first entry of a list."""

    def change(content: Any) -> Any:
        entries = inside(content, path)
        entries.append(entries[0])
        return content

    return change


def png(mask: NDArray[np.bool_]) -> str:
    """As LabelMe stores it."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def every(name: str, value: Any) -> Change:
    """Set a field of all regions of a Label Studio task."""

    def change(content: Any) -> Any:
        for region in inside(content, REGION[:-1]):
            region[name] = value
        return content

    return change


REGION = (1, "annotations", 0, "result", 0)
SHAPE = {"label": "x", "points": [[1, 2]]}
FAR = {"label": "x", "points": [[1, 2], [1e18, 2], [3, 4]]}
LARGE = png(np.ones((500, 500), dtype=np.bool_))
OUTSIDE = "../../outside/photo.png"
LOST = "but no such image"
FAULTS: list[tuple[str, str, Change, str]] = [
    ("labelme", "no list of shapes", drop("shapes"), "has no 'shapes'"),
    ("labelme", "shapes that are no list", put("shapes", 5), "'shapes' is int"),
    ("labelme", "no image", drop("imagePath"), "has no 'imagePath'"),
    ("labelme", "a zero byte in a name", put("imagePath", "a\0.png"), "zero byte"),
    ("labelme", "half a letter in a name", put("imagePath", "\ud800.png"), r"'\\ud800\.png', which is no text in UTF-8"),
    ("labelme", "half a letter in a label", put("shapes", 0, "label", "a\ud800"), r"'label' is 'a\\ud800', which is no text"),
    ("labelme", "another image's annotation", put("imagePath", "scene_0.png"), "both annotate"),
    ("labelme", "no size", drop("imageHeight"), "has no 'imageHeight'"),
    ("labelme", "a size of zero", put("imageHeight", 0), "no image is"),
    ("labelme", "a huge size", put("imageHeight", 10**9), "no image is"),
    ("labelme", "another size than the image's", put("imageHeight", 39), "is 49x39 but its image"),
    ("labelme", "a shape without label", drop("shapes", 0, "label"), "has no 'label'"),
    ("labelme", "a label that is no text", put("shapes", 0, "label", None), "'label' is NoneType"),
    ("labelme", "a shape that is no object", put("shapes", 0, 7), "has no 'label'"),
    ("labelme", "a shape without points", drop("shapes", 0, "points"), "has no 'points'"),
    ("labelme", "a point that is none", put("shapes", 0, "points", [["a", 1], [2, 3]]), "is no point"),
    ("labelme", "a line", put("shapes", 0, "shape_type", "line"), "covers no area"),
    ("labelme", "a shape of another tool", put("shapes", 0, "shape_type", "rotation"), "a rotation .* is not read; draw it as"),
    ("labelme", "a rectangle of one point", put("shapes", 0, SHAPE | {"shape_type": "rectangle"}), "has two points"),
    ("labelme", "a polygon of one point", put("shapes", 0, SHAPE), "shape 1: .*three corners"),
    ("labelme", "a stored mask that is no PNG", put("shapes", 0, "mask", "aGVsbG8="), "shape 1: its mask cannot be read"),
    ("labelme", "a stored mask that is no base64", put("shapes", 0, "mask", "?!"), "shape 1: its mask cannot be read"),
    ("labelme", "a stored mask larger than the image", put("shapes", 0, "mask", LARGE), "is 500x500, larger than the image"),
    ("labelme", "a stored mask far away", put("shapes", 0, "points", [[1e300, 0], [0, 0]]), "far outside the image"),
    ("labelme", "a kind of shape that is no text", put("shapes", 0, "shape_type", ["a"]), "'shape_type' is list"),
    ("labelme", "a corner far away", put("shapes", 0, FAR | {"shape_type": "polygon"}), "far outside the image"),
    ("labelme", "a circle without end", put("shapes", 0, FAR | {
        "shape_type": "circle", "points": [[1e308, 0], [0, -1e308]]}), "far outside the image"),
    ("labelme", "no stored mask", drop("shapes", 0, "mask"), "has no 'mask'"),
    ("coco", "no images", drop("images"), "has no 'images'"),
    ("coco", "not one image", put("images", []), "lists no image"),
    ("coco", "no annotations", drop("annotations"), "has no 'annotations'"),
    ("coco", "no categories", drop("categories"), "has no 'categories'"),
    ("coco", "a category without name", drop("categories", 0, "name"), "a category has no 'name'"),
    ("coco", "a category by two names", put("categories", 0, "name", "plate"), "calls category 44"),
    ("coco", "two categories of one name", put("categories", 0, "id", 9), "two categories named 'disc'"),
    ("coco", "an unknown category", put("annotations", 0, "category_id", 99), "category 99 is not among"),
    ("coco", "an annotation of no image", put("annotations", 0, "image_id", 99), "annotations of image 99"),
    ("coco", "an id as text and as number", put("images", 0, "id", "0"), "image 0, .*; it lists a text and a number"),
    ("coco", "an image listed twice", twice("images"), "lists two images of the id 0"),
    ("coco", "an image that is not there", put("images", 0, "file_name", "elsewhere.png"), LOST),
    ("coco", "a name of 400 letters", put("images", 0, "file_name", "a" * 400 + ".png"), "aaa.*404 bytes are more"),
    ("coco", "a name in too many folders", put("images", 0, "file_name", "a/" * 3000 + "b.png"), "6005 bytes are more"),
    ("coco", "half a letter in a name", put("images", 0, "file_name", "\ud800.png"), r"'\\ud800\.png', which is no text"),
    ("coco", "half a letter in a class", put("categories", 0, "name", "\udfffa"), r"'name' is '\\udfffa', which is no text"),
    ("coco", "an image outside the data", put("images", 0, "file_name", OUTSIDE), LOST),
    ("coco", "an image without size", drop("images", 0, "width"), "has no 'width'"),
    ("coco", "another size than the image's", put("images", 0, "width", 47), "is 47x40 but its image"),
    ("coco", "a segmentation that is none", put("annotations", 0, "segmentation", 5), "neither polygons nor"),
    ("coco", "half a point", put("annotations", 0, "segmentation", [[1, 2, 3, 4, 5, 6, 7]]), "annotation 1: a polygon is"),
    ("coco", "points in pairs", put("annotations", 0, "segmentation", [[[1, 1], [9, 1], [9, 9]]]), "1: a polygon is a list"),
    ("coco", "a run without end", put("annotations", 0, "segmentation", "counts", "o" * 400_000 + "0"), "longer than any"),
    ("coco", "half a box", put("annotations", 0, {
        "id": 5, "image_id": 0, "category_id": 7, "bbox": [1, 2]}), "annotation 5: a box is"),
    ("coco", "the panoptic kind", put("annotations", 0, {
        "image_id": 0, "file_name": "scene_0.png", "segments_info": [{"id": 1, "category_id": 7}]}), "panoptic kind"),
    ("coco", "a damaged code", put("annotations", 0, "segmentation", "counts", "05"), "do not add up"),
    ("label studio", "a task without data", drop(1, "data"), "task 1 has no 'data'"),
    ("label studio", "a task without annotations", drop(1, "annotations"), "task 1 has no 'annotations'"),
    ("label studio", "two images and no 'image'", put(1, "data", {"left": "a.png", "right": "b.png"}), "the texts left, right"),
    ("label studio", "an image that is no text", put(1, "data", {"image": 5}), "task 1: 'data' holds no text"),
    ("label studio", "an address that is none", put(1, "data", "image", "http://[x"), "task 1: 'http://\\[x' is no path"),
    ("label studio", "an image that is not there", put(1, "data", "image", "elsewhere.png"), LOST),
    ("label studio", "an image outside the data", put(1, "data", "image", "/data/local-files/?d=" + OUTSIDE), LOST),
    ("label studio", "one image twice", put(1, "data", "image", "scene_0.png"), "and so does another task"),
    ("label studio", "a region of two labels", put(*REGION, "value", "brushlabels", ["a", "b"]), "it takes one"),
    ("label studio", "half a letter in a label", put(*REGION, "value", "brushlabels", ["\udc00"]), "which is no text"),
    ("label studio", "a region without code", drop(*REGION, "value", "rle"), "has no 'rle'"),
    ("label studio", "a damaged code", put(*REGION, "value", "rle", [0, 0, 1]), "brush code"),
    ("label studio", "regions of two sizes", put(*REGION, "original_width", 3), "of different sizes"),
    ("label studio", "another size than the image's", every("original_width", 16_000), "is 16000x40 but its image"),
    ("label studio", "a rotated rectangle", put(*REGION, {
        "type": "rectanglelabels", "original_width": 49, "original_height": 40,
        "value": {"rotation": 20, "rectanglelabels": ["disc"]}}), "rotated rectangle"),
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_image(tmp_path / "outside/photo.png", draw_shapes(np.random.default_rng(0))[0])
    return tmp_path / "data"


def decode(root: Path) -> None:
    index = open_dataset(root)
    check_labels(index, make_partition(index))


@pytest.mark.parametrize(("written", "fault", "change", "message"), FAULTS, ids=[f"{f[0]}: {f[1]}" for f in FAULTS])
def test_a_fault_stops_and_is_named(data: Path, written: str, fault: str, change: Change, message: str) -> None:
    WRITERS[written][1](data, make_pictures())
    path = data / FILE[written]
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        decode(data)
    assert path.stem.split("_")[0] in str(caught.value)


def test_what_a_panoptic_file_is_and_what_to_do(data: Path) -> None:
    """As it is published: segments in a folder of PNG files, the annotations of an image under one entry."""
    WRITERS["coco"][1](data, make_pictures())
    path = data / FILE["coco"]
    content = json.loads(path.read_text())
    for file in (data / "annotations").glob("*.json"):
        file.unlink()
    for image in content["images"]:
        write_image(data / "annotations/panoptic_train2017" / image["file_name"], np.zeros((40, 49, 3), dtype=np.uint8))
    content["annotations"] = [
        {"image_id": i["id"], "file_name": i["file_name"], "segments_info": [{"id": 1, "category_id": 7, "bbox": [0, 0, 9, 9]}]}
        for i in content["images"]
    ]
    (data / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"panoptic_train2017\.json is COCO's panoptic kind.* Export polygons .* into masks/"):
        open_dataset(data)


@pytest.mark.parametrize("text", ["lost/elsewhere.png", OUTSIDE, "/etc/passwd"])
def test_an_image_that_is_not_in_the_data(data: Path, text: str) -> None:
    """LabelMe keeps the path of the machine it ran on; beside the file there is no image of its name either."""
    WRITERS["labelme"][1](data, make_pictures())
    path = data / FILE["labelme"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"imagePath": text}))
    decode(data)  # found by the file's own name
    path.with_suffix(".png").unlink()
    with pytest.raises(FileNotFoundError, match=f"scene_1.json names {text}, but no such image"):
        decode(data)


@pytest.mark.parametrize("way", ["absolute", "relative", "name alone"])
def test_images_in_a_folder_of_the_command_line(data: Path, way: str) -> None:
    """Its other images stay unlabelled; without the folder on the command line nothing there is opened."""
    WRITERS["coco"][1](data, make_pictures())
    more = data.parent / "large disk"
    more.mkdir()
    for name in ("scene_0.png", "scene_3.png"):
        (data / "train2017" / name).rename(more / name)
    path = data / FILE["coco"]
    content = json.loads(path.read_text())
    content["images"] = [i for i in content["images"] if i["file_name"] != "scene_3.png"]
    prefix = {"absolute": f"{more}/", "relative": "../../large disk/", "name alone": ""}[way]
    content["images"][0]["file_name"] = f"{prefix}scene_0.png"
    path.write_text(json.dumps(content))
    found = {s.name: s.mask is not None for s in open_dataset(data, unlabeled=more).of("train")}
    assert found["unlabeled:large disk/scene_0"]
    assert not found["unlabeled:large disk/scene_3"]
    assert len(found) == 5
    with pytest.raises(FileNotFoundError, match=LOST):
        open_dataset(data)


def test_links_that_the_user_made_are_followed(data: Path) -> None:
    WRITERS["coco"][1](data, make_pictures())
    elsewhere = data.parent / "large disk"
    (data / "train2017").rename(elsewhere)
    (data / "train2017").symlink_to(elsewhere)
    decode(data)


BEGINNING = {"coco": b'{"images": ', "labelme": b'{"imagePath": "", "shapes": ', "label studio": b'[{"annotations": '}


@pytest.mark.parametrize("written", FILE)
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not JSON"), (b"[}", "is not JSON"), (b'"\xff\xfe"', "UTF-8"), (b"[" * 100_000 + b"]" * 100_000, "too deeply")],
)
def test_a_broken_file_is_named(data: Path, written: str, content: bytes, message: str) -> None:
    WRITERS[written][1](data, make_pictures())
    (data / FILE[written]).write_bytes(BEGINNING[written] + content)
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(data)
    assert FILE[written].rsplit("/", 1)[-1] in str(caught.value)


def test_what_protoseg_writes_into_the_folder_is_no_data(data: Path) -> None:
    """A doctor's report, a run's results and pictures, hidden folders: none of it changes what is found."""
    WRITERS["labelme"][1](data, make_pictures())
    before = open_dataset(data)
    (data / "doctor.json").write_text('{"findings": []}')
    for folder in ("runs/first", "train/images/.ipynb_checkpoints"):
        (data / folder).mkdir(parents=True)
        write_image(data / folder / "predictions.png", draw_shapes(np.random.default_rng(0))[0])
        (data / folder / "result.json").write_text('{"miou": 0.5}')
    assert open_dataset(data) == before


def test_a_relative_root_keeps_what_lies_outside_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["labelme"][1](data, make_pictures())
    write_image(data.parent / "secret.png", draw_shapes(np.random.default_rng(0))[0])
    path = data / "train/images/scene_1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"imagePath": "../../../secret.png"}))
    path.with_suffix(".png").unlink()
    monkeypatch.chdir(data)
    with pytest.raises(FileNotFoundError, match=r"secret\.png, but no such image"):
        open_dataset(Path())


@pytest.mark.parametrize("text", ["Infinity", "NaN", "1" * 400, "1e999", "-1e999"])
def test_numbers_that_are_none(data: Path, text: str) -> None:
    WRITERS["labelme"][1](data, make_pictures())
    path = data / FILE["labelme"]
    path.write_text(path.read_text().replace('"imageHeight": 40', f'"imageHeight": {text}'))
    with pytest.raises(ValueError, match=r"scene_1\.json: .*annotation file"):
        open_dataset(data)


def test_how_many_images_of_a_coco_file_are_not_there(data: Path) -> None:
    WRITERS["coco"][1](data, make_pictures())
    listed = json.loads((data / FILE["coco"]).read_text())["images"]
    for image in listed[:2]:
        (data / "train2017" / image["file_name"]).unlink()
    expected = f"names {listed[0]['file_name']}, but no such image is in {data}: 2 of its {len(listed)} images cannot be found"
    with pytest.raises(FileNotFoundError, match=expected):
        open_dataset(data)


def test_which_of_several_annotations_of_a_task_counts(data: Path) -> None:
    WRITERS["label studio"][1](data, make_pictures())
    path = data / FILE["label studio"]
    assert not any("several annotations" in note for note in open_dataset(data).notes)  # cancelled ones do not count
    tasks = json.loads(path.read_text())
    first, second = tasks[0]["annotations"][0]["result"]
    tasks[0]["annotations"] = [{"result": [first]}, {"result": [second]}]
    path.write_text(json.dumps(tasks))
    index = open_dataset(data)
    assert any(
        "1 task in" in note and "several annotations (the first is task 0): of each, the last" in note for note in index.notes
    )
    mask = next(sample.mask for sample in index.samples if sample.image.stem == "scene_0")
    assert mask is not None
    assert index.classes is not None
    names = {index.classes.names[value] for value in np.unique(mask.read())}
    assert names == {"background", *second["value"]["brushlabels"]}
