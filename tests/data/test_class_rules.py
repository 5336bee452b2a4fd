"""Naming, ignoring and merging classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_folder import make_folder

from protoseg.data.check import check_labels
from protoseg.data.class_rules import ClassRules
from protoseg.data.formats import open_dataset
from protoseg.data.index import ClassTable, table_from_names
from protoseg.data.masks import pack
from protoseg.data.splits import make_partition

TABLE = table_from_names(["road", "car", "truck", "sky", "void"])
MASK = np.array([[0, 1, 2, 3, 4, 255]], dtype=np.uint8)


def encoded(table: ClassTable) -> list[str]:
    names = [*table.names, *["?"] * (256 - len(table))]
    return [names[i] for i in table.encode(MASK)[0]]


def test_no_rule_changes_nothing() -> None:
    assert ClassRules().apply(TABLE) == TABLE
    assert ClassRules().named(TABLE) is TABLE
    assert ClassRules().named(None) is None


def test_ignored_classes_are_not_labelled() -> None:
    table = ClassRules(ignore=["void", "car"]).apply(TABLE)
    assert table.names == ("road", "truck", "sky")
    assert encoded(table) == ["road", "?", "truck", "sky", "?", "?"]


@pytest.mark.parametrize("name", ["car", "vehicle"])
def test_merged_classes_are_one(name: str) -> None:
    table = ClassRules(merge={name: ["car", "truck"]}, ignore=["void"]).apply(TABLE)
    assert table.names == ("road", name, "sky")
    assert encoded(table) == ["road", name, name, "sky", "?", "?"]
    assert table.colors[1] == TABLE.colors[1]
    assert table.written == (0, 1, 3)
    assert table.decode(table.encode(MASK)).tolist() == [[0, 1, 1, 3, 255, 255]]


SCENE = table_from_names(["background", "road", "car"])


@pytest.mark.parametrize(
    ("rules", "names", "labels"),
    [
        (ClassRules(), ("background", "road", "car"), [0, 1, 2]),
        (ClassRules(background="ignore"), ("road", "car"), [255, 0, 1]),
        (ClassRules(background="road"), ("road", "car"), [0, 0, 1]),
        (ClassRules(background="way", merge={"way": ["road"]}), ("way", "car"), [0, 0, 1]),
        (ClassRules(background="ignore", ignore=["car"], merge={"way": ["road"]}), ("way",), [255, 0, 255]),
    ],
)
def test_the_rule_for_the_background(rules: ClassRules, names: tuple[str, ...], labels: list[int]) -> None:
    table = rules.apply(SCENE)
    assert table.names == names
    assert table.encode(np.array([[0, 1, 2]], dtype=np.uint8)).tolist() == [labels]


def test_a_rule_for_a_background_that_there_is_not() -> None:
    with pytest.raises(
        ValueError, match=r"classes.background is 'ignore', but no class is called 'background'.*road, car, truck"
    ):
        ClassRules(background="ignore").apply(TABLE)
    assert ClassRules(background="ignore").apply(TABLE, strict=False) == TABLE
    with pytest.raises(
        ValueError, match=r"classes.background is 'raod'; it takes class, ignore, or one of the classes road, car"
    ):
        ClassRules(background="raod").apply(SCENE)


def test_names_without_colors_read_index_masks_saved_as_rgb() -> None:
    table = ClassRules(["road", "sky"], ids=[3, 7]).named(None)
    assert table is not None
    colored = np.array([[pack((3, 3, 3)), pack((7, 7, 7)), pack((255, 255, 255))]], dtype=np.int32)
    assert table.encode(colored).tolist() == [[0, 1, 255]]


def test_names_with_ids_and_colors() -> None:
    rules = ClassRules(["void", "road", "sky"], ids=[0, 7, 255], colors=[[0, 0, 0], [128, 64, 128], [70, 130, 180]])
    table = rules.named(None)
    assert table is not None
    assert table.values == ((0, pack((0, 0, 0))), (7, pack((128, 64, 128))), (255, pack((70, 130, 180))))
    assert table.ignored == ()
    assert table.encode(np.array([[7, 255, 0]], dtype=np.uint8)).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (ClassRules(ignore=["bus"]), r"classes.ignore names 'bus', which is no class; the classes are road, car"),
        (ClassRules(merge={"car": ["car", "bus"]}), r"classes.merge.car names 'bus', which is no class"),
        (ClassRules(merge={"a": ["car"], "b": ["car"]}), r"classes.merge.b names 'car', which another rule names too"),
        (ClassRules(merge={"a": ["car"]}, ignore=["car"]), "another rule names too"),
        (ClassRules(merge={"sky": ["car", "truck"]}), "classes.merge.sky makes a class that there is already"),
        (ClassRules(merge={"road": ["car", "truck"]}), "classes.merge.road makes a class that there is already"),
    ],
)
def test_a_rule_that_does_not_fit(rules: ClassRules, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules.apply(TABLE)


def test_names_that_are_no_class_may_be_passed_over() -> None:
    assert ClassRules(ignore=["bus"], merge={"vehicle": ["car", "tram"]}).apply(TABLE, strict=False).names == (
        *("road", "vehicle", "truck", "sky", "void"),
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (ClassRules(ids=[0, 1]), "belong to classes.names"),
        (ClassRules(colors=[[0, 0, 0]]), "belong to classes.names"),
        (ClassRules(["a", "b"], ids=[0]), "must be as many"),
        (ClassRules(["a", "b"], ids=[0, 0]), "different numbers"),
        (ClassRules(["a", "b"], ids=[0, -1]), "different numbers"),
        (ClassRules(["a", "b"], colors=[[0, 0, 0], [1, 2]]), "three numbers"),
        (ClassRules(["a", "b"], colors=[[0, 0, 0], [1, 2, 256]]), "three numbers"),
        (ClassRules(["a", "a"]), "two classes are called 'a'"),
    ],
)
def test_names_that_make_no_table(rules: ClassRules, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules.named(None)


def test_rules_for_a_data_set(tmp_path: Path) -> None:
    index = open_dataset(make_folder(tmp_path, classes=("ground", "square", "disc")))
    report = check_labels(index, make_partition(index), ClassRules(merge={"shape": ["square", "disc"]}))
    plain = check_labels(index, make_partition(index))
    assert report.classes.names == ("ground", "shape")
    assert report.pixels.tolist() == [plain.pixels[0], plain.pixels[1] + plain.pixels[2]]
    with pytest.raises(ValueError, match="one class"):
        check_labels(index, make_partition(index), ClassRules(ignore=["square", "disc"]))
