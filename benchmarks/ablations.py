"""What is each part of the method worth? One setting at a time, beside the recipe as it is.

    python benchmarks/ablations.py [--only CutMix,temperature] [any setting of protoseg train]
    python benchmarks/ablations.py --root CAMVID --weights WEIGHTS --labels 23

On the demo's images, on seeds that no other number is reported for, or on CamVid, scored on the block of the training images
that settings are chosen on: an ablation invites to choose, so it never sees the images of a report.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import camvid
import demo
import grid
from protoseg.arguments import parse_train
from protoseg.bench import store
from protoseg.bench.cells import is_cell
from protoseg.bench.running import run_cells, slots
from protoseg.bench.tables import score_table


def _values(setting: str, *values: object) -> dict[str, tuple[str, object]]:
    return {str(value): (setting, value) for value in values}


ABLATIONS: dict[str, dict[str, tuple[str, object]]] = {
    "prototypes of each class": _values("prototypes.per_class", 1, 2, 4, 8, 16),
    "images with the term": {
        "none": ("prototypes.per_class", 0),
        "labelled": ("prototypes.images", "labeled"),
        "unlabelled": ("prototypes.images", "unlabeled"),
        "both": ("prototypes.images", "both"),
    },
    "start": {"k-means": ("prototypes.start", "kmeans"), "random": ("prototypes.start", "random")},
    "momentum of the prototypes": _values("prototypes.momentum", 0.9, 0.99, 0.999),
    "CutMix": {
        "off": ("views.cutmix_probability", 0.0),
        "half of the images": ("views.cutmix_probability", 0.5),
        "all images": ("views.cutmix_probability", 1.0),
    },
    "temperature": _values("prototypes.temperature", 0.05, 0.1, 0.2, 0.5),
    "points of an image": {f"{side} x {side}": ("prototypes.grid", side) for side in (4, 8, 16, 32)},
    "threshold": _values("consistency.threshold", 0.0, 0.5, 0.7, 0.8, 0.9, 0.95),
    "weight of the term": _values("prototypes.weight", 0.1, 0.2, 0.5, 1.0),
    "steps until the prototypes start": _values("prototypes.delay", 0, 400, 800),
    "points of a cell": _values("prototypes.points_per_cell", 1, 4),
    "balance of the points": _values("prototypes.balance", 0.0, 0.5, 1.0),
    "points that weigh more": _values("prototypes.emphasis", "even", "uncertain", "boundary"),
    "projection": {"none": ("model.projection", 0), "64 channels": ("model.projection", 64)},
    "features": {"raw": ("prototypes.unit_features", False), "of unit length": ("prototypes.unit_features", True)},
    "class prior": {"none": ("prototypes.class_prior", False), "log share": ("prototypes.class_prior", True)},
    "pseudo-labels": {
        "of the linear predictor": ("prototypes.labels", "linear"),
        "where both agree": ("prototypes.labels", "agree"),
        "mean of both": ("prototypes.labels", "mean"),
    },
}
"""What is changed -> value, as a table calls it -> setting of `protoseg train`: the paper's parts, then designs of others."""
_METHOD = "prototypes"


class Variant(NamedTuple):
    """One value of one ablation; no words where it is the recipe's own."""

    ablation: str
    value: str
    words: tuple[str, ...]


def variants(recipe: str, names: Sequence[str]) -> list[Variant]:
    """All cells of one seed: the recipe as it is first, because everything is compared with it."""
    own = parse_train(["data", "--recipe", recipe])
    found = [
        Variant(name, title, () if attrgetter(setting)(own) == value else (f"--{setting}", str(value)))
        for name in names
        for title, (setting, value) in ABLATIONS[name].items()
    ]
    return sorted(found, key=lambda variant: bool(variant.words))


def ablation_table(rows: Sequence[Mapping[str, Any]], own: Sequence[Variant], extra: Sequence[str]) -> str:
    """One ablation: every value that has run, and what it is ahead of the recipe's.

    Args:
        rows: finished cells of one recipe on one data set.
        own: its variants.
        extra: settings of all cells.
    """
    named: dict[str, list[Mapping[str, Any]]] = {}
    for variant in own:
        settings = " ".join([*extra, *variant.words])
        title = variant.value if variant.words else f"{variant.value} (as in the recipe)"
        named[title] = [row for row in rows if row.get("settings", "") == settings]
    reference = next((title for title in named if title.endswith("(as in the recipe)")), "the recipe")
    if reference not in named:
        named[reference] = [row for row in rows if row.get("settings", "") == " ".join(extra)]
    renamed = [{**row, "method": title} for title, cells in named.items() for row in cells]
    table = score_table(renamed, list(named), against=[reference], time="seconds").markdown()
    return table.replace("| method |", f"| {own[0].ablation} |", 1)


def main() -> None:
    parser = grid.arguments((__doc__ or "").splitlines()[0], Path(__file__).with_name("results") / "ablations.jsonl")
    parser.set_defaults(seeds="100,101,102")
    parser.add_argument("--only", default=",".join(ABLATIONS), help="comma-separated; default all: %(default)s")
    parser.add_argument("--root", type=Path, help="folder of CamVid, with --weights; default the demo's images")
    parser.add_argument("--weights", type=Path, help="MobileNetV2 weights, as for benchmarks/camvid.py")
    parser.add_argument("--labels", default="23", help="of CamVid: which list in splits/; default 23")
    options, extra = parser.parse_known_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in ABLATIONS]:
        parser.error(f"there is no ablation {unknown[0]!r}; choose of {', '.join(ABLATIONS)}")
    if (options.root is None) != (options.weights is None):
        parser.error("give --root and --weights of CamVid together")
    with tempfile.TemporaryDirectory() as folder:
        recipe, own, hide = "demo", {"data": "demo"}, {folder: "."}
        common = demo.common_words(Path(folder))
        if options.root is not None:
            recipe, own = "camvid", {"data": "camvid", "labels": options.labels, "scored": "tune"}
            words = camvid.common_words(options.root, options.weights, options.labels, tune=True)
            common, hide = (lambda seed: words), {str(options.weights): "WEIGHTS", str(options.root): "CAMVID"}
        found, finished = variants(recipe, names), store.read(options.results)
        cells = {}
        for seed in (int(text) for text in options.seeds.split(",")):
            for variant in found:
                settings = [*extra, *variant.words]  # what is varied counts last
                cell = grid.shared_identity(recipe, settings, **own)
                for made in grid.unfinished(finished, [_METHOD], [seed], common, recipe=recipe, extra=settings, cell=cell):
                    cells[made.folder] = made  # the recipe as it is stands in every ablation
        failed = []
        if not options.table:
            say, places = partial(print, flush=True), slots(options.jobs, cuda=True)
            failed = run_cells(list(cells.values()), options.results, say=say, runs=options.runs, hide=hide, places=places)
    identity = grid.shared_identity(recipe, [], **own)
    rows = [row for row in store.read(options.results) if is_cell({**row, "settings": None}, identity)]
    for name in names if rows else ():
        print(ablation_table(rows, [variant for variant in found if variant.ablation == name], extra), end="\n\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
