"""The atlas as one HTML page that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from protoseg.atlas.likeness import Pair, too_similar
from protoseg.atlas.views import DISAGREEMENT, KINDS, Atlas, ClassView, Cloud, ImageView, Kind, PrototypeView
from protoseg.files import replacing
from protoseg.report.charts import iou_bar
from protoseg.report.html import css_color, data_uri, environment, inlined, percent

ATLAS = "atlas.html"
_NAMED = 12  # prototypes that a sentence names
_NUMBERED = 120  # prototypes that are drawn large and with their number
_WIDTH, _MARGIN, _LOW, _HIGH = 720, 26, 240, 560  # of the plane; heights that it may have


def write_atlas(atlas: Atlas, path: Path) -> None:
    """Write the page.

    Raises:
        CannotWriteError: nothing can be written there.
    """
    with replacing(path) as partial:
        partial.write_bytes(render(atlas).encode("utf-8", errors="backslashreplace"))  # a path may be no text


def render(atlas: Atlas) -> str:
    """The page as text. The same atlas gives the same text."""
    templates = environment("protoseg.atlas")
    templates.filters |= {"percent": percent, "css_color": css_color, "thousands": lambda number: f"{number:,}"}
    return templates.get_template("atlas.html").render(
        atlas=atlas,
        title=f"{atlas.name}: protoseg prototype atlas",
        **inlined(templates, styles=("page.css", "atlas.css"), scripts=("page.js", "atlas.js")),
        kinds=KINDS,
        classes=[ClassRow(i, view.name, css_color(view.color), tuple(_cards(view))) for i, view in enumerate(atlas.classes)],
        examples=[_example(view) for view in atlas.maps],
        disagreement=[(name, css_color(color)) for name, color in DISAGREEMENT[1:]],
        findings=list(findings(atlas)),
        closest=[(_named(atlas, pair.one), _named(atlas, pair.other), pair.cosine) for pair in atlas.closest],
        plane=Markup(plane_chart(atlas.cloud, atlas.classes)),
        number=sum(len(view.prototypes) for view in atlas.classes),
        dead=sum(prototype.dead for view in atlas.classes for prototype in view.prototypes),
    )


class Card(NamedTuple):
    """A prototype. Attributes: number from 1; colour; pixels and share of its class's pixels, by kind; as bars; pictures."""

    number: int
    color: str
    dead: bool
    pixels: dict[Kind, int]
    shares: dict[Kind, float | None]
    bar: Markup
    regions: dict[Kind, list[dict[str, Any]]]


class ClassRow(NamedTuple):
    """A class and its prototypes."""

    number: int
    name: str
    color: str
    cards: tuple[Card, ...]

    @property
    def pixels(self) -> dict[Kind, int]:
        """Looked at."""
        return {kind: sum(card.pixels[kind] for card in self.cards) for kind in KINDS}


def _cards(view: ClassView) -> Iterator[Card]:
    totals = {kind: sum(_pixels(prototype)[kind] for prototype in view.prototypes) for kind in KINDS}
    for k, prototype in enumerate(view.prototypes):
        pixels = _pixels(prototype)
        shares = {kind: pixels[kind] / totals[kind] if totals[kind] else None for kind in KINDS}
        regions = {
            kind: [
                {
                    "uri": data_uri(region.picture, "jpeg"),
                    "name": region.name,
                    "cosine": f"{region.cosine:.2f}".replace("-", "\N{MINUS SIGN}"),
                }
                for region in prototype.regions[kind]
            ]
            for kind in KINDS
        }
        bar = Markup(iou_bar(shares["labelled"], shares["unlabelled"]))
        yield Card(k + 1, css_color(prototype.color), prototype.dead, pixels, shares, bar, regions)


def _pixels(prototype: PrototypeView) -> dict[Kind, int]:
    return {"labelled": prototype.labeled, "unlabelled": prototype.unlabeled}


def _example(view: ImageView) -> dict[str, Any]:
    """As `pictures.html` wants it."""
    layers = [
        {"name": layer.name, "uri": data_uri(layer.picture, "png"), "score": layer.score, "shares": layer.shares}
        for layer in view.layers
    ]
    return {"name": view.name, "rank": view.role, "size": view.size, "uri": data_uri(view.picture, "jpeg"), "layers": layers}


def findings(atlas: Atlas) -> Iterator[str]:
    """What stands out, in plain words."""
    number = sum(len(view.prototypes) for view in atlas.classes)
    idle = [(c, k) for c, view in enumerate(atlas.classes) for k, prototype in enumerate(view.prototypes) if prototype.dead]
    if idle:
        are = "is" if len(idle) == 1 else "are"
        yield (
            f"{len(idle)} of {number} prototypes {are} dead (hardly any pixel of the class follows): "
            f"{_listed([_named(atlas, place) for place in idle])}. "
            "They do no harm; fewer prototypes (--prototypes.per_class) would do as well."
        )
    else:
        yield "No prototype is dead: some pixels of their class follow each of them."
    bound = f"{too_similar(atlas.temperature):.3f}"
    meaning = f"a cosine of {bound} or more, where at a temperature of {atlas.temperature:g} their logits differ by less than 1"
    same = [pair for pair in atlas.alike if pair.one[0] == pair.other[0]]
    mixed = [pair for pair in atlas.alike if pair.one[0] != pair.other[0]]
    if atlas.alike:
        pairs = "pair of prototypes is" if atlas.number_alike == 1 else "pairs of prototypes are"
        yield f"{atlas.number_alike} {pairs} too similar for any pixel to tell apart ({meaning})."
    else:
        yield f"No two prototypes are too similar to be told apart ({meaning})."
    if same:
        yield f"Of one class, so that one of the two is spare: {_listed([_pair(atlas, pair) for pair in same])}."
    if mixed:
        yield (
            "Of different classes, which prototypes alone cannot tell apart there: "
            f"{_listed([_pair(atlas, pair) for pair in mixed])}."
        )
    if bare := [view.name for view in atlas.classes if not view.prototypes]:
        yield f"Without prototypes, because training has met no pixel of them: {_listed(bare)}."
    yield from (f"{note[0].upper()}{note[1:]}." for note in atlas.notes)


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _named(atlas: Atlas, place: tuple[int, int]) -> str:
    return f"{atlas.classes[place[0]].name} #{place[1] + 1}"  # names of classes may end in numbers themselves


def _pair(atlas: Atlas, pair: Pair) -> str:
    return f"{_named(atlas, pair.one)} and {_named(atlas, pair.other)} ({pair.cosine:.3f})"


def plane_chart(cloud: Cloud, classes: Sequence[ClassView]) -> str:
    """Pixels and prototypes in the plane of their two principal components, as far apart on paper in both directions.

    Args:
        cloud: places.
        classes: names and colours.
    """
    ready = ~np.isnan(cloud.prototype).any(axis=(1, 2))
    everything = np.concatenate([*cloud.place.values(), cloud.prototype[ready].reshape(-1, 2)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    span = np.maximum(high - low, 1e-6)
    inner = _WIDTH - 2 * _MARGIN
    height = float(np.clip(inner * span[1] / span[0] + 2 * _MARGIN, _LOW, _HIGH))
    scale = min(inner / span[0], (height - 2 * _MARGIN) / span[1])
    centre = (low + high) / 2

    def placed(points: NDArray[np.float64]) -> NDArray[np.float64]:
        on_paper: NDArray[np.float64] = (points - centre) * (scale, -scale) + (_WIDTH / 2, height / 2)
        return on_paper

    parts = []
    for kind in reversed(KINDS):  # labels lie on top
        if kind not in cloud.place:
            continue
        dots = []
        for c in np.unique(cloud.label[kind]).tolist():
            path = "".join(f"M{x:.1f} {y:.1f}h.1" for x, y in placed(cloud.place[kind][cloud.label[kind] == c]).tolist())
            name = f"{escape(classes[c].name)}, {kind} pixels"
            dots.append(
                f'<path data-class="{c}" style="stroke:{css_color(classes[c].color)}" d="{path}"><title>{name}</title></path>'
            )
        parts.append(f'<g class="dots {kind}">{"".join(dots)}</g>')
    numbered = ready.sum() * cloud.prototype.shape[1] <= _NUMBERED
    for c, view in enumerate(classes):
        for k in range(len(view.prototypes)):
            x, y = placed(cloud.prototype[c, k]).tolist()
            ink = "#fff" if _is_dark(view.color) else "#000"
            label = f'<text x="{x:.1f}" y="{y + 3.6:.1f}" fill="{ink}">{k + 1}</text>' if numbered else ""
            parts.append(
                f'<g class="proto" data-class="{c}"><title>{escape(view.name)}, prototype {k + 1}</title>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{8 if numbered else 4}" fill="{css_color(view.color)}"/>{label}</g>'
            )
    counts = " and ".join(f"{len(cloud.label[kind])} {kind} pixels" for kind in KINDS if kind in cloud.label)
    spoken = (
        f"{counts}, and {int(ready.sum()) * cloud.prototype.shape[1]} prototypes, in the plane of their first two principal "
        f"components, which hold {percent(sum(cloud.explained))} percent of the variance"
    )
    return f'<svg class="plane" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{spoken}">{"".join(parts)}</svg>'


def _is_dark(color: tuple[int, int, int]) -> bool:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 140
