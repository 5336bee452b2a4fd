"""Run folder -> report.html: one file without requests, for light and dark, small screens, paper and screen readers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from protoseg.data.masks import Color
from protoseg.engine.collapse import describe
from protoseg.files import replacing
from protoseg.report.charts import Series, interval_chart, iou_bar, line_chart, share_chart
from protoseg.report.compare import signed
from protoseg.report.gather import Part, Story, gather
from protoseg.report.html import css_color, environment, file_uri, inlined, percent

REPORT = "report.html"
_MOST_COLUMNS = 24  # classes of a confusion matrix that is shown whole
_MOST_SHARES = 24  # classes whose shares are drawn over time
_CONFUSIONS = 8  # that are put into words
DEEP = 0.82
"""Shares of a confusion matrix above which white text on the cell has more contrast than black."""
_MONITORS = {
    "teacher_agreement": "student and whoever labels agree",
    "prototype_agreement": "prototypes and classifier agree",
    "pseudo_distance": "distance of pseudo-labels from labels",
    "prototype_entropy": "even use of the prototypes",
    "dead_prototypes": "dead prototypes",
    "ema_distance": "distance of EMA weights and student",
}
"""Columns of metrics.csv that are shares, in words."""
_NO_LOSS = {"step", "seconds", "images_per_second", "lr", "loss", "confident", "miou", *_MONITORS}


def write_report(run: Path, *, scored: Path | None = None) -> Path:
    """Write the report of a run, or of an evaluation of its model.

    Args:
        run: folder of the run, or its model file.
        scored: folder that `evaluate` wrote, which gets the report; None for the run itself.

    Returns:
        The file.

    Raises:
        FileNotFoundError, ValueError: see `gather`.
        CannotWriteError: see `replacing`.
    """
    path = (scored or (run if run.is_dir() else run.parent)) / REPORT
    page = render(gather(run, scored=scored)).encode("utf-8", errors="backslashreplace")  # a path may be no text
    with replacing(path) as partial:
        partial.write_bytes(page)
    return path


def render(story: Story) -> str:
    """The page as text. The same story gives the same text: nothing in it tells when it was written."""
    templates = environment()
    confusion = story.ours.tally.confusion if story.ours.tally else None
    templates.filters |= {"percent": percent, "duration": duration, "signed": signed, "remedy": describe}
    return templates.get_template("page.html").render(
        story=story,
        title=f"{story.name}: protoseg report",
        **inlined(templates, styles=("page.css",), scripts=("page.js",)),
        interval=_interval(story),
        classes=class_rows(story),
        examples=embedded(story.examples, story.folder_of_examples),
        sheet=file_uri(story.sheet) if story.sheet else None,
        matrix=[] if confusion is None else matrix_rows(confusion, story.class_names, story.colors),
        deep=DEEP,
        confusions=[] if confusion is None else confusions(confusion, story.class_names),
        charts=list(_charts(story)),
        shares=_shares(story),
        settings=list(_flat(story.config)),
        speed=_speed(story.ours),
    )


class ClassRow(NamedTuple):
    """A class in the table of IoU."""

    name: str
    color: str
    ours: float | None
    theirs: float | None
    bar: Markup

    @property
    def gain(self) -> float | None:
        return None if self.ours is None or self.theirs is None else self.ours - self.theirs


def class_rows(story: Story) -> list[ClassRow]:
    """IoU of each class; none where nothing was scored."""
    if not story.ours.iou:
        return []
    theirs = story.baseline.iou if story.baseline else {}
    rows = []
    for name, color in zip(story.class_names, story.colors, strict=True):
        pair = story.ours.iou.get(name), theirs.get(name)
        rows.append(ClassRow(name, css_color(color), *pair, Markup(iou_bar(*pair))))
    return rows


class MatrixRow(NamedTuple):
    """A true class of the confusion matrix. Attributes: its share of all pixels; of its own pixels, the share of each class."""

    name: str
    color: str | None
    share: float
    cells: list[float]


def matrix_rows(confusion: NDArray[np.int64], names: Sequence[str], colors: Sequence[Color] = ()) -> list[MatrixRow]:
    """The confusion matrix by rows; of many classes, none: `confusions` names what matters.

    Args:
        confusion: (C, C) pixels, rows are the truth.
        names, colors: of the C classes; no colours where nobody knows them.
    """
    if len(names) > _MOST_COLUMNS:
        return []
    total = max(confusion.sum(), 1)
    return [
        MatrixRow(name, color, float(row.sum() / total), [float(c) for c in row / max(row.sum(), 1)])
        for name, color, row in zip(names, map(css_color, colors) if colors else [None] * len(names), confusion, strict=True)
    ]


def confusions(confusion: NDArray[np.int64], names: Sequence[str]) -> list[tuple[str, str, float]]:
    """The largest mistakes: true class, what it is taken for, and the share of its pixels."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [divmod(int(i), len(shares)) for i in order]
    return [(names[a], names[b], float(shares[a, b])) for a, b in pairs if shares[a, b] > 0]


class Chart(NamedTuple):
    title: str
    note: str
    svg: Markup


def _charts(story: Story) -> Iterator[Chart]:
    rows = story.ours.rows
    if not rows:
        return
    steps = [row["step"] for row in rows]
    columns = list(rows[0])

    def lines(names: dict[str, str]) -> list[Series]:
        return [Series(text, [row.get(name, math.nan) for row in rows]) for name, text in names.items()]

    terms = {name: name.replace("_", " ") for name in columns if name not in _NO_LOSS}
    monitors = {name: text for name, text in _MONITORS.items() if name in columns}
    drawn = [
        ("Loss", "the sum, and its terms before their weights", lines({"loss": "loss", **terms}), False),
        ("mIoU", "on the evaluation images, while it trained", _with_baseline(story, "miou", lines({"miou": "ours"})), True),
        ("Loss on labels", "both models", _with_baseline(story, "labeled", lines({"labeled": "ours"}), alone=False), False),
        (
            "Confident",
            "share of the pseudo-labelled pixels that are sure enough to teach",
            lines({"confident": "confident"}),
            True,
        ),
        ("Learning rate", "of the last group of parameters", lines({"lr": "learning rate"}), False),
        ("Health", "shares between 0 and 100 %", lines(monitors), True),
    ]
    for title, note, series, share in drawn:
        if svg := line_chart(title, steps, series, share=share):
            yield Chart(title, note, Markup(svg))


def _with_baseline(story: Story, column: str, ours: list[Series], *, alone: bool = True) -> list[Series]:
    """The same column of labels only, at the same steps; without one, our line or nothing."""
    if story.baseline is None or not story.baseline.rows:
        return ours if alone else []
    theirs = {row["step"]: row.get(column, math.nan) for row in story.baseline.rows}
    return [*ours, Series("labels only", [theirs.get(row["step"], math.nan) for row in story.ours.rows])]


class ShareRow(NamedTuple):
    name: str
    color: str
    labeled: float
    pseudo: float
    svg: Markup


def _shares(story: Story) -> list[ShareRow]:
    """Shares of the classes among labels and pseudo-labels over time, most frequent first."""
    rows = [row for row in story.ours.shares if len(row["labeled"]) == len(story.class_names)]
    if not any(row["pseudo"] for row in rows):
        return []
    labeled = np.array([row["labeled"] for row in rows])
    pseudo = np.array([row["pseudo"] or [math.nan] * labeled.shape[1] for row in rows])
    order = np.argsort(-labeled[-1], kind="stable")[:_MOST_SHARES]
    return [
        ShareRow(
            story.class_names[c],
            css_color(story.colors[c]),
            float(labeled[-1, c]),
            float(pseudo[-1, c]),
            Markup(share_chart(story.class_names[c], labeled[:, c].tolist(), pseudo[:, c].tolist())),
        )
        for c in order
    ]


def embedded(examples: Iterable[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Pictures as `pictures.html` wants them, inside the page. Args: rows of `engine.examples`; the folder that they are in."""
    shown = []
    for example in examples:
        layers = [layer | {"uri": file_uri(folder / Path(layer["picture"]).name)} for layer in example["layers"]]
        shown.append({**example, "layers": layers, "uri": file_uri(folder / Path(example["image"]).name)})
    return shown


def _interval(story: Story) -> Markup | None:
    return None if story.interval is None or story.gain is None else Markup(interval_chart(story.gain, story.interval))


def _speed(part: Part) -> float | None:
    values = [row["images_per_second"] for row in part.rows if math.isfinite(row.get("images_per_second", math.nan))]
    return median(values) if values else None


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their dotted names."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "" if value is None else str(value)


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
