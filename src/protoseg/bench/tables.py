"""Finished cells -> tables. Every number is over seeds, every difference is paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable
from scipy import stats

from protoseg.bench.cells import base_of

Row = Mapping[str, Any]
_BEST = "best step on the scored images: too high, not to be reported"


class Table(NamedTuple):
    """Attributes: what stands above each column; the cells of each line."""

    titles: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        head, *body = (f"| {' | '.join(line)} |" for line in [self.titles, *self.lines])
        return "\n".join([head, f"|{'---|' * len(self.titles)}", *body])

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(*self.titles)
        for line in self.lines:
            table.add_row(*line)
        for column in table.columns[1:]:
            column.justify = "right"
        return table


def score_table(
    rows: Sequence[Row], methods: Sequence[str], *, against: Sequence[str], time: Literal["seconds", "hours"] = "hours"
) -> Table:
    """Mean and standard deviation of every method, and what it is ahead of some of them.

    Args:
        rows: finished cells that differ by method and seed alone.
        methods: in the order of the table; those without a finished cell are left out.
        against: methods with a column of differences to them.
        time: unit of the last column.

    Returns:
        The table. A column for the best step is there where every cell was scored on the way, one for images a second or peak
        memory where any cell knows it.
    """
    methods = [method for method in methods if any(row["method"] == method for row in rows)]
    has_curve = bool(rows) and all(row.get("curve") for row in rows)
    speeds, memory = (any(row.get(key) for row in rows) for key in ("images_per_second", "peak_bytes"))
    titles = ["method", "seeds", "mIoU, last step", *([_BEST] if has_curve else []), *(f"against {name}" for name in against)]
    titles += ["steps", *(["images/s"] if speeds else []), *(["peak memory"] if memory else []), f"{time} a run"]
    lines = []
    for method in methods:
        cells = cells_of(rows, method)
        line = [method, _seeds(cells), spread([100 * row["miou"] for row in cells.values()])]
        if has_curve:
            line.append(spread([100 * max(miou for _, miou in row["curve"]) for row in cells.values()]))
        line += ["" if name == method else difference(gains(rows, method, name)) for name in against]
        line.append(", ".join(sorted({str(row["steps"]) for row in cells.values()}, key=int)))
        if speeds:
            line.append(_median(cells, "images_per_second", "{:.1f}"))
        if memory:
            line.append(_median(cells, "peak_bytes", "{:.2f} GiB", scale=2**30))
        form, scale = ("{:.0f}", 1) if time == "seconds" else ("{:.2f}", 3600)
        line.append(_median(cells, "seconds", form, scale=scale))
        lines.append(line)
    return Table(titles, lines)


class Added(NamedTuple):
    """What the prototype term adds to a method.

    Attributes:
        base: the method without it.
        gained: seed -> points of mIoU, of two seeds or more.
    """

    base: str
    gained: dict[int, float]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, in points."""
        return t_interval(list(self.gained.values()))

    @property
    def verdict(self) -> Literal["helps", "hurts", "not shown"]:
        words: dict[int, Literal["helps", "hurts", "not shown"]] = {1: "helps", -1: "hurts", 0: "not shown"}
        return words[sign_of(*self.interval)]


def added_by_term(rows: Sequence[Row], methods: Sequence[str]) -> list[Added]:
    """For each method that is there with and without the term, for two seeds or more."""
    found = [Added(base, gains(rows, method, base)) for method, base in with_and_without(methods)]
    return [added for added in found if len(added.gained) > 1]


def with_and_without(methods: Sequence[str]) -> list[tuple[str, str]]:
    """The methods with the prototype term whose base is there too, each with it."""
    return [(method, base) for method in methods if (base := base_of(method) or "") in methods]


def sign_of(low: float, high: float) -> int:
    """What an interval of a difference shows: 1 better, -1 worse, 0 neither."""
    return 1 if low > 0 else -1 if high < 0 else 0


def term_table(rows: Sequence[Row], methods: Sequence[str]) -> Table | None:
    """`added_by_term` as a table; None where there is none."""
    lines = []
    for added in added_by_term(rows, methods):
        low, high = added.interval
        mean = spread(list(added.gained.values()), signed=True)
        lines.append([added.base, ", ".join(map(str, added.gained)), mean, f"{low:+.1f} to {high:+.1f}", added.verdict])
    return Table(["method", "seeds", "the term adds", "95 % interval", ""], lines) if lines else None


def class_table(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """Mean IoU over seeds of every class; empty where a class is in none of the scored images."""
    methods = [method for method in methods if any(row["method"] == method for row in rows)]
    lines = []
    for name in rows[0]["iou"]:
        line = [name]
        for method in methods:
            values = [100 * row["iou"][name] for row in rows if row["method"] == method and row["iou"][name] is not None]
            line.append(f"{statistics.mean(values):.1f}" if values else "")
        lines.append(line)
    return Table(["class", *methods], lines)


def mean_curves(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, dict[int, float]]:
    """Method -> step -> mean mIoU over the seeds that were scored on the way.

    Steps that one of these lacks are left out: a mean over other seeds would be a jump that no run has made. So are methods
    with fewer than two steps.
    """
    curves = {}
    for method in methods:
        scored = [dict(row["curve"]) for row in cells_of(rows, method).values() if row.get("curve")]
        steps = sorted(set[int]().union(*scored).intersection(*scored))
        if len(steps) > 1:
            curves[method] = {step: statistics.mean(curve[step] for curve in scored) for step in steps}
    return curves


def best_method(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """The one with the highest mean mIoU over its seeds; an empty name where none has a cell."""
    scores = {method: [row["miou"] for row in rows if row["method"] == method] for method in methods}
    return max((method for method in scores if scores[method]), key=lambda method: statistics.mean(scores[method]), default="")


def confusion_of(rows: Sequence[Row], method: str) -> NDArray[np.int64] | None:
    """(C, C) pixels of each true class (rows) that a method predicts as each class, summed over seeds; None without."""
    known = [row["confusion"] for row in cells_of(rows, method).values() if row.get("confusion")]
    return np.sum(known, axis=0, dtype=np.int64) if known else None


def warnings(rows: Sequence[Row]) -> list[str]:
    """What to know before the numbers, in words: differences that are not paired, and trainings with alarms."""
    alarms = [f"{row['method']}, seed {row['seed']}, {text}" for row in rows for text in row.get("alarms", ())]
    return [*mixed_images(rows), *alarms]


def mixed_images(rows: Sequence[Row]) -> list[str]:
    """Seeds whose cells did not see the same images, in words: their differences are not paired."""
    seen: dict[int, dict[str, list[str]]] = {}
    for row in rows:
        seen.setdefault(row["seed"], {}).setdefault(row["split"]["hash"], []).append(row["method"])
    return [
        f"seed {seed}: the methods did not get the same images ("
        + "; ".join(f"{digest}: {', '.join(methods)}" for digest, methods in by_hash.items())
        + "), so their difference is not paired"
        for seed, by_hash in sorted(seen.items())
        if len(by_hash) > 1
    ]


def cells_of(rows: Sequence[Row], method: str) -> dict[int, Row]:
    """Seed -> cell of a method, by seed."""
    own = sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["seed"]))
    return {row["seed"]: row for row in own}


def gains(rows: Sequence[Row], method: str, reference: str) -> dict[int, float]:
    """Seed -> points of mIoU that a method is ahead of another, for the seeds of both."""
    own, other = cells_of(rows, method), cells_of(rows, reference)
    return {seed: 100 * (own[seed]["miou"] - other[seed]["miou"]) for seed in own if seed in other}


def difference(gained: Mapping[int, float]) -> str:
    """`-0.6 ± 0.5 (-1.8 to +0.5)`: mean, standard deviation and 95 % interval; the mean alone of one seed."""
    values = list(gained.values())
    if not values:
        return ""
    if len(values) < 2:
        return spread(values, signed=True)
    low, high = t_interval(values)
    return f"{spread(values, signed=True)} ({low:+.1f} to {high:+.1f})"


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean, by Student's t over two values or more."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """`41.2 ± 0.7`: mean and sample standard deviation."""
    mean = statistics.mean(values)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.1f}"


def _seeds(cells: Mapping[int, Row]) -> str:
    return ", ".join(map(str, cells))


def _median(cells: Mapping[int, Row], key: str, form: str, *, scale: float = 1) -> str:
    """The median of a cost over the cells that know it."""
    values = [row[key] / scale for row in cells.values() if row.get(key)]
    return form.format(statistics.median(values)) if values else ""
