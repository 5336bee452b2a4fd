"""Writes the numbers of docs and README anew from results/*.jsonl; the words around them stay as they are.

    python benchmarks/make_docs.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the names and what they show are below. In docs/methods.md it
is the column of costs.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.bench import store
from protoseg.bench.cells import NAMED, TERM, is_cell
from protoseg.bench.tables import Table, cells_of, class_table, difference, gains, score_table, spread, term_table
from protoseg.config import METHODS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
_MARKED = re.compile(r"(<!-- table: ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Rows = Sequence[Mapping[str, Any]]


def cells(file: str, *, seeds: Sequence[int] | None = None, **identity: str) -> list[dict[str, Any]]:
    """The finished cells of a grid, all of its seeds where none are named."""
    rows = store.read(RESULTS / f"{file}.jsonl")
    return [row for row in rows if is_cell(row, identity) and (seeds is None or row["seed"] in seeds)]


def methods_of(rows: Rows) -> list[str]:
    """The three contestants, then whatever else has run, as it came."""
    found = dict.fromkeys(row["method"] for row in rows)
    return [*(name for name in NAMED if name in found), *(name for name in found if name not in NAMED)]


def scores(rows: Rows) -> str:
    methods = methods_of(rows)
    return score_table(rows, methods, against=methods[:1], time="seconds").markdown()


def short(rows: Rows) -> str:
    """mIoU and the difference to the first method alone, with its 95 % interval."""
    first, *_ = methods = methods_of(rows)
    lines = []
    for method in methods:
        gained = "" if method == first else difference(gains(rows, method, first))
        lines.append([method, spread([100 * row["miou"] for row in cells_of(rows, method).values()]), gained])
    return Table(["method", "mIoU", f"against {first}"], lines).markdown()


def looks(look: str, **of: Any) -> list[dict[str, Any]]:
    """What was seen in finished runs by pool.py, pseudo_labels.py or recalibrate.py; of the same run and options, the last."""
    rows = [row for row in store.read(RESULTS / "looks.jsonl") if row["look"] == look and of.items() <= row.items()]
    last = {(row["run"], row["head"], row.get("scale"), row.get("threshold")): row for row in rows}
    return sorted(last.values(), key=lambda row: (row["seed"], HEADS.index(row["head"])))


def pool() -> str:
    """mIoU on the unlabelled images of the reported runs, beside that on `test`."""
    lines = []
    for row in looks("pool", recipe="camvid", labeled=23):
        scored = [f"{100 * row[part]['miou']:.1f}" for part in ("unlabelled", "evaluation")]
        lines.append([contestant(row), str(row["seed"]), row["head"], *scored])
    lines.sort(key=lambda line: list(NAMED).index(line[0]))
    return Table(["method", "seed", "predictor", "unlabelled images", "`test`"], lines).markdown()


def contestant(row: Mapping[str, Any]) -> str:
    """Which of the three a look is of."""
    if row["method"] == "supervised":
        return "labels only"
    return "prototypes" if row["per_class"] else "CutMix teacher"


def pseudo_labels() -> str:
    """What labels only calls the rare and the frequent classes of the unlabelled images."""
    rows = [
        row
        for row in looks("pseudo-labels", head="linear", scale=1.0)
        if row["method"] == "supervised" and row["labeled"] == 23
    ]
    shown = ("road", "car", "pedestrian", "bicyclist", "sign_symbol", "pole")
    lines = []
    for name in shown:
        own = [row["classes"][name] for row in rows]
        of = {key: statistics.mean(numbers[key] for numbers in own) for key in own[0]}
        shares = [f"{100 * of[key]:.0f} %" for key in ("recall", "confidently_right", "confidently_wrong")]
        lines.append([name, shares[0], f"{of['predicted']:.2f}", *shares[1:]])
    titles = ["class", "recall", "predicted / true pixels", "confidently right", "confidently called something else"]
    return Table(titles, lines).markdown()


def predictors() -> str:
    """What each predictor of the prototype runs calls their unlabelled images."""
    lines = []
    for row in looks("pseudo-labels", method="prototype", per_class=4, scale=1.0, recipe="camvid", labeled=23):
        line = [str(row["seed"]), row["head"], f"{100 * row['miou']:.1f}"]
        for name in ("sign_symbol", "pedestrian", "bicyclist"):
            line.append(", ".join(f"{100 * row['classes'][name][key]:.0f}" for key in ("iou", "recall", "precision")))
        lines.append([*line, f"{100 * row['classes']['building']['iou']:.0f}"])
    titles = ["seed", "predictor", "mIoU", "sign: IoU, recall, precision", "pedestrian", "bicyclist", "building: IoU"]
    return Table(titles, lines).markdown()


def classes(rows: Rows) -> str:
    return class_table(rows, methods_of(rows)).markdown()


def term(rows: Rows) -> str:
    table = term_table(rows, methods_of(rows))
    return table.markdown() if table is not None else ""


def demo_search() -> str:
    """mIoU of the three contestants for each network and learning rate that was tried."""
    width_24, width_16 = "width 24, 1,400", "width 16, 2,200"
    tried = [  # network, learning rate, seed, settings beyond the recipe's
        (width_24, "1e-3", 100, {"settings": "--optimizer.lr 1e-3"}),
        (width_24, "3e-3", 100, {}),
        (width_24, "1e-2", 100, {"settings": "--optimizer.lr 1e-2"}),
        (width_24, "3e-3", 101, {}),
        *((width_16, "2e-3", seed, {"settings": "--optimizer.lr 2e-3 --model.width 16 --steps 2200"}) for seed in (100, 101)),
    ]
    lines = []
    for network, rate, seed, own in tried:
        by_method = {row["method"]: row["miou"] for row in cells("demo", seeds=[seed], recipe="demo@6eb7d6ad", **own)}
        lines.append([network, rate, str(seed), *(f"{100 * by_method[method]:.1f}" for method in NAMED)])
    return Table(["network, steps", "learning rate", "seed", *NAMED], lines).markdown()


def learning_rates() -> str:
    """The reported runs beside the same at the other learning rate, as far as these have run."""
    lines = []
    usual, other = cells(seeds=REPORTED, **CAMVID), cells(seeds=REPORTED, settings="--optimizer.lr 3e-4", **CAMVID)
    for method in methods_of(other):
        before, after = cells_of(usual, method), cells_of(other, method)
        for seed in after:
            scored = [100 * row["miou"] for row in (before[seed], after[seed])]
            lines.append([method, str(seed), *(f"{miou:.1f}" for miou in scored), f"{scored[1] - scored[0]:+.1f}"])
    return Table(["method", "seed", "1e-4", "3e-4", ""], lines).markdown()


def gpu_steps(*, rounds: int) -> str:
    """Time and work of a step on a GPU: of every method (8 rounds), or of two in several ways (12 rounds)."""
    lines = []
    for row in store.read(RESULTS / "step.jsonl"):
        if GPU_STEP.items() <= row.items() and row["rounds"] == rounds:
            low, high = row["quartiles"]
            busy = f"{100 * row['kernel_seconds'] / row['seconds']:.0f} %"
            work = [str(row["kernels"]), f"{1000 * row['kernel_seconds']:.1f}", busy]
            rate = f"{row['operations'] / row['seconds'] / 1e12:.0f}"
            times = [f"{1000 * row['seconds']:.1f}", f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"]
            lines.append([row["method"], *times, *work, rate])
    titles = ["method", "ms a step", "against fixmatch (quartiles)", "kernels", "ms of kernels", "busy", "TFLOP/s"]
    return Table(titles, lines).markdown()


def prediction_speed() -> str:
    """Prediction beside the bare network."""
    rows = [row for row in store.read(RESULTS / "predict.jsonl") if row["what"] == "speed"]
    lines = []
    for row in rows:
        network = f"{row['arch']} on {row['encoder']}"
        seconds = [f"{row['seconds'][who]:.1f}" for who in ("predict", "network")]
        lines.append([network, str(row["windows"]), str(row["window"]), *seconds, f"{row['ratio']:.2f}", row["machine"]])
    titles = ["network", "windows", "side", "seconds, predict", "seconds, network alone", "share of its speed", "machine"]
    return Table(titles, lines).markdown()


def prediction_memory() -> str:
    """How far a process grows that predicts one huge image."""
    rows = [row for row in store.read(RESULTS / "predict.jsonl") if row["what"] == "memory"]
    lines = []
    for row in rows:
        sizes = [f"{row[key] / 2**30:.2f} GiB" for key in ("decoded", "grown", "above")]
        lines.append([row["kind"], f"{row['side']:,} x {row['side']:,}", *sizes, f"{row['seconds']:.0f}", row["machine"]])
    titles = ["file", "pixels", "decoded image", "growth at the peak", "above the decoded image", "seconds", "machine"]
    return Table(titles, lines).markdown()


def crops() -> str:
    """Crops a second of one core, by the ways to make them: the last measurement of each setting."""
    last = {(row["width"], row["suffix"], row["crop"]): row for row in store.read(RESULTS / "input.jsonl")}
    lines = []
    for row in last.values():
        image = f"{row['width']} x {row['height']} {row['suffix'][1:].upper()}"
        speeds = [f"{row['theirs']:.1f}", f"{row['worker']:.0f}", f"{row['worker'] / row['theirs']:.1f} x"]
        kept = [f"{row['cached']:.0f}", f"{row['gain']:.1f} x", *(f"{1000 * row[name]:.1f} ms" for name in ("fill", "check"))]
        lines.append([image, str(row["crop"]), *speeds, *kept])
    titles = ["image", "crop", "the peers' way", "ours", "", "with `--cache`", "against without", "to fill it, an image"]
    return Table([*titles, "at each start, an image"], lines).markdown()


def pools() -> str:
    """What listing a pool of unlabelled images costs: the last measurement of each size."""
    last = {(row["images"], row["inside"]): row for row in store.read(RESULTS / "index.jsonl")}
    lines = []
    for row in last.values():
        where = "`images/`" if row["inside"] else "`--unlabeled`"
        seconds = [f"{row[name]:.1f} s" for name in ("list", "divide", "hash", "pack")]
        sizes = [f"{row[name] / 2**20:,.0f} MiB" for name in ("packed", "held", "peak")]
        lines.append([f"{row['images']:,} in {where}", *seconds, *sizes])
    titles = ["unlabelled images", "list", "divide", "hash", "pack", "packed", "held afterwards", "at the peak"]
    return Table(titles, lines).markdown()


def waiting() -> str:
    """A step by how threads wait, alone and beside a busy process: the last measurement of each cell."""
    last = {(row["recipe"], row["way"], row["beside"]): row for row in store.read(RESULTS / "waiting.jsonl")}
    lines = []
    for recipe, way in dict.fromkeys(key[:2] for key in last):
        cells = [last[recipe, way, beside] for beside in ("nothing", "one busy process")]
        lines.append([recipe, way, *(f"{row['seconds']:.2f} s ({row['against_spin']:.2f} x)" for row in cells)])
    return Table(["recipe", "threads that wait", "nothing beside", "one busy process beside"], lines).markdown()


DEMO = {"file": "demo", "recipe": "demo@50329b7c"}
DEMO_BEFORE = {"file": "demo", "recipe": "demo@bc132b08"}
CAMVID = {"file": "camvid", "recipe": "camvid@3a7d3a64", "labels": "23", "scored": "test"}
CAMVID_GPU = CAMVID | {"settings": "--workers 1 --checkpoint-every 1000"}
GPU_STEP = {"network": "deeplabv3plus on resnet50", "machine": "16 x86_64 cores, NVIDIA H200"}
GPU_STEP |= {"commit": "5fc978976ecd1daab415ea106964a4ae38d76043"}
REPORTED = (0, 1, 2)
"""Seeds of the reported tables; settings are chosen on those from 100 on."""
HEADS = ("linear", "prototype", "mean")
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "docs/benchmarks.md": {
        "demo scores": lambda: scores(cells(seeds=REPORTED, **DEMO)),
        "demo classes": lambda: classes(cells(seeds=REPORTED, **DEMO)),
        "demo scores, 64 px": lambda: scores(cells(**DEMO_BEFORE)),
        "demo search": demo_search,
        "camvid scores": lambda: scores(cells(seeds=REPORTED, **CAMVID)),
        "camvid classes": lambda: classes(cells(seeds=REPORTED, **CAMVID)),
        "camvid learning rates": learning_rates,
        "camvid term": lambda: term(cells(seeds=REPORTED, **CAMVID)),
        "camvid bases": lambda: scores(cells(**CAMVID_GPU)),
        "camvid bases, classes": lambda: classes(cells(seeds=(0, 1), **CAMVID_GPU)),  # that all of them have
        "camvid bases, term": lambda: term(cells(**CAMVID_GPU)),
        "camvid unlabelled images": pool,
        "camvid pseudo-labels": pseudo_labels,
        "camvid predictors": predictors,
    },
    ROOT / "docs/performance.md": {
        "gpu steps": lambda: gpu_steps(rounds=8),
        "gpu ways": lambda: gpu_steps(rounds=12),
        "prediction speed": prediction_speed,
        "prediction memory": prediction_memory,
        "crops": crops,
        "pools": pools,
        "waiting": waiting,
    },
    ROOT / "README.md": {
        "demo": lambda: short(cells(seeds=REPORTED, **DEMO)),
        "camvid": lambda: short(cells(seeds=REPORTED, **CAMVID)),
    },
}
"""Page -> the name of a table in it -> the table."""
METHODS_PAGE = ROOT / "docs/methods.md"
STEP = {"network": "deeplabv3plus on resnet18", "crop": 256, "batch": 4, "against": "supervised"}
"""The measurement that docs/methods.md shows."""


def with_costs(text: str) -> str:
    """docs/methods.md, with the measured cost of a step in the fourth column of its table; words behind a number stay.

    Raises:
        ValueError: a method has no line in the table, or was not measured.
    """
    rows = {row["method"]: row for row in store.read(RESULTS / "step.jsonl") if STEP.items() <= row.items()}
    costs = {method: f"{rows[method]['ratio']:.1f}" for method in METHODS if method in rows}
    added = [rows[m + TERM]["ratio"] - rows[m]["ratio"] for m in METHODS if m + TERM in rows]
    costs["...+prototypes"] = f"{min(added):+.1f} to {max(added):+.1f}" if added else ""
    for name in (*METHODS, "...+prototypes"):
        line = re.compile(rf"^(\| `{re.escape(name)}` (?:\|[^|]*){{2}}\| )[^|;]*?(;[^|]*)?( \|.*)$", re.MULTILINE)
        if name not in costs or not line.search(text):
            raise ValueError(f"docs/methods.md: {name} has no line in the table or no cost in results/step.jsonl")
        text = line.sub(lambda match, cost=costs[name]: f"{match[1]}{cost}{match[2] or ''}{match[3]}", text)  # type: ignore[misc]
    return text


def filled(page: Path, text: str) -> str:
    """The text of a page with all of its numbers written anew.

    Raises:
        ValueError: a marker is open or names no table, a table has no place, or a number is missing.
    """
    if page == METHODS_PAGE:
        return with_costs(text)
    tables = PAGES[page]
    names = [match[2] for match in _MARKED.finditer(text)]
    if len(names) != text.count("<!-- table:") or len(names) != text.count("<!-- end -->"):
        raise ValueError(f"{page}: each <!-- table: NAME --> needs an <!-- end --> behind its table, and none else")
    if sorted(names) != sorted(tables):
        raise ValueError(f"{page} has the tables {', '.join(names)}; make_docs.py knows {', '.join(tables)}")
    return _MARKED.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[4]}", text)


if __name__ == "__main__":
    for page in (*PAGES, METHODS_PAGE):
        page.write_text(filled(page, page.read_text()))
        print(page)
