"""Charts as SVG text: numbers in, markup out. Colours are CSS variables of the page, so that light and dark share a chart.

Whatever is text is escaped here: names of classes and loss terms come from files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from protoseg.report.compare import Interval, signed

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
"""Of the lines of a chart, in turn: they are told apart without colour too."""
_MOST_POINTS = 240  # of a line: more cannot be told apart at the size of a chart
_LABEL = 46  # between the middles of two numbers at an interval
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 220, 48, 20, 10, 26


class Series(NamedTuple):
    """A line of a chart. Attributes: what it is; its values, NaN where there is none."""

    name: str
    values: Sequence[float]


def ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart."""
    if not low < high:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.7 * raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """Three digits, as short as they go."""
    return "none" if math.isnan(value) else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def line_chart(title: str, steps: Sequence[float], series: Sequence[Series], *, share: bool = False) -> str:
    """Lines over the steps of a run; empty where no line has a value.

    Args:
        title: of the chart, for screen readers.
        steps: of all lines.
        series: the lines.
        share: values are shares: shown in percent, from 0 to 100.
    """
    series = [line for line in series if any(math.isfinite(value) for value in line.values)]
    if not series:
        return ""
    scored = [i for i in range(len(steps)) if any(math.isfinite(line.values[i]) for line in series)]  # mIoU is not in every row
    kept = [scored[i] for i in _thinned(len(scored))]
    x, start = [float(steps[i]) for i in kept], float(steps[0])
    factor = 100 if share else 1
    lines = [Series(line.name, [factor * line.values[i] for i in kept]) for line in series]
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    low, high = (0.0, 100.0) if share else (min(0.0, *finite), max(finite))
    if low == high:
        high = low + 1
    steps_up = ticks(low, high)
    if len(steps_up) > 1 and steps_up[-1] < high:
        steps_up.append(2 * steps_up[-1] - steps_up[-2])  # the line ends below a number, not above the last one
        high = steps_up[-1]
    span = max(float(steps[-1]) - start, 1e-9)

    def across(step: float) -> float:
        return _LEFT + (step - start) / span * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in steps_up:
        y = up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{tick:.3g}{' %' if share else ''}"
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in ticks(start, start + span):
        parts.append(f'<text x="{across(tick):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{tick:.6g}</text>')
    for i, line in enumerate(lines):
        path = _path([across(step) for step in x], [up(value) for value in line.values])
        dash = DASHES[i % len(DASHES)]
        parts.append(f'<path class="line c{i % 6}" d="{path}" stroke-dasharray="{dash}"/>')
    points = {
        "x": x,
        "at": [round(across(step), 1) for step in x],
        "names": [line.name for line in lines],
        "values": [[None if not math.isfinite(v) else float(f"{v:.4g}") for v in line.values] for line in lines],
        "unit": " %" if share else "",
    }
    spoken = f"{title}. " + " ".join(f"{line.name}: {_spoken(line.values, ' %' if share else '')}." for line in lines)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" tabindex="0" aria-label="{escape(spoken)}" '
        f'data-points="{escape(json.dumps(points))}">{"".join(parts)}'
        f'<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" x1="0" x2="0" visibility="hidden"/></svg>'
        f"{'' if [line.name.casefold() for line in lines] == [title.casefold()] else legend([line.name for line in lines])}"
    )


def legend(names: Sequence[str]) -> str:
    """What the lines of a chart are."""
    items = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path class="line c{i % 6}" d="M1 4H27" '
        f'stroke-dasharray="{DASHES[i % len(DASHES)]}"/></svg>{escape(name)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def share_chart(name: str, labeled: Sequence[float], pseudo: Sequence[float]) -> str:
    """Share of a class among labels (dashed) and pseudo-labels (whole line) over time, on a scale of its own.

    Args:
        name: of the class.
        labeled, pseudo: shares, NaN where there are none.
    """
    kept = _thinned(len(labeled))
    lines = [[line[i] for i in kept] for line in (labeled, pseudo)]
    top = max((value for line in lines for value in line if math.isfinite(value)), default=0.0) or 1.0
    x = [160 * i / max(1, len(kept) - 1) for i in range(len(kept))]
    paths = [_path(x, [46 - 44 * value / top for value in line]) for line in lines]
    spoken = f"{name}: share of the labels {_spoken([100 * v for v in labeled], ' %')}, of the pseudo-labels "
    spoken += _spoken([100 * v for v in pseudo], " %")
    return (
        f'<svg class="spark" viewBox="0 0 160 48" role="img" aria-label="{escape(spoken)}">'
        f'<line class="grid" x1="0" x2="160" y1="46" y2="46"/>'
        f'<path class="line c1" d="{paths[0]}" stroke-dasharray="5 3"/><path class="line c0" d="{paths[1]}"/></svg>'
    )


def iou_bar(ours: float | None, theirs: float | None) -> str:
    """Two bars for a class: ours filled, labels only outlined. The numbers stand beside it in the table."""
    bars = []
    if ours is not None:
        height = 7 if theirs is not None else 12
        bars.append(f'<rect class="bar0" x="0.5" y="1" width="{199 * ours:.1f}" height="{height}"/>')
    if theirs is not None:
        bars.append(f'<rect class="bar1" x="0.5" y="9" width="{199 * theirs:.1f}" height="5"/>')
    return (
        f'<svg class="bar" viewBox="0 0 200 15" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="grid" x1="0.5" x2="0.5" y1="0" y2="15"/>{"".join(bars)}</svg>'
    )


def interval_chart(gain: float, interval: Interval) -> str:
    """A gain, its interval, and zero on one line."""
    low, high = min(0.0, interval.low, gain), max(0.0, interval.high, gain)
    pad = 0.12 * max(high - low, 1e-3)
    low, high = low - pad, high + pad

    def across(value: float) -> float:
        return 10 + (value - low) / (high - low) * 380

    ends = (across(interval.low), across(interval.high))
    apart = max(0.0, _LABEL - (ends[1] - ends[0])) / 2  # of a narrow interval both numbers would be one
    labels = [(across(0.0), "0"), (ends[0] - apart, signed(interval.low)), (ends[1] + apart, signed(interval.high))]
    labels = [(x, text) for i, (x, text) in enumerate(labels) if i == 0 or abs(x - labels[0][0]) > 34]
    spoken = f"gain {signed(gain)} points, interval {signed(interval.low)} to {signed(interval.high)}"
    texts = "".join(f'<text x="{x:.1f}" y="52" text-anchor="middle">{text}</text>' for x, text in labels)
    return (
        f'<svg class="interval" viewBox="0 0 400 58" role="img" aria-label="{escape(spoken)}">'
        f'<line class="axis" x1="10" x2="390" y1="22" y2="22"/>'
        f'<line class="axis" x1="{across(0.0):.1f}" x2="{across(0.0):.1f}" y1="6" y2="38"/>'
        f'<line class="range" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="22" y2="22"/>'
        f'<circle class="dot" cx="{across(gain):.1f}" cy="22" r="7"/>{texts}</svg>'
    )


def _thinned(count: int) -> list[int]:
    """Which of so many points a line shows, the last one among them."""
    every = max(1, math.ceil(count / _MOST_POINTS))
    return sorted({*range(0, count, every), *([count - 1] if count else [])})


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    """A line through points, broken where a value is missing; a point without neighbours becomes a dot."""
    words, drawing = [], False
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        if not math.isfinite(b):
            drawing = False
            continue
        words.append(f"{'L' if drawing else 'M'}{a:.1f} {b:.1f}")
        if not drawing and (i + 1 == len(y) or not math.isfinite(y[i + 1])):
            words.append("h0.1")
        drawing = True
    return "".join(words)


def _spoken(values: Sequence[float], unit: str) -> str:
    there = [value for value in values if math.isfinite(value)]
    if not there:
        return "none"
    return f"from {number(there[0])} to {number(there[-1])}{unit}, lowest {number(min(there))}, highest {number(max(there))}"
