"""What each kind of shape in an annotation file covers, and which one counts where two overlap."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_folder import write_image
from make_formats import WRITERS, make_pictures

from protoseg.data.formats import open_dataset
from protoseg.data.index import DataIndex
from protoseg.run import load_data
from protoseg.settings import ClassesConfig, TrainConfig

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_image(tmp_path / f"images/{name}.png", np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
    return tmp_path


def masks(index: DataIndex) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Class names of every labelled image's pixels."""
    assert index.classes is not None
    names = np.array([*index.classes.names, *["?"] * (256 - len(index.classes))])
    return {s.image.stem: names[index.classes.encode(s.mask.read())] for s in index.samples if s.mask is not None}


def labelme(root: Path, *shapes: dict[str, Any]) -> np.ndarray:  # type: ignore[type-arg]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (root / "images/a.json").write_text(json.dumps(content))
    return masks(open_dataset(root))["a"]


class TestLabelMe:
    @pytest.mark.parametrize(
        "shape",
        [
            {"points": [[2, 3], [12, 3], [12, 9], [2, 9]]},
            {"points": [[2, 3], [12, 3], [12, 9], [2, 9]], "shape_type": "polygon"},
            {"points": [[2, 3], [12, 9]], "shape_type": "rectangle"},
            {"points": [[12, 9], [2, 3]], "shape_type": "rectangle"},
        ],
    )
    def test_polygon_and_rectangle(self, root: Path, shape: dict[str, Any]) -> None:
        mask = labelme(root, {"label": "cat", **shape})
        assert (mask[3:9, 2:12] == "cat").all()
        assert (mask == "cat").sum() == 60
        assert mask[0, 0] == "background"

    def test_blanks_around_a_label_are_no_other_class(self, root: Path) -> None:
        shapes = (("cat", [[0, 0], [9, 9]]), ("cat ", [[20, 10], [29, 19]]))
        mask = labelme(root, *({"label": name, "points": points, "shape_type": "rectangle"} for name, points in shapes))
        assert (mask[:9, :9] == "cat").all()
        assert (mask[10:19, 20:29] == "cat").all()

    def test_circle(self, root: Path) -> None:
        mask = labelme(root, {"label": "cat", "points": [[10, 10], [10, 15]], "shape_type": "circle"})
        assert abs((mask == "cat").sum() - np.pi * 25) < 4
        assert mask[10, 10] == "cat"

    def test_later_ones_lie_on_top_and_ignored_is_no_class(self, root: Path) -> None:
        shapes = [("cat", [[0, 0], [20, 10]]), ("_background_", [[0, 0], [5, 5]]), ("__ignore__", [[15, 0], [20, 10]])]
        mask = labelme(root, *({"label": name, "points": points, "shape_type": "rectangle"} for name, points in shapes))
        assert [mask[2, 2], mask[7, 7], mask[7, 17], mask[15, 15]] == ["background", "cat", "?", "background"]

    def test_finished_masks_count_more(self, root: Path) -> None:
        labelme(root, {"label": "cat", "points": [[0, 0], [20, 10]], "shape_type": "rectangle"})
        write_image(root / "masks/a.png", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
        assert open_dataset(root).format == "folder"
        assert open_dataset(root, format="labelme").format == "labelme"


def coco(root: Path, *annotations: dict[str, Any], name: str = "train.json") -> DataIndex:
    content = {
        "images": [{"id": i, "file_name": f"{stem}.png", "height": HEIGHT, "width": WIDTH} for i, stem in enumerate("ab")],
        "categories": [{"id": 9, "name": "wheel"}, {"id": 3, "name": "car"}],
        "annotations": [{"id": i, "image_id": 0, **a} for i, a in enumerate(annotations)],
    }
    (root / name).write_text(json.dumps(content))
    return open_dataset(root)


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


class TestCoco:
    def test_classes_by_their_ids(self, root: Path) -> None:
        index = coco(root, {"category_id": 3, "segmentation": box(2, 2, 9, 9), "area": 49})
        assert index.classes is not None
        assert index.classes.names == ("background", "car", "wheel")

    @pytest.mark.parametrize("order", [1, -1])
    @pytest.mark.parametrize(
        "areas", [({"area": 234}, {"area": 16}), ({}, {}), ({"area": 1}, {"area": 99}), ({"area": None}, {})]
    )
    def test_the_smaller_area_lies_on_top_whatever_the_order(
        self, root: Path, order: int, areas: tuple[dict[str, int], dict[str, int]]
    ) -> None:
        """Areas are counted: tools leave them out, write 0, or keep those of another size of the image."""
        car = {"category_id": 3, "segmentation": box(2, 2, 20, 15), **areas[0]}
        wheel = {"category_id": 9, "segmentation": box(4, 10, 8, 14), **areas[1]}
        mask = masks(coco(root, *[car, wheel][::order]))["a"]
        assert [mask[5, 5], mask[12, 6], mask[0, 0]] == ["car", "wheel", "background"]

    def test_crowds_lie_at_the_bottom(self, root: Path) -> None:
        crowd = np.zeros((HEIGHT, WIDTH), dtype=bool)
        crowd[:, :4] = True
        counts = [0, HEIGHT * 4, HEIGHT * (WIDTH - 4)]
        small = {"category_id": 9, "iscrowd": 1, "area": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
        large = {"category_id": 3, "iscrowd": 0, "area": 99, "segmentation": box(2, 2, 20, 15)}
        mask = masks(coco(root, large, small))["a"]
        assert [mask[5, 3], mask[5, 0]] == ["car", "wheel"]

    def test_of_equal_areas_the_later_one_counts(self, root: Path) -> None:
        first, second = ({"category_id": c, "segmentation": box(c, 2, c + 8, 9)} for c in (3, 9))
        mask = masks(coco(root, first, second))["a"]
        assert [mask[4, 5], mask[4, 10], mask[4, 15]] == ["car", "wheel", "wheel"]

    def test_a_file_without_an_image_is_named(self, root: Path) -> None:
        content = {"images": [], "categories": [], "annotations": []}
        (root / "instances_train.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"instances_train\.json lists no image"):
            open_dataset(root)

    def test_an_empty_file_is_named_though_others_are_there(self, root: Path) -> None:
        """What lies beside it (captions) would be read in its place."""
        (root / "captions_train.json").write_text('{"images": [], "annotations": [{"caption": "a car"}]}')
        (root / "instances_train.json").write_text("")
        with pytest.raises(ValueError, match=r"instances_train\.json is not JSON"):
            open_dataset(root)

    def test_an_image_without_annotation_is_unlabelled(self, root: Path) -> None:
        index = coco(root, {"category_id": 3, "segmentation": box(2, 2, 9, 9), "area": 49})
        assert sorted(masks(index)) == ["a"]
        assert [s.image.stem for s in index.of("train")] == ["a", "b"]

    def test_boxes_alone_are_no_labels(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"looks like coco, but no training image in it has a mask"):
            coco(root, {"category_id": 3, "bbox": [2, 2, 9, 9], "area": 49})

    def test_a_box_beside_outlines_is_not_labelled(self, root: Path) -> None:
        """There is something, so it is no background; where an outline covers it, that counts."""
        car = {"category_id": 3, "segmentation": box(2, 2, 9, 9), "area": 49}
        wheel = {"category_id": 9, "segmentation": [], "bbox": [7, 7, 5, 5], "area": 25}
        index = coco(root, car, wheel)
        mask = masks(index)["a"]
        assert [mask[8, 8], mask[10, 10], mask[15, 15]] == ["car", "?", "background"]
        assert (mask == "?").sum() == 25 - 4
        assert "1 annotation in" in index.notes[0]
        assert "(the first is 1, of a.png)" in index.notes[0]

    @pytest.mark.parametrize("rings", [[[]], [[1, 2, 3, 4]]])
    @pytest.mark.parametrize("more", [{}, {"bbox": [0, 0, 4, 4]}])
    def test_polygons_that_cover_nothing(self, root: Path, rings: list[list[float]], more: dict[str, Any]) -> None:
        """Tools write them; one of them does not spoil a data set, and is not passed over without a word."""
        car = {"category_id": 3, "segmentation": box(5, 5, 9, 9), "area": 16}
        index = coco(root, car, {"category_id": 9, "segmentation": rings, "area": 1, **more})
        mask = masks(index)["a"]
        assert (mask == "car").sum() == 16
        assert (mask == "?").sum() == (16 if more else 0)
        assert ("no box either" in index.notes[0]) == (not more)

    def test_an_image_with_such_alone_is_unlabelled_and_it_is_said(self, root: Path) -> None:
        car = {"category_id": 3, "segmentation": box(5, 5, 9, 9), "area": 16}
        index = coco(root, car, {"image_id": 1, "category_id": 9, "segmentation": [[]]})
        assert sorted(masks(index)) == ["a"]
        assert "(the first is 1, of b.png)" in index.notes[0]

    def test_one_good_polygon_of_several(self, root: Path) -> None:
        index = coco(root, {"category_id": 3, "segmentation": [*box(5, 5, 9, 9), [1, 2]], "area": 16})
        assert (masks(index)["a"] == "car").sum() == 16
        assert index.notes == ()

    def test_stuff_beside_instances_is_said(self, root: Path) -> None:
        coco(root, {"category_id": 3, "segmentation": box(2, 2, 9, 9), "area": 49}, name="instances_train.json")
        (root / "stuff_train.json").write_text((root / "instances_train.json").read_text())
        (note,) = open_dataset(root).notes
        assert "stuff_train.json is not read, because of instances_train.json" in note

    def test_stuff_without_instances_is_read(self, tmp_path: Path) -> None:
        """The captions that come beside it are no data."""
        WRITERS["coco"][1](tmp_path / "data", make_pictures())
        before = open_dataset(tmp_path / "data")
        for path in sorted((tmp_path / "data/annotations").glob("instances_*.json")):
            path.rename(path.with_name(path.name.replace("instances", "stuff")))
        assert (tmp_path / "data/annotations/captions_train2017.json").is_file()
        index = open_dataset(tmp_path / "data")
        assert index.classes == before.classes
        assert [(s.name, s.split, s.mask is None) for s in index.samples] == [
            (s.name, s.split, s.mask is None) for s in before.samples
        ]

    def test_the_split_is_in_the_name(self, root: Path) -> None:
        coco(root, {"category_id": 3, "segmentation": box(2, 2, 9, 9), "area": 49}).of("train")
        (root / "train.json").rename(root / "instances_val2017.json")
        assert len(open_dataset(root, for_training=False).of("val")) == 2


def roboflow(root: Path, *, used: int = 1) -> DataIndex:
    """An export with its three folders; of the categories, the first is called after the project and groups the others.

    Args:
        root: of the export.
        used: category of the annotation in each file.
    """
    categories = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 1, "name": "square", "supercategory": "shapes"},
        {"id": 2, "name": "disc", "supercategory": "shapes"},
    ]
    for folder in ("train", "valid", "test"):
        name = f"a_{folder}.rf.1f.png"
        write_image(root / folder / name, np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
        content = {
            "info": {"year": "2026", "description": "Exported from roboflow.com"},
            "licenses": [{"id": 1, "url": "https://opensource.org/licenses/MIT", "name": "MIT"}],
            "categories": categories,
            "images": [{"id": 0, "license": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": used, "segmentation": box(2, 2, 9, 9), "area": 49}],
        }
        (root / folder / "_annotations.coco.json").write_text(json.dumps(content))
    (root / "README.roboflow.txt").write_text("shapes")
    return open_dataset(root)


class TestRoboflow:
    def test_each_folder_is_its_split(self, tmp_path: Path) -> None:
        index = roboflow(tmp_path)
        assert index.format == "coco"
        assert {s.split: s.image.parent.name for s in index.samples} == {"train": "train", "val": "valid", "test": "test"}
        assert all((mask[2:9, 2:9] == "square").all() and (mask == "square").sum() == 49 for mask in masks(index).values())
        assert len(masks(index)) == 3

    def test_the_category_that_groups_the_others_is_no_class(self, tmp_path: Path) -> None:
        index = roboflow(tmp_path)
        assert index.classes is not None
        assert index.classes.names == ("background", "square", "disc")
        (note,) = index.notes
        assert "category 0" in note
        assert "'shapes'" in note

    def test_but_is_one_where_it_is_annotated(self, tmp_path: Path) -> None:
        index = roboflow(tmp_path, used=0)
        assert index.classes is not None
        assert index.classes.names == ("background", "shapes", "square", "disc")
        assert index.notes == ()


def label_studio(root: Path, kind: str, value: dict[str, Any], label: str = "cat") -> np.ndarray:  # type: ignore[type-arg]
    region = {"original_width": WIDTH, "original_height": HEIGHT, "type": kind, "value": {**value, kind: [label]}}
    other = {"type": "choices", "value": {"choices": ["blurred"]}}
    task = {"id": 5, "data": {"image": "/data/upload/1/89abcdef-a.png"}, "annotations": [{"result": [region, other]}]}
    (root / "export.json").write_text(json.dumps([task]))
    return masks(open_dataset(root))["a"]


class TestLabelStudio:
    def test_polygon(self, root: Path) -> None:
        """In per cent of the image: 10 % of 30 px is 3, 50 % of 20 px is 10."""
        mask = label_studio(root, "polygonlabels", {"points": [[10, 50], [50, 50], [50, 75], [10, 75]]})
        assert (mask[10:15, 3:15] == "cat").all()
        assert (mask == "cat").sum() == 60

    def test_rectangle(self, root: Path) -> None:
        mask = label_studio(root, "rectanglelabels", {"x": 10, "y": 50, "width": 40, "height": 25, "rotation": 0})
        assert (mask[10:15, 3:15] == "cat").all()
        assert (mask == "cat").sum() == 60

    def test_ellipse(self, root: Path) -> None:
        mask = label_studio(root, "ellipselabels", {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25})
        assert abs((mask == "cat").sum() - np.pi * 6 * 5) < 6
        assert mask[10, 15] == "cat"


class TestEmptyAnnotation:
    """Submitted in Label Studio without a region."""

    @pytest.fixture
    def export(self, root: Path) -> Path:
        label_studio(root, "rectanglelabels", {"x": 10, "y": 50, "width": 40, "height": 25})
        (task,) = json.loads((root / "export.json").read_text())
        empty = {"id": 6, "data": {"image": "b.png"}, "annotations": [{"result": []}]}
        skipped = {"id": 7, "data": {"image": "c.png"}, "annotations": [{"result": [], "was_cancelled": True}]}
        write_image(root / "images/c.png", np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
        (root / "export.json").write_text(json.dumps([task, empty, skipped]))
        return root

    def test_is_unlabelled_and_it_is_said(self, export: Path) -> None:
        index = open_dataset(export)
        assert sorted(masks(index)) == ["a"]
        assert [s.image.stem for s in index.of("train")] == ["a", "b", "c"]
        (note,) = index.notes
        assert note.startswith("1 annotation in ")
        assert f"(the first: task 6, {export / 'images/b.png'})" in note

    @pytest.mark.parametrize("listed_first", ["background", "cat"])
    def test_is_background_where_a_list_names_it(self, export: Path, listed_first: str) -> None:
        (export / "labels.txt").write_text("a.png\nb.png\n")
        others = {"background", "cat"} - {listed_first}
        (export / "classes.txt").write_text("\n".join([listed_first, *others]))
        config = TrainConfig(data=str(export), labels=str(export / "labels.txt"))
        data = load_data(config)
        (blank,) = (s for s in data.partition.labeled if s.image.stem == "b")
        assert blank.mask is not None
        label = data.classes.encode(blank.mask.read())
        assert label.shape == (HEIGHT, WIDTH)
        assert (label == data.classes.names.index("background")).all()

    def test_is_not_where_the_list_names_a_skipped_task(self, export: Path) -> None:
        (export / "labels.txt").write_text("a.png\nc.png\n")
        with pytest.raises(ValueError, match=r"'c\.png' has no mask"):
            load_data(TrainConfig(data=str(export), labels=str(export / "labels.txt")))


def test_cvat_without_images_says_how_to_export(tmp_path: Path) -> None:
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\n")
    with pytest.raises(FileNotFoundError, match="Save images"):
        open_dataset(tmp_path)


def test_a_zip_without_images_is_named_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the folder in the cache that it was unpacked into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    WRITERS["cvat"][1](tmp_path / "task", make_pictures())
    shutil.rmtree(tmp_path / "task/JPEGImages")
    shutil.make_archive(str(tmp_path / "task"), "zip", tmp_path / "task")
    with pytest.raises(FileNotFoundError, match="Save images") as caught:
        open_dataset(tmp_path / "task.zip")
    assert str(caught.value).startswith(f"{tmp_path / 'task.zip'} holds masks and no images")
    assert "cache" not in str(caught.value)


def test_voc_leaves_unlisted_images_alone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((4, 4, 3), dtype=np.uint8))
    write_image(tmp_path / "SegmentationClass/a.png", np.zeros((4, 4), dtype=np.uint8))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    assert [s.name for s in open_dataset(tmp_path).samples] == ["a", "b"]
    (lists / "train.txt").write_text("a\nlost\n")
    with pytest.raises(FileNotFoundError, match="lost"):
        open_dataset(tmp_path)


def test_ade20k_names_without_their_file(tmp_path: Path) -> None:
    """Some places of the table, as https://github.com/CSAILVision/sceneparsing lists them."""
    write_image(tmp_path / "images/training/ADE_a.jpg", np.zeros((4, 4, 3), dtype=np.uint8))
    write_image(tmp_path / "annotations/training/ADE_a.png", np.ones((4, 4), dtype=np.uint8))
    classes = open_dataset(tmp_path).classes
    assert classes is not None
    assert len(classes) == len(set(classes.names)) == 150
    places = {1: "wall", 2: "building", 13: "person", 21: "car", 45: "chest of drawers", 56: "case", 76: "swivel chair"}
    places |= {91: "airplane", 106: "conveyer belt", 124: "trade name", 142: "crt screen", 149: "clock", 150: "flag"}
    assert {value: classes.names[classes.class_of[value]] for value in places} == places


def test_ade20k_names(tmp_path: Path) -> None:
    write_image(tmp_path / "images/training/a.jpg", np.zeros((4, 4, 3), dtype=np.uint8))
    write_image(tmp_path / "annotations/training/a.png", np.ones((4, 4), dtype=np.uint8))
    lines = [f"{i}\t0.1\t5\t5\tname {i}" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(lines) + "\n")
    classes = open_dataset(tmp_path).classes
    assert classes is not None
    assert classes.names[149] == "name 150"
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(lines[:9]))
    with pytest.raises(ValueError, match=r"objectInfo150\.txt names 9 classes"):
        open_dataset(tmp_path)


def test_a_kind_of_region_that_is_not_read_is_said(root: Path) -> None:
    """Else its pixels would be background without a word."""
    with pytest.raises(ValueError, match=r"export\.json, task 5: regions of type 'bitmasklabels' are not read"):
        label_studio(root, "bitmasklabels", {"imageDataURL": ""})


@pytest.mark.parametrize("kind", ["videorectangle", "keypointlabels", "vectorlabels", "brush"])
def test_so_is_one_that_nobody_has_heard_of(root: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"task 5: regions of type '{kind}' are not read"):
        label_studio(root, kind, {})


def test_label_studio_exports_that_are_not_read(root: Path) -> None:
    region = {"polygonlabels": ["cat"], "points": [[0, 0], [9, 0], [9, 9]]}
    (root / "export.json").write_text(json.dumps([{"image": "/data/a.png", "id": 1, "tag": [region]}]))
    with pytest.raises(ValueError, match=r"export\.json is Label Studio's JSON_MIN.*export as JSON"):
        open_dataset(root)


def test_labelme_with_the_image_before_everything_else(root: Path) -> None:
    """Tools sort the fields, and an image in base64 is long."""
    shape = {"label": "cat", "points": [[2, 3], [12, 9]], "shape_type": "rectangle"}
    content = {"imageData": "A" * 200_000, "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]}
    (root / "images/a.json").write_text(json.dumps(content))
    assert (masks(open_dataset(root))["a"] == "cat").sum() == 60


def test_label_studio_with_a_long_first_task(root: Path) -> None:
    label_studio(root, "rectanglelabels", {"x": 10, "y": 50, "width": 40, "height": 25})
    (task,) = json.loads((root / "export.json").read_text())
    content = [{"id": 5, "data": {"notes": "a" * 3_000_000, **task["data"]}, "annotations": task["annotations"]}]
    (root / "export.json").write_text(json.dumps(content))
    assert (masks(open_dataset(root))["a"] == "cat").sum() == 60


@pytest.mark.parametrize("written", ["voc", "ade20k", "camvid"])
def test_the_users_own_class_list_counts_more_than_the_layout(tmp_path: Path, written: str) -> None:
    """Tools write their masks into the folders of well-known data sets."""
    WRITERS[written][1](tmp_path, make_pictures())
    (tmp_path / "classes.txt").write_text("ground\nsquare\ndisc\n")
    classes = open_dataset(tmp_path).classes
    assert classes is not None
    assert classes.names == ("ground", "square", "disc")


def test_folders_of_ade20k_with_other_images(tmp_path: Path) -> None:
    write_image(tmp_path / "images/training/photo.jpg", np.zeros((4, 4, 3), dtype=np.uint8))
    write_image(tmp_path / "annotations/training/photo.png", np.eye(4, dtype=np.uint8))
    index = open_dataset(tmp_path)
    assert index.classes is None
    (note,) = index.notes
    assert "--format ade20k reads them as ADE20K's 150, and 0 as not labelled" in note


def test_ade20k_under_other_file_names_by_its_word(tmp_path: Path) -> None:
    write_image(tmp_path / "images/training/photo.jpg", np.zeros((4, 4, 3), dtype=np.uint8))
    write_image(tmp_path / "annotations/training/photo.png", np.eye(4, dtype=np.uint8))
    index = open_dataset(tmp_path, format="ade20k")
    assert index.notes == ()
    assert index.classes is not None
    assert index.classes.names[:2] == ("wall", "building")
    assert (index.classes.encode(np.array([[0, 1]], dtype=np.uint8)) == [[255, 0]]).all()
    (tmp_path / "classes.txt").write_text("nothing\nthing\n")  # says more
    assert [open_dataset(tmp_path, format=name).classes.names for name in (None, "ade20k")] == [("nothing", "thing")] * 2  # type: ignore[union-attr]


class TestOrderOfClasses:
    """Annotation files name their classes: the user's order changes numbers, never which pixels belong to which name."""

    DOG_AND_CAT = (
        {"label": "dog", "points": [[0, 0], [9, 9]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[10, 10], [19, 19]], "shape_type": "rectangle"},
        {"label": "__ignore__", "points": [[0, 15], [5, 19]], "shape_type": "rectangle"},
    )

    def check(self, root: Path, classes: ClassesConfig) -> None:
        data = load_data(TrainConfig(data=str(root), classes=classes))
        assert data.classes.names == ("background", "dog", "cat")
        assert data.classes.written == (0, 1, 2)
        assert data.partition.labeled[0].mask is not None
        label = data.classes.encode(data.partition.labeled[0].mask.read())
        assert [label[5, 5], label[15, 15], label[0, 25], label[17, 2]] == [1, 2, 0, 255]

    def test_names_of_the_settings(self, root: Path) -> None:
        labelme(root, *self.DOG_AND_CAT)
        self.check(root, ClassesConfig(names=["background", "dog", "cat"]))

    def test_names_without_a_background_that_is_ignored(self, root: Path) -> None:
        labelme(root, *self.DOG_AND_CAT)
        classes = ClassesConfig(names=["dog", "cat"], background="ignore")
        data = load_data(TrainConfig(data=str(root), classes=classes))
        assert data.classes.names == ("dog", "cat")
        assert data.partition.labeled[0].mask is not None
        label = data.classes.encode(data.partition.labeled[0].mask.read())
        assert [label[5, 5], label[15, 15], label[0, 25], label[17, 2]] == [0, 1, 255, 255]

    @pytest.mark.parametrize("text", ["background\ndog\ncat\n", "dog\ncat\n", "dog 1 2 3\ncat 4 5 6\n"])
    def test_a_class_list_beside_the_files(self, root: Path, text: str) -> None:
        labelme(root, *self.DOG_AND_CAT)
        (root / "classes.txt").write_text(text)
        self.check(root, ClassesConfig())

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            (ClassesConfig(names=["dog", "cat"]), r"leaves out background of the annotation files"),
            (ClassesConfig(names=["background", "hound", "cat"]), r"lists 'hound', which is none of .*: background, cat, dog"),
            (ClassesConfig(names=["background", "dog", "cat"], ids=[0, 1, 2]), r"classes\.ids numbers mask values"),
        ],
    )
    def test_names_that_are_not_those_of_the_files(self, root: Path, classes: ClassesConfig, message: str) -> None:
        labelme(root, *self.DOG_AND_CAT)
        with pytest.raises(ValueError, match=message):
            load_data(TrainConfig(data=str(root), classes=classes))

    def test_a_class_list_that_lacks_one(self, root: Path) -> None:
        labelme(root, *self.DOG_AND_CAT)
        (root / "classes.txt").write_text("background\nhound\ncat\n")
        with pytest.raises(ValueError, match="the annotation files dog too"):
            open_dataset(root)
