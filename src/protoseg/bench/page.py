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
from protoseg.bench.cells import base_of, folder_of
from protoseg.bench.pictures import Shown, read_pictures
from protoseg.bench.tables import (
    Table,
    best_method,
    cells_of,
    class_table,
    confusion_of,
    gains,
    mean_curves,
    score_table,
    t_interval,
    warnings,
)
from protoseg.bench.tallies import images_interval
from protoseg.files import write_text
from protoseg.report.charts import Series, interval_chart, line_chart
from protoseg.report.compare import FEW, Interval, signed
from protoseg.report.html import css_color, data_uri, environment, inlined, percent
from protoseg.report.page import DEEP, REPORT, MatrixRow, confusions, embedded, matrix_rows
from protoseg.words import counted

Row = Mapping[str, Any]


class Column(NamedTuple):
    """The cells of one number of labels. Attributes: title; where its lists come from; finished cells."""

    title: str
    source: str
    rows: Sequence[Row]


class Found(NamedTuple):
    """One comparison. Attributes: sentence; `interval_chart` of it; whether it is better (1), worse (-1), or not shown; whether
    it is over seeds, or of one seed over its images."""

    sentence: str
    chart: Markup
    sign: int
    over_seeds: bool = True


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
    runs: Path,
    pictures: Path,
    tallies: Path,
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
        runs: folder of the run folders, beside the page; those that were kept are linked to.
        pictures, tallies: folders of `keep_pictures` and `keep_tally`.
        legend: what the numbers are.
    """
    groups = [_group(column, methods, against, pictures, tallies) for column in columns]
    rows = [row for column in columns for row in column.rows]
    links = [_link(row, runs) for row in rows]
    templates = environment("protoseg.bench")
    templates.filters["percent"] = percent
    text = templates.get_template("bench.html").render(
        title=f"{name}: protoseg benchmark",
        **inlined(templates, styles=("page.css", "bench.css"), scripts=("page.js",)),
        name=name,
        layout=layout,
        cells=counted(len(rows), "finished training", "finished trainings"),
        headline=headline(groups),
        groups=groups,
        deep=DEEP,
        plots=[data_uri(plot.png(rows, methods, look), "png") for look in (plot.LIGHT, plot.DARK)],
        legend=legend,
        command=command,
        trainings=_trainings(rows, links),
        kept=any(links),
        facts=list(_facts(rows)),
    )
    write_text(path, text)


def headline(groups: Sequence[Group]) -> tuple[str, int]:
    """The sentence to read first, and its sign. Comparisons over seeds count alone where there are any."""
    for what, all_found in (
        ("the prototype term", [found for group in groups for found in group.term]),
        ("training on unlabelled images", [found for group in groups for found in group.unlabeled]),
    ):
        over_seeds = [found for found in all_found if found.over_seeds]
        found = over_seeds or all_found
        if not found:
            continue
        if len(found) == 1:
            return found[0].sentence, found[0].sign
        better, worse = (sum(one.sign == sign for one in found) for sign in (1, -1))
        of = f"of {counted(len(found), 'comparison')}"
        basis = "" if over_seeds else ", with one seed: that is without run-to-run variation"
        if better and worse:
            return f"{what} helped in {better} and hurt in {worse} {of}{basis}", 0
        if better or worse:
            return f"{what} {'helped' if better else 'hurt'} in {better or worse} {of}{basis}", 1 if better else -1
        return f"{what}: no clear difference in {counted(len(found), 'comparison')}{basis}", 0
    return "no comparison yet: it needs two methods", 0


def _group(column: Column, methods: Sequence[str], against: Sequence[str], pictures: Path, tallies: Path) -> Group:
    rows = column.rows
    measure = next((name for name in against if name in ("supervised", "labels only")), "")
    best = best_method(rows, [method for method in methods if method != measure])
    warned = warnings(rows)
    try:
        looks = _looks(read_pictures(pictures, rows[0]), methods, best)
    except ValueError as error:  # the numbers do not need them
        looks, warned = None, [*warned, str(error)]
    term = [(f"the prototype term on {base}", method, base) for method in methods if (base := base_of(method) or "") in methods]
    unlabeled = [(f"{method} against {measure}", method, measure) for method in methods if measure not in ("", method)]
    return Group(
        column.title,
        column.source,
        "; ".join(_reached(rows, [best, measure])),
        tuple(_compared(rows, term, tallies, warned)),
        tuple(_compared(rows, unlabeled, tallies, warned)),
        tuple(warned),
        score_table(rows, methods, against=against),
        class_table(rows, methods),
        _curves(rows, methods),
        tuple(_confused(rows, [best, measure])),
        looks,
    )


def _compared(rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]], tallies: Path, warned: list[str]) -> Iterator[Found]:
    """Comparisons of methods with others, each called something. What cannot be read is warned of."""
    for what, method, base in pairs:
        try:
            found = _found(rows, what, method, base, tallies)
        except ValueError as error:
            warned.append(str(error))
        else:
            if found is not None:
                yield found


def _reached(rows: Sequence[Row], methods: Sequence[str]) -> Iterator[str]:
    for method in methods:
        if cells := cells_of(rows, method):
            mean = statistics.mean(row["miou"] for row in cells.values())
            over = f", mean over {counted(len(cells), 'seed')}" if len(cells) > 1 else ", one seed"
            yield f"{method} {percent(mean)} % mIoU{over}"


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


def _found(rows: Sequence[Row], what: str, method: str, base: str, tallies: Path) -> Found | None:
    """A comparison: over seeds where there are two or more, over the images of one; None where there is nothing to go by.

    Raises:
        ValueError: a tally is damaged.
    """
    gained = [gain / 100 for gain in gains(rows, method, base).values()]
    if len(gained) > 1:
        mean, interval = statistics.mean(gained), Interval(*t_interval(gained))
        basis = f"over {counted(len(gained), 'seed')}"
    else:
        pairs = [
            (row, cells_of(rows, base)[seed]) for seed, row in cells_of(rows, method).items() if seed in cells_of(rows, base)
        ]
        by_images = images_interval(tallies, *pairs[0]) if pairs else None
        if by_images is None:
            return None
        (mean,), (interval, images) = gained, by_images
        narrow = f" (fewer than {FEW}: the interval is too narrow)" if images < FEW else ""
        basis = (
            f"by paired bootstrap over {counted(images, 'image')}{narrow} of one seed, which leaves run-to-run variation out"
        )
    low, high = interval
    sign = 1 if low > 0 else -1 if high < 0 else 0
    said = {1: "better", -1: "worse", 0: "no clear difference"}[sign]
    sentence = f"{what}: {signed(mean)} points, 95 % interval {signed(low)} to {signed(high)} {basis}: {said}"
    return Found(sentence, Markup(interval_chart(mean, interval)), sign, len(gained) > 1)


_TITLES = ("labels", "method", "seed", "mIoU", "report", "steps", "seconds", "machine", "finished", "command")


def _trainings(rows: Sequence[Row], links: Sequence[Markup]) -> Table:
    """All of them, with their reports where one is there."""
    lines = []
    for row, link in zip(rows, links, strict=True):
        words = [str(row["steps"]), f"{row['seconds']:.0f}", row["machine"], row["finished"], row["command"]]
        lines.append([str(row["labeled"]), row["method"], str(row["seed"]), f"{100 * row['miou']:.1f}", link, *words])
    shown = [i for i, title in enumerate(_TITLES) if title != "report" or any(links)]
    return Table([_TITLES[i] for i in shown], [[line[i] for i in shown] for line in lines])


def _link(row: Row, runs: Path) -> Markup:
    """To the report of a training whose run folder was kept, relative, so that all of it can be moved; else empty."""
    folder = folder_of(row)
    if not (runs / folder / REPORT).is_file():
        return Markup()
    name = f"report of {row['method']}, labels {row['labels']}, seed {row['seed']}"
    return Markup('<a href="{}" aria-label="{}">report</a>').format(quote(f"{runs.name}/{folder}/{REPORT}"), name)


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
