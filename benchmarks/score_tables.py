"""Tables and plots of docs/benchmarks.md and README, from the finished cells in results/."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.bench import store
from protoseg.bench.cells import NAMED, is_cell
from protoseg.bench.tables import Table, cells_of, class_table, difference, gains, score_table, spread, term_table

RESULTS = Path(__file__).with_name("results")
Rows = Sequence[Mapping[str, Any]]
DEMO = {"file": "demo", "recipe": "demo@aa124617"}
DEMO_SLOWER = {"file": "demo", "recipe": "demo@50329b7c"}
"""The same at a learning rate of 2e-3."""
DEMO_BEFORE = {"file": "demo", "recipe": "demo@bc132b08"}
CAMVID = {"file": "camvid", "recipe": "camvid@3a7d3a64", "labels": "23", "scored": "test"}
CAMVID_GPU = CAMVID | {"settings": "--workers 1 --checkpoint-every 1000"}
CAMVID_LONG = CAMVID | {"settings": "--steps 3000 --evaluate-every 500"}
CAMVID_LOOKS = {"scale": 1.0, "recipe": "camvid", "labeled": 23}
RARE = ("pole", "sign_symbol", "pedestrian", "bicyclist")
REPORTED = (0, 1, 2)
"""Seeds of the reported tables; settings are chosen on those from 100 on."""
HEADS = ("linear", "prototype", "mean")


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
    """What the linear predictors of two seeds call some classes of their unlabelled images."""
    seeds = (1, 2)  # that all three have
    rows = [row for row in looks("pseudo-labels", head="linear", steps=1000, **CAMVID_LOOKS) if row["seed"] in seeds]
    lines = []
    for name in ("road", "car", *RARE):
        of = {method: [row["classes"][name] for row in rows if contestant(row) == method] for method in NAMED}
        mean = {key: statistics.mean(own[key] for own in of["labels only"]) for key in of["labels only"][0]}
        wrong = [statistics.mean(own["confidently_wrong"] for own in of[method]) for method in NAMED]
        shares = [f"{100 * share:.0f} %" for share in (mean["recall"], mean["confidently_right"], *wrong)]
        lines.append([name, shares[0], f"{mean['predicted']:.2f}", *shares[1:]])
    titles = ["class", "labels only: recall", "called / true pixels", "confidently right", "confidently something else"]
    return Table([*titles, *(f"the same, {method}" for method in [*NAMED][1:])], lines).markdown()


def predictors() -> str:
    """What each predictor of a run calls its unlabelled images."""
    lines = []
    for row in sorted(looks("pseudo-labels", **CAMVID_LOOKS), key=lambda row: [*NAMED].index(contestant(row))):
        line = [contestant(row), f"{row['steps']:,}", str(row["seed"]), row["head"], f"{100 * row['miou']:.1f}"]
        for name in RARE:
            own = row["classes"][name]
            line.append(f"{100 * own['iou']:.0f}, {100 * own['recall']:.0f}, {own['predicted']:.1f}")
        building = row["classes"]["building"]
        lines.append([*line, f"{100 * building['iou']:.0f}, {100 * building['confidently_right']:.0f}"])
    titles = [
        "method",
        "steps",
        "seed",
        "predictor",
        "mIoU",
        "pole: IoU, recall, called / true",
        "sign",
        "pedestrian",
        "bicyclist",
    ]
    return Table([*titles, "building: IoU, confidently right"], lines).markdown()


def classes(rows: Rows) -> str:
    return class_table(rows, methods_of(rows)).markdown()


def term(rows: Rows) -> str:
    """The verdict is of an interval over seeds: it does not know what a repeat of the same seed would give."""
    table = term_table(rows, methods_of(rows))
    return Table([*table.titles[:-1], "on these seeds"], table.lines).markdown() if table is not None else ""


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


def demo_rates() -> str:
    """mIoU of the three contestants at each learning rate that was tried with 48 px and 2,200 steps."""
    lines = []
    for rate in ("1e-3", "2e-3", "4e-3", "8e-3"):
        own = {} if rate == "2e-3" else {"settings": f"--optimizer.lr {rate}"}  # which that recipe has
        for seed in (100, 101):
            rows = {row["method"]: row["miou"] for row in cells(seeds=[seed], **DEMO_SLOWER, **own)}
            if rows:
                scored = [f"{100 * rows[method]:.1f}" if method in rows else "not run" for method in NAMED]
                lines.append([rate, str(seed), *scored])
    return Table(["learning rate", "seed", *NAMED], lines).markdown()


def demo_thresholds() -> str:
    """mIoU of the two contestants that have a threshold, at a learning rate of 4e-3."""
    runs = {threshold: DEMO | {"settings": f"--consistency.threshold {threshold}"} for threshold in ("0.7", "0.8", "0.9")}
    runs["0.8"] = DEMO_SLOWER | {"settings": "--optimizer.lr 4e-3"}  # as that recipe was when the rate was chosen
    lines = []
    for threshold, run in runs.items():
        for seed in (100, 101):
            rows = {row["method"]: 100 * row["miou"] for row in cells(seeds=[seed], **run)}
            scored = [rows[method] for method in ("CutMix teacher", "prototypes")]
            lines.append([threshold, str(seed), *(f"{score:.1f}" for score in scored), f"{scored[1] - scored[0]:+.1f}"])
    return Table(["threshold", "seed", "CutMix teacher", "prototypes", "the term adds"], lines).markdown()


def repeats() -> str:
    """The reported cells again on another machine or in another precision, each with its difference to the first."""
    ways = {
        "CPU, float32": CAMVID,
        "CPU, bfloat16": CAMVID | {"recipe": "camvid@89c64f46"},
        "H200, float32 (convolutions in TF32)": CAMVID_GPU,
    }
    found = [cells(seeds=REPORTED, **of) for of in ways.values()]
    lines = []
    for method, elsewhere in (("labels only", "supervised"), ("CutMix teacher", "")):
        usual, *again = [cells_of(rows, method) or cells_of(rows, elsewhere) for rows in found]
        for seed in (seed for seed in usual if any(seed in own for own in again)):
            for what in ("mIoU", "sign_symbol", "pole"):
                score, *others = [percent(own[seed], what) if seed in own else None for own in (usual, *again)]
                assert score is not None
                beside = ["" if other is None else f"{other:.1f} ({other - score:+.1f})" for other in others]
                lines.append([method, str(seed), what, f"{score:.1f}", *beside])
    return Table(["method", "seed", "", *ways], lines).markdown()


def percent(row: Mapping[str, Any], what: str) -> float:
    return 100 * float(row["miou"] if what == "mIoU" else row["iou"][what])


def learning_rates() -> str:
    """The three contestants at both learning rates, as far as they have run, and what the term adds at each."""
    found = at_both_rates()
    base = {seed: row["miou"] for seed, row in cells_of(found["1e-4"], "labels only").items()}
    lines = []
    for method in NAMED:
        for rate, rows in found.items():
            scored = {seed: 100 * row["miou"] for seed, row in cells_of(rows, method).items()}
            ahead = {} if method == "labels only" else {seed: miou - 100 * base[seed] for seed, miou in scored.items()}
            mean = spread([*scored.values()]) if scored else ""
            lines.append([method, rate, *of_seeds(scored, "{:.1f}"), mean, difference(ahead)])
    for rate, rows in found.items():
        gained = gains(rows, "prototypes", "CutMix teacher")
        lines.append(["what the term adds", rate, *of_seeds(gained, "{:+.1f}"), difference(gained), ""])
    seeds = [f"seed {seed}" for seed in REPORTED]
    return Table(["method", "learning rate", *seeds, "mean", "against labels only at 1e-4"], lines).markdown()


def of_seeds(values: Mapping[int, Any], form: str) -> list[str]:
    return [form.format(values[seed]) if seed in values else "not run" for seed in REPORTED]


def at_both_rates() -> dict[str, list[dict[str, Any]]]:
    """Learning rate -> the reported cells at it."""
    return {"1e-4": cells(seeds=REPORTED, **CAMVID), "3e-4": cells(seeds=REPORTED, settings="--optimizer.lr 3e-4", **CAMVID)}


def learning_rate_classes() -> str:
    """IoU of the classes at both rates, over those seeds of a method that have run at both."""
    rows = []
    for method in NAMED:
        of = {rate: cells_of(found, method) for rate, found in at_both_rates().items()}
        seeds = sorted(set.intersection(*map(set, of.values())))
        for rate, own in of.items():
            title = f"{method} at {rate} (seed {', '.join(map(str, seeds))})"
            rows += [{**own[seed], "method": title} for seed in seeds]
    return classes(rows)


def block(rows: Rows) -> str:
    """Cells on the block of `train` that settings are chosen on, and where each comes from."""
    lines = []
    for row in rows:
        of = [row["recipe"].partition("@")[2], (row["versions"]["commit"] or "none")[:7], row["method"], str(row["labeled"])]
        scored = [f"{100 * row['miou']:.1f}", *(f"{100 * row['iou'][name]:.0f}" for name in RARE)]
        lines.append([*of, flags(row), *scored])
    return Table(["recipe", "commit in the row", "method", "labelled", "further flags", "mIoU", *RARE], lines).markdown()


def curves(rows: Rows) -> str:
    """mIoU on the way of those cells that were scored there."""
    rows = [row for row in rows if row["curve"]]
    steps = sorted({step for row in rows for step, _ in row["curve"]})
    lines = []
    for row in rows:
        curve = dict(row["curve"])
        scored = [f"{100 * curve[step]:.1f}" if step in curve else "" for step in steps]
        lines.append([row["recipe"].partition("@")[2], row["method"], flags(row), *scored])
    return Table(["recipe", "method", "further flags", *(f"step {step}" for step in steps)], lines).markdown()


def longer() -> str:
    """What three times the steps bring: mIoU on the way and at the end, and the classes at both ends."""
    rows = cells(**CAMVID_LONG)
    before = {(row["method"], row["seed"]): row for row in cells(**CAMVID)}
    steps = [step for step, _ in rows[0]["curve"]]
    lines = []
    for row in rows:
        short_run = before[row["method"], row["seed"]]
        rare = [f"{100 * short_run['iou'][name]:.0f} to {100 * row['iou'][name]:.0f}" for name in RARE]
        scored = [f"{100 * dict(row['curve'])[step]:.1f}" for step in steps]
        lines.append([row["method"], str(row["seed"]), f"{100 * short_run['miou']:.1f}", *scored, *rare])
    titles = ["method", "seed", "1,000 steps in all", *(f"step {step}" for step in steps)]
    return Table([*titles, *(f"{name}, 1,000 to {steps[-1]}" for name in RARE)], lines).markdown()


def flags(row: Mapping[str, Any]) -> str:
    return f"`{row['settings']}`" if "settings" in row else ""


def on_the_block(labels: str) -> list[dict[str, Any]]:
    return [row for row in store.read(RESULTS / "camvid.jsonl") if row["scored"] == "tune" and row["labels"] == labels]


def upper_bound() -> str:
    """Labels only with all masks, below the same with few."""
    few = cells("camvid", method="labels only", labels="23", scored="tune", recipe="camvid@89c64f46")
    return block([*few, *on_the_block("all")])


def upper_bound_on_test() -> str:
    """Labels only with few and with all masks, by seed, and the classes that differ most."""
    few, every = (cells_of(cells(seeds=REPORTED, **CAMVID | {"labels": labels}), "labels only") for labels in ("23", "all"))
    lines = []
    for what in ("mIoU", *RARE, "pavement"):
        scored = {seed: (percent(few[seed], what), percent(every[seed], what)) for seed in few if seed in every}
        gained = {seed: after - before for seed, (before, after) in scored.items()}
        both = of_seeds({seed: f"{before:.1f} to {after:.1f}" for seed, (before, after) in scored.items()}, "{}")
        lines.append([what, *both, difference(gained)])
    return Table(["", *(f"seed {seed}" for seed in REPORTED), "gain of all masks"], lines).markdown()


TABLES: dict[str, Callable[[], str]] = {
    "demo scores": lambda: scores(cells(seeds=REPORTED, **DEMO)),
    "demo classes": lambda: classes(cells(seeds=REPORTED, **DEMO)),
    "demo scores at 2e-3": lambda: scores(cells(seeds=REPORTED, **DEMO_SLOWER)),
    "demo rates": demo_rates,
    "demo thresholds": demo_thresholds,
    "demo scores, 64 px": lambda: scores(cells(**DEMO_BEFORE)),
    "demo search": demo_search,
    "camvid scores": lambda: scores(cells(seeds=REPORTED, **CAMVID)),
    "camvid classes": lambda: classes(cells(seeds=REPORTED, **CAMVID)),
    "camvid repeats": repeats,
    "camvid block": lambda: block(on_the_block("23")),
    "camvid curves": lambda: curves(on_the_block("23")),
    "camvid longer": longer,
    "camvid learning rates": learning_rates,
    "camvid learning rates, classes": learning_rate_classes,
    "camvid upper bound": upper_bound,
    "camvid upper bound, test": upper_bound_on_test,
    "camvid term": lambda: term(cells(seeds=REPORTED, **CAMVID)),
    "camvid bases": lambda: scores(cells(**CAMVID_GPU)),
    "camvid bases, classes": lambda: classes(cells(seeds=(0, 1), **CAMVID_GPU)),  # that all of them have
    "camvid bases, term": lambda: term(cells(**CAMVID_GPU)),
    "camvid unlabelled images": pool,
    "camvid pseudo-labels": pseudo_labels,
    "camvid predictors": predictors,
}
"""Of docs/benchmarks.md, by name."""
README: dict[str, Callable[[], str]] = {
    "demo": lambda: short(cells(seeds=REPORTED, **DEMO)),
    "camvid": lambda: short(cells(seeds=REPORTED, **CAMVID)),
}
