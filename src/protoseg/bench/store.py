"""The finished cells of a benchmark: one JSON object a line, appended and never changed."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.report.shapes import is_number_or_nan
from protoseg.stored import is_number, is_score, is_text, is_whole, misfit, read_json

_KEPT = ("miou", "iou", "steps", "seconds", "labeled", "unlabeled", "evaluated", "split")
"""What a row takes from `result.json`."""

_RESULT = {
    "miou": is_number_or_nan,
    "seconds": is_number,
    **dict.fromkeys(("steps", "labeled", "unlabeled", "evaluated"), is_whole),
    "iou": {str: is_score},
    "split": {"labels": is_text, "evaluation": is_text, "hash": is_text},
    "peak_bytes": lambda value: value is None or is_whole(value),
    "versions": lambda value: isinstance(value, dict),
    "events?": [{"step": is_whole, "alarm": is_text}],
}
"""Of that file, as far as a row takes from it."""

_MOST_CLASSES = 64  # whose confusions a row holds: of more, the lines of a results file would be mostly these


def read(results: Path) -> list[dict[str, Any]]:
    """The finished cells; none where there is no file.

    Raises:
        ValueError: a line is damaged.
    """
    if not results.is_file():
        return []
    rows = []
    for number, line in enumerate(results.read_text().splitlines(), 1):
        if line:
            try:
                rows.append(json.loads(line))
                if why := misfit(rows[-1], {}):
                    raise ValueError(why)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{results}, line {number} is damaged ({error}); take it out, and its cell runs again"
                ) from error
    return rows


def append(results: Path, row: Mapping[str, Any]) -> None:
    """Add a finished cell."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")  # one write, so that two benchmarks may share a file


def row_of(identity: Mapping[str, Any], words: Sequence[str], run: Path, *, hide: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of a finished run.

    Args:
        identity: of its cell.
        words: of `protoseg train`.
        run: its folder.
        hide: paths of this machine -> the names by which the row mentions them.

    Raises:
        ValueError: it was not scored, or its result is damaged.
    """
    file, advice = run / "result.json", f"remove {run}, and the training runs again"
    result = read_json(file, {}, advice=advice)
    if "miou" not in result:
        raise ValueError("the run was not scored; keep labelled images back with --holdout 1/5")
    if why := misfit(result, _RESULT):
        raise ValueError(f"{file} is damaged ({why}); {advice}")
    command = shlex.join(["protoseg", "train", *words])
    for path, shown in hide.items():
        command = command.replace(path, shown)
    row = {**identity, **{key: result[key] for key in _KEPT}}
    row["split"] = {**result["split"], "labels": Path(str(result["split"]["labels"])).name}
    row |= read_metrics(run / "metrics.csv") | _confusion(run) | _alarms(result)
    row |= {"peak_bytes": result["peak_bytes"], "command": command, "versions": result["versions"]}
    return row | {"machine": machine(), "finished": time.strftime("%Y-%m-%d")}


def _confusion(run: Path) -> dict[str, list[list[int]]]:
    """`confusion`, pixels of each true class (rows) that are predicted as each class; nothing of many classes, nor of a run of
    earlier versions, which did not keep it."""
    from protoseg.engine.tally import TALLY, Tally

    if not (run / TALLY).is_file():
        return {}
    tally = Tally.load(run / TALLY)
    return {"confusion": tally.confusion.tolist()} if tally.num_classes <= _MOST_CLASSES else {}


def _alarms(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """`alarms` of a run that had any, in words."""
    events = result.get("events", ())
    return {"alarms": [f"step {event['step']}: {event['alarm']}" for event in events]} if events else {}


def read_metrics(metrics: Path) -> dict[str, Any]:
    """`curve`, (step, mIoU) where the run was scored on the way, and `images_per_second`, the median over the second half of
    its steps, when everything takes part."""
    with metrics.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curve = [[int(row["step"]), round(float(row["miou"]), 4)] for row in rows if row.get("miou")]
    late = [float(row["images_per_second"]) for row in rows if 2 * int(row["step"]) > int(rows[-1]["step"])]
    return {"curve": curve, "images_per_second": statistics.median(late)}


def machine() -> str:
    """Processor and GPU, in words."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} {platform.machine()} cores{gpu}"
