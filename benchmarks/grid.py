"""Run cells (method, seed) of a benchmark, keep every finished one, and print the table. Shared by the scripts beside it."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from protoseg.config import recipe_files


def arguments(description: str, results: Path) -> argparse.ArgumentParser:
    """Options that all grids share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated; default 0,1,2")
    parser.add_argument("--methods", default=None, help="comma-separated: names of --method, or the default three")
    parser.add_argument("--results", type=Path, default=results, help=f"JSON lines file of finished cells; default {results}")
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here; default a temporary folder")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    return parser


METHODS = {
    "labels only": ["--method", "supervised"],
    "CutMix teacher": ["--prototypes.per_class", "0"],
    "prototypes": [],
}
"""The three contestants: what each adds to the common settings. Any other name is one of --method."""
TERM = "+prototypes"


def run(
    options: argparse.Namespace,
    extra: Sequence[str],
    common: Callable[[int], Sequence[str]],
    *,
    recipe: str,
    hide: Mapping[str, str],
    **cell: str,
) -> None:
    """Run all cells of the asked methods and seeds, then print the tables.

    Args:
        options: of `arguments`.
        extra: further options of `protoseg train`, for every method; they become part of the cell.
        common: seed -> words of `protoseg train`.
        recipe: of all cells. Its content is part of the cell: a number of another version of it is another number.
        hide: see `run_cell`.
        cell: what else tells these cells from others in the results file.
    """
    methods = options.methods.split(",") if options.methods else list(METHODS)
    content = b"".join(file.read_bytes() for file in recipe_files(recipe))
    cell |= {"recipe": f"{recipe}@{hashlib.sha256(content).hexdigest()[:8]}"}
    if extra:
        cell["settings"] = " ".join(extra)
    if not options.table:
        for seed in (int(text) for text in options.seeds.split(",")):
            for method in methods:
                words = [
                    *common(seed),
                    "--recipe",
                    recipe,
                    "--seed",
                    str(seed),
                    *METHODS.get(method, ["--method", method]),
                    *extra,
                ]
                run_cell({"method": method, "seed": seed, **cell}, words, options.results, options.runs, hide=hide)
    rows = [row for row in read(options.results) if is_cell(row, cell)]
    if rows:
        print(table(rows, methods), class_table(rows, methods), term_table(rows, methods), sep="\n\n")


def read(results: Path) -> list[dict[str, Any]]:
    """The finished cells."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line]


def is_cell(row: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    """Whether a finished row is of these cells: everything equal, and no further settings."""
    same = all(row.get(key) == value for key, value in cell.items())
    return same and all(row.get(key) == cell.get(key) for key in ("settings", "size"))


def run_cell(
    cell: Mapping[str, Any], words: Sequence[str], results: Path, runs: Path | None, *, hide: Mapping[str, str]
) -> None:
    """Train one cell with the public command, unless it is there already, and append its result.

    Args:
        cell: what identifies it, e.g. method and seed.
        words: of `protoseg train`, without --out.
        results: JSON lines file.
        runs: where run folders stay; a temporary folder when left out.
        hide: paths of this machine -> the names by which the results mention them.
    """
    if any(is_cell(row, cell) for row in read(results)):
        return
    name = re.sub(r"[^\w.]+", "-", "-".join(str(value) for value in cell.values()))
    with tempfile.TemporaryDirectory() as scratch:
        out = (runs or Path(scratch)) / name
        resumable = (out / "config.yaml").is_file()
        given = ["--resume", str(out)] if resumable else [*words, "--out", str(out)]
        print(f"== {name}: protoseg train {shlex.join(given)}", flush=True)
        subprocess.run([sys.executable, "-m", "protoseg.cli", "train", *given], check=True)
        result = json.loads((out / "result.json").read_text())
        curve = _curve(out / "metrics.csv")
    command = shlex.join(["protoseg", "train", *words])
    for path, shown in hide.items():
        command = command.replace(path, shown)
    keep = ("miou", "iou", "steps", "seconds", "labeled", "unlabeled", "evaluated", "split")
    row = {**cell, **{key: result[key] for key in keep}, "curve": curve, "command": command}
    row["split"] = {**row["split"], "labels": Path(str(row["split"]["labels"])).name}
    row |= {"versions": result["versions"], "machine": machine(), "finished": time.strftime("%Y-%m-%d")}
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")


def machine() -> str:
    """Processor and GPU, in words."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} {platform.machine()} cores{gpu}"


def table(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """Markdown: mean and standard deviation over seeds, and the paired difference to the first method."""
    by = {(row["method"], row["seed"]): row for row in rows}
    first = methods[0]
    lines = [f"| method | seeds | mIoU, last step | against {first} | steps | seconds a run |", "|---|---|---|---|---|---|"]
    for method in methods:
        cells = [row for (name, _), row in sorted(by.items()) if name == method]
        if not cells:
            continue
        scores = [100 * row["miou"] for row in cells]
        gains = [100 * (row["miou"] - by[first, row["seed"]]["miou"]) for row in cells if (first, row["seed"]) in by]
        difference = "" if method == first or not gains else spread(gains, signed=True)
        seconds = statistics.median(row["seconds"] for row in cells)
        seeds = ", ".join(str(row["seed"]) for row in cells)
        lines.append(f"| {method} | {seeds} | {spread(scores)} | {difference} | {cells[0]['steps']} | {seconds:.0f} |")
    return "\n".join(lines)


def term_table(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """Markdown: what the prototype term adds to each method, paired by seed, with a 95 % t-interval over seeds."""
    by = {(row["method"], row["seed"]): row for row in rows}
    pairs = [(method.removesuffix(TERM), method) for method in methods if method.endswith(TERM)]
    if "CutMix teacher" in methods and "prototypes" in methods:
        pairs.append(("CutMix teacher", "prototypes"))
    lines = ["| method | seeds | the term adds | 95 % interval | |", "|---|---|---|---|---|"]
    for base, termed in pairs:
        seeds = sorted(seed for name, seed in by if name == termed and (base, seed) in by)
        gains = [100 * (by[termed, seed]["miou"] - by[base, seed]["miou"]) for seed in seeds]
        if len(gains) < 2:
            continue
        low, high = t_interval(gains)
        verdict = "not shown" if low <= 0 <= high else ("helps" if low > 0 else "hurts")
        shown = ", ".join(str(seed) for seed in seeds)
        lines.append(f"| {base} | {shown} | {spread(gains, signed=True)} | {low:+.1f} to {high:+.1f} | {verdict} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean, by Student's t over two values or more."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def class_table(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """Markdown: mean IoU over seeds of every class."""
    names = list(rows[0]["iou"])
    lines = ["| class | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for name in names:
        means = []
        for method in methods:
            values = [100 * row["iou"][name] for row in rows if row["method"] == method and row["iou"][name] is not None]
            means.append(f"{statistics.mean(values):.1f}" if values else "")
        lines.append(f"| {name} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """`41.2 ± 0.7`: mean and sample standard deviation."""
    mean = statistics.mean(values)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.1f}"


def _curve(metrics: Path) -> list[list[float]]:
    """(step, mIoU) where a run was scored on the way."""
    with metrics.open(newline="") as file:
        return [[int(row["step"]), round(float(row["miou"]), 4)] for row in csv.DictReader(file) if row.get("miou")]
