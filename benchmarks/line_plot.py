"""Lines over two logarithmic axes, as the text of an SVG picture that reads on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 150, 16, 48
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, 2008
INK = "#808080"  # is seen on white and on black


def line_plot(lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """An SVG picture.

    Args:
        lines: name -> its (x, y), all above 0.
        x, y: names of the axes.
    """
    points = [point for line in lines.values() for point in line]
    across = _Axis(min(p[0] for p in points), max(p[0] for p in points), LEFT, WIDTH - RIGHT)
    upwards = _Axis(min(p[1] for p in points), max(p[1] for p in points), HEIGHT - BOTTOM, TOP)
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" '
        f'fill="{INK}" role="img">',
        f"<title>{escape(y)} over {escape(x)}</title>",
        f'<path d="M{left} {top}V{bottom}H{right}" stroke="{INK}" fill="none"/>',
        f'<text x="{(left + right) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>',
        f'<text transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>',
    ]
    parts += [
        f'<text x="{across.at(v):.0f}" y="{bottom + 16}" text-anchor="middle">{v:,.10g}</text>'
        for v in sorted({p[0] for p in points})
    ]
    for value in upwards.ticks():
        place = upwards.at(value)
        parts.append(f'<path d="M{left} {place:.0f}H{right}" stroke="{INK}" stroke-opacity="0.3"/>')
        parts.append(f'<text x="{left - 6}" y="{place + 4:.0f}" text-anchor="end">{value:g}</text>')
    for i, (name, line) in enumerate(lines.items()):
        color, places = COLORS[i % len(COLORS)], [(across.at(a), upwards.at(b)) for a, b in sorted(line)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>' for a, b in places]
        parts.append(f'<text x="{right + 14}" y="{top + 12 + 18 * i}" fill="{color}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """Places of numbers, as far apart as their logarithms."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = math.log10(low), math.log10(high)
        if self.high - self.low < 0.3:  # one number, or a line that is nearly flat
            self.low, self.high = self.low - 0.15, self.high + 0.15
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten within it, thinned out where there are many."""
        within = range(math.floor(self.low), math.ceil(self.high) + 1)
        every = [float(f"{digit}e{power}") for power in within for digit in (1, 2, 5)]
        found = [value for value in every if self.low <= math.log10(value) <= self.high]
        return found if len(found) <= 8 else [value for value in found if math.log10(value).is_integer()]
