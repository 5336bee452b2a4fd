"""Tables over finished cells, against numbers worked out by hand or by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from protoseg.bench import tables
from protoseg.bench.tables import Table, class_table, difference, gains, mixed_images, score_table, term_table


def row(method: str, seed: int, miou: float, **own: Any) -> dict[str, Any]:
    return {"method": method, "seed": seed, "miou": miou, "steps": 9, "seconds": 7200.0, "iou": {"a": miou, "b": None}} | own


ROWS = [row("x", 0, 0.1), row("x", 1, 0.5), row("y", 1, 0.6), row("y", 0, 0.2), row("y", 2, 0.7)]


def lines(table: Table | None) -> list[str]:
    assert table is not None
    return table.markdown().splitlines()[2:]


def test_pairs_by_seed() -> None:
    x, y = lines(score_table(ROWS, ["x", "y"], against=["x"], time="seconds"))
    assert x == "| x | 0, 1 | 30.0 ± 28.3 |  | 9 | 7200 |"
    assert y == "| y | 0, 1, 2 | 50.0 ± 26.5 | +10.0 ± 0.0 (+10.0 to +10.0) | 9 | 7200 |"
    assert lines(class_table(ROWS, ["x", "y"])) == ["| a | 30.0 | 50.0 |", "| b |  |  |"]


def test_a_reference_that_is_not_there_yet_and_a_method_without_cells() -> None:
    table = score_table(ROWS, ["x", "y", "z"], against=["z"])
    assert table.markdown().splitlines()[0] == "| method | seeds | mIoU, last step | against z | steps | hours a run |"
    assert lines(table) == ["| x | 0, 1 | 30.0 ± 28.3 |  | 9 | 2.00 |", "| y | 0, 1, 2 | 50.0 ± 26.5 |  | 9 | 2.00 |"]
    assert "z" not in class_table(ROWS, ["x", "z"]).titles


def test_the_best_step_is_there_where_every_cell_has_a_curve_and_says_what_it_is() -> None:
    rows = [row("x", 0, 0.4, curve=[[5, 0.45], [9, 0.4]]), row("x", 1, 0.5, curve=[[5, 0.41], [9, 0.5]])]
    table = score_table(rows, ["x"], against=[])
    assert "best step on the scored images: too high, not to be reported" in table.markdown().splitlines()[0]
    assert lines(table)[0].startswith("| x | 0, 1 | 45.0 ± 7.1 | 47.5 ± 3.5 |")  # of 45 and 50
    rows.append(row("x", 2, 0.5, curve=[]))
    assert "best step" not in score_table(rows, ["x"], against=[]).markdown()


def test_costs_are_medians_of_the_cells_that_know_them() -> None:
    rows = [row("x", seed, 0.4, seconds=s, images_per_second=s / 100) for seed, s in enumerate((1800.0, 3600.0, 36000.0))]
    rows[0]["peak_bytes"] = 3 * 2**29
    rows.append(row("y", 0, 0.4, images_per_second=None))
    table = score_table(rows, ["x", "y"], against=[])
    assert table.markdown().splitlines()[0].endswith("| steps | images/s | peak memory | hours a run |")
    assert lines(table)[0].endswith("| 9 | 36.0 | 1.50 GiB | 1.00 |")
    assert lines(table)[1].endswith("| 9 |  |  | 2.00 |")


def test_the_interval_is_students() -> None:
    values = list(np.random.default_rng(0).normal(1, 2, 7))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert tables.t_interval(values) == pytest.approx((low, high))
    assert (
        difference(dict(enumerate(values)))
        == f"{np.mean(values):+.1f} ± {np.std(values, ddof=1):.1f} ({low:+.1f} to {high:+.1f})"
    )
    assert difference({3: 1.26}) == "+1.3"
    assert difference({}) == ""


def test_gains_are_points() -> None:
    assert gains(ROWS, "y", "x") == pytest.approx({0: 10, 1: 10})
    assert gains(ROWS, "y", "nothing") == {}


@pytest.mark.parametrize(
    ("gained", "line"),
    [
        # By hand: a mean of 3, a deviation of 2.1602 and t(0.975, 3) = 3.1824.
        ([1.0, 2.0, 3.0, 6.0], "| m | 0, 1, 2, 3 | +3.0 ± 2.2 | -0.4 to +6.4 | not shown |"),
        ([2.0, 2.1, 2.2], "| m | 0, 1, 2 | +2.1 ± 0.1 | +1.9 to +2.3 | helps |"),
        ([-2.0, -2.1, -2.2], "| m | 0, 1, 2 | -2.1 ± 0.1 | -2.3 to -1.9 | hurts |"),
    ],
)
def test_what_the_term_adds(gained: list[float], line: str) -> None:
    rows = [row("m", seed, 0.5) for seed in range(5)]
    rows += [row("m+prototypes", seed, 0.5 + gain / 100) for seed, gain in enumerate(gained)]
    assert lines(term_table(rows, ["m", "m+prototypes"])) == [line]
    assert term_table(rows, ["m"]) is None
    assert term_table(rows, ["m+prototypes"]) is None  # its base was not asked for
    named = [{**cell, "method": "prototypes" if "+" in cell["method"] else "CutMix teacher"} for cell in rows]
    assert lines(term_table(named, ["CutMix teacher", "prototypes"])) == [line.replace("| m |", "| CutMix teacher |")]


def test_other_images_are_noticed() -> None:
    same = [row(method, 0, 0.5, split={"hash": "aa"}) for method in ("x", "y")]
    other = [row("x", 1, 0.5, split={"hash": "aa"}), row("y", 1, 0.5, split={"hash": "bb"})]
    assert mixed_images(same) == []
    (text,) = mixed_images([*same, *other])
    assert text == "seed 1: the methods did not get the same images (aa: x; bb: y), so their difference is not paired"
