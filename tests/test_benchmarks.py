"""The benchmarks' bookkeeping: a finished cell is not run again, and never stands for another one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import doctor
import grid
from protoseg.data.duplicates import perceptual_hash
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image

CELL = {"method": "prototypes", "seed": 0, "recipe": "demo@12345678"}


@pytest.mark.parametrize(
    ("row", "same"),
    [
        (CELL, True),
        (CELL | {"miou": 0.5, "steps": 3}, True),
        (CELL | {"seed": 1}, False),
        (CELL | {"recipe": "demo@87654321"}, False),
        (CELL | {"settings": "--optimizer.lr 1"}, False),
        (CELL | {"size": "48"}, False),
        ({"method": "prototypes", "seed": 0}, False),
    ],
)
def test_which_row_is_a_cell(row: dict[str, object], same: bool) -> None:
    assert grid.is_cell(row, CELL) is same


def test_which_row_is_a_tuned_cell() -> None:
    tuned = CELL | {"settings": "--optimizer.lr 1"}
    assert grid.is_cell(tuned, tuned)
    assert not grid.is_cell(CELL, tuned)


@pytest.mark.parametrize(
    ("gains", "line"),
    [
        # By hand: a mean of 3, a deviation of 2.1602 and t(0.975, 3) = 3.1824.
        ([1.0, 2.0, 3.0, 6.0], "| m | 0, 1, 2, 3 | +3.0 \u00b1 2.2 | -0.4 to +6.4 | not shown |"),
        ([2.0, 2.1, 2.2], "| m | 0, 1, 2 | +2.1 \u00b1 0.1 | +1.9 to +2.3 | helps |"),
        ([-2.0, -2.1, -2.2], "| m | 0, 1, 2 | -2.1 \u00b1 0.1 | -2.3 to -1.9 | hurts |"),
    ],
)
def test_what_the_term_adds(gains: list[float], line: str) -> None:
    rows = [{"method": "m", "seed": seed, "miou": 0.5} for seed in range(5)]
    rows += [{"method": "m+prototypes", "seed": seed, "miou": 0.5 + gain / 100} for seed, gain in enumerate(gains)]
    assert grid.term_table(rows, ["m", "m+prototypes"]).splitlines()[2:] == [line]
    assert grid.term_table(rows, ["m"]) == ""


def test_table_pairs_by_seed() -> None:
    rows = [
        {"method": method, "seed": seed, "miou": miou, "steps": 9, "seconds": 2.0, "iou": {"a": miou, "b": None}}
        for method, seed, miou in [("x", 0, 0.1), ("x", 1, 0.5), ("y", 1, 0.6), ("y", 0, 0.2), ("y", 2, 0.7)]
    ]
    x, y = grid.table(rows, ["x", "y"]).splitlines()[2:]
    assert x == "| x | 0, 1 | 30.0 \u00b1 28.3 |  | 9 | 2 |"
    assert y == "| y | 0, 1, 2 | 50.0 \u00b1 26.5 | +10.0 \u00b1 0.0 | 9 | 2 |"
    assert grid.class_table(rows, ["x", "y"]).splitlines()[2:] == ["| a | 30.0 | 50.0 |", "| b |  |  |"]


def test_the_doctor_is_timed_on_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--images", "8", "--labeled", "4", "--test", "2", "--repeats", "1"])
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[:2] == ["| 8", "6"]
    assert min(float(row[3]), float(row[6])) > 0
    assert row[4].endswith("in 1 runs")

    doctor.write_images(tmp_path, 8, labeled=4, test=2)
    index = open_dataset(tmp_path)
    assert [(sample.split, sample.mask is not None) for sample in index.samples] == (
        [("test", True)] * 2 + [("train", True)] * 4 + [("train", False)] * 2
    )
    images = [read_image(sample.image) for sample in index.samples]
    assert {image.shape for image in images} == {(375, 500, 3)}
    assert len({perceptual_hash(image) for image in images}) == 8
    with pytest.raises(ValueError, match="--labeled 7 and --test 2 are more than --images 8"):
        doctor.write_images(tmp_path, 8, labeled=7, test=2)
