"""A benchmark as one HTML page that asks nobody for anything: what helped, how sure that is, and what it took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from protoseg.bench import plot
from protoseg.bench.compared import Found, compare, headline
from protoseg.bench.pictures import Shown, read_pictures
from protoseg.bench.remains import report_of
from protoseg.bench.tables import (
    Table,
    best_method,
    cells_of,
    class_table,
    confusion_of,
    mean_curves,
    score_table,
    warnings,
    with_and_without,
)
from protoseg.files import write_text
from protoseg.report.charts import Series, line_chart
from protoseg.report.html import css_color, data_uri, environment, inlined, percent
from protoseg.report.page import DEEP, MatrixRow, confusions, embedded, matrix_rows
from protoseg.words import counted

Row = Mapping[str, Any]


class Column(NamedTuple):
    """The cells of one number of labels. Attributes: title; where its lists come from; finished cells."""

    title: str
    source: str
    rows: Sequence[Row]


class Confused(NamedTuple):
    """What a method takes for what. Attributes: its name; the largest mistakes; the confusion matrix, empty of many classes."""

    method: str
    mistakes: list[tuple[str, str, float]]
    matrix: list[MatrixRow]


class Looks(NamedTuple):
    """A few images as the methods of a column see them. Attributes: where the choice comes from; images, for `pictures.html`;
    legend, `name` and `color` of each class; the method that shows at first."""

    chosen: str
    examples: list[dict[str, Any]]
    classes: list[dict[str, str]]
    first: str


class Group(NamedTuple):
    """What the page shows of a column. `reached`: the mIoU of the best method and of the measure, in words."""

    title: str
    source: str
    reached: str
    term: tuple[Found, ...]
    unlabeled: tuple[Found, ...]
    warnings: tuple[str, ...]
    scores: Table
    classes: Table
    curves: Markup
    confused: tuple[Confused, ...]
    looks: Looks | None


def write_page(
    path: Path,
    columns: Sequence[Column],
    methods: Sequence[str],
    *,
    against: Sequence[str],
    name: str,
    layout: str,
    command: str | None,
    pictures: Path,
    trainings: Path,
    legend: str,
) -> None:
    """Write the page of finished cells.

    Args:
        path: of the page.
        columns: of the grid, those with a finished cell.
        methods: of the grid.
        against: methods with a column of differences to them; of those without unlabelled images the first is the measure.
        name: of the data.
        layout: as which it is read.
        command: that started the grid; None where it was no command.
        pictures, trainings: folders of `keep_pictures` and `keep_remains`, beside the page.
        legend: what the numbers are.
    """
    groups = [_group(column, methods, against, pictures, trainings) for column in columns]
    rows = [row for column in columns for row in column.rows]
    links = [_link(row, path.parent, trainings) for row in rows]
    templates = environment("protoseg.bench")
    templates.filters["percent"] = percent
    text = templates.get_template("bench.html").render(
        title=f"{name}: protoseg benchmark",
        **inlined(templates, styles=("page.css", "bench.css"), scripts=("page.js",)),
        name=name,
        layout=layout,
        cells=counted(len(rows), "finished training", "finished trainings"),
        headline=headline([f for g in groups for f in g.term], [f for g in groups for f in g.unlabeled]),
        one_seed=any(not found.over_seeds for group in groups for found in (*group.term, *group.unlabeled)),
        groups=groups,
        deep=DEEP,
        plots=[data_uri(plot.png(rows, methods, look), "png") for look in (plot.LIGHT, plot.DARK)],
        legend=legend,
        command=command,
        trainings=_trainings(rows, links),
        linked=any(links),
        facts=list(_facts(rows)),
    )
    write_text(path, text)


def _group(column: Column, methods: Sequence[str], against: Sequence[str], pictures: Path, trainings: Path) -> Group:
    rows = column.rows
    measure = next((name for name in against if name in ("supervised", "labels only")), "")
    best = best_method(rows, [method for method in methods if method != measure])
    looks, damaged = None, list[str]()
    try:
        looks = _looks(read_pictures(pictures, rows[0]), methods, best)
    except ValueError as error:  # the numbers do not need them
        damaged.append(str(error))
    term = [(f"the prototype term on {base}", method, base) for method, base in with_and_without(methods)]
    unlabeled = [(f"{method} against {measure}", method, measure) for method in methods if measure not in ("", method)]
    term_found, term_damaged = compare(rows, term, trainings)
    unlabeled_found, unlabeled_damaged = compare(rows, unlabeled, trainings)
    return Group(
        column.title,
        column.source,
        "; ".join(_reached(rows, best, measure)),
        tuple(term_found),
        tuple(unlabeled_found),
        tuple(dict.fromkeys([*warnings(rows), *damaged, *term_damaged, *unlabeled_damaged])),
        score_table(rows, methods, against=against),
        class_table(rows, methods),
        _curves(rows, methods),
        tuple(_confused(rows, [best, measure])),
        looks,
    )


def _reached(rows: Sequence[Row], best: str, measure: str) -> Iterator[str]:
    """The mIoU of two methods, in words; of those that have run."""
    for what, method in (("the best on these images, ", best), ("", measure)):
        if cells := cells_of(rows, method):
            mean = statistics.mean(row["miou"] for row in cells.values())
            over = f"mean over {counted(len(cells), 'seed')}" if len(cells) > 1 else "one seed"
            yield f"{what}{method} {percent(mean)} % mIoU, {over}"


def _looks(shown: Shown | None, methods: Sequence[str], best: str) -> Looks | None:
    """The pictures of a column, of the methods that the page is about."""
    if shown is None or not set(shown.methods) & set(methods):
        return None
    kept = {"truth", *methods}
    examples = [{**one, "layers": [layer for layer in one["layers"] if layer["name"] in kept]} for one in shown.examples]
    chosen = (
        f"by the mean IoU of {shown.method}, seed {shown.seed}, over the classes that an image holds: as it chose them, the "
        f"others tend to look better on its worst images than they are, and worse on its best"
    )
    classes = [{"name": name, "color": css_color(color)} for name, color in zip(shown.classes, shown.colors, strict=True)]
    first = best if best in shown.methods else examples[0]["layers"][-1]["name"]
    return Looks(chosen, embedded(examples, shown.folder), classes, first)


def _confused(rows: Sequence[Row], methods: Sequence[str]) -> Iterator[Confused]:
    names = list(rows[0]["iou"])
    for method in methods:
        if (confusion := confusion_of(rows, method)) is not None:
            yield Confused(method, confusions(confusion, names), matrix_rows(confusion, names))


def _curves(rows: Sequence[Row], methods: Sequence[str]) -> Markup:
    """mIoU over the steps; empty where no training was scored on the way."""
    curves = mean_curves(rows, methods)
    steps = sorted(set[int]().union(*curves.values()))
    lines = [Series(method, [curve.get(step, math.nan) for step in steps]) for method, curve in curves.items()]
    return Markup(line_chart("mIoU over optimizer steps", steps, lines, share=True))


_TITLES = ("labels", "method", "seed", "mIoU", "report", "steps", "seconds", "machine", "finished", "command")


def _trainings(rows: Sequence[Row], links: Sequence[Markup]) -> Table:
    """All of them, with their reports where one is there."""
    lines = []
    for row, link in zip(rows, links, strict=True):
        words = [str(row["steps"]), f"{row['seconds']:.0f}", row["machine"], row["finished"], row["command"]]
        lines.append([str(row["labeled"]), row["method"], str(row["seed"]), f"{100 * row['miou']:.1f}", link, *words])
    shown = [i for i, title in enumerate(_TITLES) if title != "report" or any(links)]
    return Table([_TITLES[i] for i in shown], [[line[i] for i in shown] for line in lines])


def _link(row: Row, folder: Path, trainings: Path) -> Markup:
    """To the report of a training, relative to the page's folder, so that all of it can be moved; empty where it is gone."""
    if (report := report_of(trainings, row)) is None:
        return Markup()
    name = f"report of {row['method']}, labels {row['labels']}, seed {row['seed']}"
    return Markup('<a href="{}" aria-label="{}">report</a>').format(quote(report.relative_to(folder).as_posix()), name)


def _facts(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """What all trainings have in common, or in how many ways they differ."""
    for title, values in (
        ("recipe", [row["recipe"] for row in rows]),
        ("settings", [row.get("settings", "") for row in rows]),
        ("scored on", [f"{counted(row['evaluated'], row['split']['evaluation'] + ' image')}" for row in rows]),
        ("unlabelled", [counted(row["unlabeled"], "image") for row in rows]),
        ("splits", [f"hash {row['split']['hash']}" for row in rows]),
        ("machine", [row["machine"] for row in rows]),
        ("versions", [", ".join(f"{name} {version}" for name, version in row["versions"].items() if version) for row in rows]),
    ):
        if different := [value for value in dict.fromkeys(values) if value]:
            yield title, "; ".join(different)
