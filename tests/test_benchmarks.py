"""The benchmarks' bookkeeping: a finished cell is not run again, and never stands for another one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import grid
from protoseg.arguments import parse_train

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


@pytest.mark.parametrize("recipe", ["demo", "camvid"])
def test_contestants_differ_in_nothing_but_the_method(recipe: str) -> None:
    labels, teacher, prototypes = (parse_train(["data", "--recipe", recipe, *words]) for words in grid.METHODS.values())
    assert [config.prototypes.per_class for config in (labels, teacher, prototypes)] == [0, 0, 4]
    assert prototypes.consistency.ema_momentum == 0.99
    for config in (labels, teacher):
        assert config.consistency.ema_momentum == prototypes.consistency.ema_momentum
        assert config.consistency.warmup_steps == prototypes.consistency.warmup_steps
        for part in ("steps", "crop", "batch", "model", "optimizer", "views", "loss", "trainer"):
            assert getattr(config, part) == getattr(prototypes, part), part
