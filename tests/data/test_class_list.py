"""Class names and colours from a file; each line that does not fit is named."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from protoseg.data.class_list import as_csv, read_class_list
from protoseg.data.index import ClassTable

FAULTS = [
    ("classes.txt", "", "is empty"),
    ("classes.txt", "\n \n", "is empty"),
    ("classes.txt", "sky\nroad\nsky\n", "'sky' twice"),
    ("classes.txt", "sky 1 2 3\nroad 1 2 3\n", r"colour \(1, 2, 3\) twice"),
    ("classes.txt", "sky 1 2 3\nroad\n", "'road' none"),
    ("classes.txt", "sky 1 2 300\n", "line 1.*0 to 255"),
    ("classes.txt", "#sky\nroad\n", "line 1: '#sky' begins with #"),
    ("classes.txt", "1 sky\n2 road\ncar\n", "beside 2 of 3 names, but none beside 'car'"),
    ("classes.txt", "1 sky\n1 road\n", "gives the mask value 1 twice"),
    ("classes.txt", "1 sky\n70000 road\n", "mask value 70000"),
    ("classes.txt", "1 255 0 0 sky\n", "line 1: .* begins with four numbers"),
    ("classes.txt", "['sky', 'road']\n", r"holds one line, .*; write one class name a line, without"),
    ("classes.csv", "", "is empty"),
    ("classes.csv", "name,r,g,b\n", "is empty"),
    ("classes.csv", "klasse,r,g,b\nsky,1,2,3\n", "columns klasse, r, g, b"),
    ("classes.csv", "name,r,g,b\nsky,1,2\n", "row 2 has 3 columns"),
    ("classes.csv", "name,r,g,b\nsky,1,2,x\n", "row 2.*0 to 255"),
    ("classes.csv", "value,name\n0,sky\nx,road\n", "row 3: 'x' is no mask value"),
    ("classes.csv", "value,name\n0,sky\n0,road\n", "gives the mask value 0 twice"),
    ("classes.csv", "value,name\n70000,sky\n", "mask value 70000"),
    ("labelmap.txt", "# label:color_rgb:parts:actions\n", "is empty"),
    ("labelmap.txt", "sky:1,2::\n", "line 1.*0 to 255"),
    ("labelmap.txt", "sky\n", "line 1.*0 to 255"),
    ("labelmap.txt", "sky:-1,2,3::\n", "line 1.*0 to 255"),
]


def test_names_in_the_order_of_the_values(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ground\nred square\ndisc\n")
    table = read_class_list(tmp_path)
    assert table is not None
    assert table.names == ("ground", "red square", "disc")
    assert table.written == (0, 1, 2)
    assert 255 in table.ignored


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("# my classes\nground\n#\nsky\n", ("ground", "sky"), (0, 1)),
        ("0 ground\n1 red square\n2 disc\n", ("ground", "red square", "disc"), (0, 1, 2)),
        ("1 cat\n2 dog\n", ("cat", "dog"), (1, 2)),
        ("1: cat\n7: dog\n", ("cat", "dog"), (1, 7)),
        ("1. cat\n2. dog\n", ("cat", "dog"), (1, 2)),
        ("cat,1\ndog, 2\n", ("cat", "dog"), (1, 2)),
        ("dog: 2\ncat: 1\n", ("dog", "cat"), (2, 1)),
        ("0 ground 0 0 0\n255 thing 255 0 0\n", ("ground", "thing"), (0, 255)),
        ("class 0\nclass 1\n", ("class 0", "class 1"), (0, 1)),
        ("0\n1\n2\n", ("0", "1", "2"), (0, 1, 2)),
        ("2 wheeler\ncar\nlorry\n", ("2 wheeler", "car", "lorry"), (0, 1, 2)),
        ("3.5 mm hole\nscratch\n", ("3.5 mm hole", "scratch"), (0, 1)),
    ],
)
def test_comments_and_numbers(tmp_path: Path, text: str, names: tuple[str, ...], values: tuple[int, ...]) -> None:
    (tmp_path / "classes.txt").write_text(text)
    table = read_class_list(tmp_path)
    assert table is not None
    assert (table.names, table.written) == (names, values)
    assert not set(table.ignored) & set(values)


@pytest.mark.parametrize("colors", [((1, 2, 3), (0, 0, 0), (255, 255, 255)), ((1, 2, 3), (0, 0, 0), (0, 0, 0))])
@pytest.mark.parametrize("values", [((7,), (0, 9), (255,)), ((1 << 24,), (4,), (5,))])
def test_what_is_written_is_read_again(
    tmp_path: Path, values: tuple[tuple[int, ...], ...], colors: tuple[tuple[int, int, int], ...]
) -> None:
    classes = ClassTable(("a, b", 'c "d"', "road"), values, colors, ignored=())
    (tmp_path / "classes.csv").write_text(as_csv(classes), encoding="utf-8")
    table = read_class_list(tmp_path)
    assert table is not None
    assert (table.names, table.written) == (classes.names, classes.written)
    assert (table.colors == colors) == (len(set(colors)) == 3)
    assert (255 in table.ignored) == (255 not in classes.written)


def test_no_list(tmp_path: Path) -> None:
    assert read_class_list(tmp_path) is None


def test_empty_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfroad \r\n\r\n sky\r\n")
    table = read_class_list(tmp_path)
    assert table is not None
    assert table.names == ("road", "sky")


@pytest.mark.parametrize(("file", "text", "message"), FAULTS)
def test_what_does_not_fit_stops_and_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_class_list(tmp_path)
    assert str(tmp_path / file) in str(caught.value)


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("Straße\nFluß\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt is not a text file in UTF-8; save it"):
        read_class_list(tmp_path)


@pytest.mark.parametrize(
    "text", ["sky 1 2 171\nred road = 4 5 6\n", "sky #0102AB\nred road: #040506\n", "1 2 171 sky\n4,5,6 red road\n"]
)
def test_colors_in_every_way(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    table = read_class_list(tmp_path)
    assert table is not None
    assert (table.names, table.colors) == (("sky", "red road"), ((1, 2, 171), (4, 5, 6)))


@pytest.mark.parametrize("separator", [",", ", ", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, separator: str) -> None:
    rows = [("Name", "R", "G", "B"), ("sky", "1", "2", "3"), ("road, wet" if separator == ";" else "road", "4", "5", "6")]
    (tmp_path / "classes.csv").write_bytes(("\ufeff" + "\r\n".join(map(separator.join, rows))).encode())
    table = read_class_list(tmp_path)
    assert table is not None
    assert (table.names, table.colors) == (("sky", rows[2][0]), ((1, 2, 3), (4, 5, 6)))


def test_a_cell_without_end(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text('name\n"' + "a" * 200_000 + '"\n')
    with pytest.raises(ValueError, match=r"classes\.csv is no table of classes"):
        read_class_list(tmp_path)


def test_two_lists(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "labelmap.txt").write_text("a:1,2,3::\n")
    with pytest.raises(ValueError, match=r"classes\.txt and .*labelmap\.txt both"):
        read_class_list(tmp_path)


@pytest.mark.parametrize("line", [",", "road,", "1 1 1,", "road ;,", "1;", "road #", " "])
def test_a_long_line_takes_no_longer_than_its_length(tmp_path: Path, line: str) -> None:
    """What stands before a gap was looked for in each place of it: minutes."""
    (tmp_path / "classes.txt").write_text(line + line[-1] * 100_000 + " x y\nsky\n")
    start = time.perf_counter()
    with suppress(ValueError):
        read_class_list(tmp_path)
    assert time.perf_counter() - start < 1


def test_what_stands_between_name_and_color_is_no_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("road,, 1 2 3\nC# ; #040506\nx,y;\t7,8,9\n")
    classes = read_class_list(tmp_path)
    assert classes is not None
    assert (classes.names, classes.colors) == (("road", "C#", "x,y"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
