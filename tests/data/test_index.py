"""Mask values and class ids."""

from __future__ import annotations

import numpy as np
import pytest

from protoseg.data.index import ClassTable, default_colors, table_from_names, table_from_values

TABLE = ClassTable(("a", "b", "c"), ((7,), (0,), (200,)), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), ignored=(255, 11))


def test_encode_and_decode() -> None:
    mask = np.array([[7, 0, 200], [255, 11, 7]], dtype=np.uint8)
    label = TABLE.encode(mask)
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 1, 2], [255, 255, 0]]
    assert TABLE.decode(label).tolist() == [[7, 0, 200], [255, 255, 7]]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a\udcff", r"'a\\udcff' is no text in UTF-8"),
        ("", "'' is empty"),
        (" \t", r"' \\t' is empty"),
        ("a\nb", r"'a\\nb' holds a line break or another control letter"),
        ("a\u2028b", "holds a line break"),
        ("\x1b[31ma", r"'\\x1b\[31ma' holds .* another control letter"),
    ],
)
def test_a_name_that_no_list_could_hold_is_refused(name: str, why: str) -> None:
    """As JSON, YAML or the words of a command line may hold it."""
    with pytest.raises(ValueError, match=f"the class name {why}" if why.startswith("'") else why):
        table_from_names(["b", name])


@pytest.mark.parametrize("name", ["traffic\tlight", "家", "👨‍👩‍👧", "a\u00a0b", "[/b] <i>"])
def test_any_other_name_is_fine(name: str) -> None:
    assert table_from_names(["b", name]).names == ("b", name)


def test_palette_belongs_to_the_values() -> None:
    assert TABLE.palette() == {7: (1, 1, 1), 0: (2, 2, 2), 200: (3, 3, 3)}


def test_unknown_values_are_counted_and_stop() -> None:
    mask = np.array([[7, 3, 3], [0, 11, 4]], dtype=np.uint8)
    assert TABLE.unknown(mask) == {3: 2, 4: 1}
    with pytest.raises(ValueError, match=r"value 3 \(2 pixels\)"):
        TABLE.encode(mask)


@pytest.mark.parametrize("table", [TABLE, table_from_names([str(i) for i in range(255)]), table_from_values([5, 254])])
def test_every_class_comes_back(table: ClassTable) -> None:
    label = np.arange(len(table), dtype=np.uint8)
    assert (table.encode(table.decode(label)) == label).all()


def test_from_values() -> None:
    table = table_from_values([255, 9, 3, 9, 0])
    assert [values[0] for values in table.values] == [0, 3, 9]
    assert table.names == ("class 0", "class 3", "class 9")
    assert 255 in table.ignored


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        ClassTable(("a", "b"), ((0,),), ((0, 0, 0),))
    for number in (256, 2000):
        with pytest.raises(ValueError, match=f"at most 255 classes, got {number}: .* 'not labelled'; list fewer"):
            table_from_names([str(i) for i in range(number)])


def test_as_many_classes_as_there_may_be() -> None:
    table = table_from_values(range(256))  # 255 is no class
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert len(table) == 255
    assert (table.encode(mask) == mask).all()
    assert (table.decode(table.encode(mask)) == mask).all()


def test_150_colors_differ_from_each_other_and_from_ignored_black() -> None:
    colors = default_colors(150)
    assert len(set(colors)) == 150
    assert (0, 0, 0) not in colors
    near = np.array(default_colors(21), dtype=int)  # as many classes as Pascal VOC: an eye has to tell them apart
    distance = np.abs(near[:, None] - near[None]).max(axis=-1) + 999 * np.eye(21, dtype=int)
    assert distance.min() > 20
