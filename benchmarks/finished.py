"""A finished run, opened again by the scripts beside it, and the lines they keep of what they see."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from protoseg.arguments import parse_train
from protoseg.bench import store
from protoseg.data.index import Sample
from protoseg.run import load_data
from protoseg.trained import Head, TrainedModel, by_prototypes, load_model

LOOKS = Path(__file__).with_name("results") / "looks.jsonl"
"""What was seen in finished runs, one look a line."""


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: of the run.
        per_class: its prototypes of a class, 0 without the term.
        model: whose labels are asked for.
        labeled, unlabeled, evaluation: its images.
    """

    folder: Path
    per_class: int
    model: TrainedModel
    labeled: list[Sample]
    unlabeled: list[Sample]
    evaluation: list[Sample]

    def with_truth(self, at_most: int) -> list[Sample]:
        """Evenly spaced ones of the unlabelled images whose masks a benchmark's data set has and training never opens."""
        pool = [sample for sample in self.unlabeled if sample.mask is not None]
        if not pool:
            raise SystemExit(f"{self.folder}: none of its unlabelled images has a mask, so there is nothing to compare with")
        return pool[:: max(1, len(pool) // at_most)]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Options that all of these scripts share."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--head", default="linear", choices=get_args(Head), help="whose labels; default linear")
    parser.add_argument("--results", type=Path, default=LOOKS, help=f"JSON lines file to add to; default {LOOKS}")
    return parser


def open_run(folder: Path, head: Head) -> Finished:
    """A finished run with one of its predictors.

    Raises:
        FileNotFoundError, ValueError: it, its data or its prototypes are not there.
    """
    config = parse_train(["--resume", str(folder)])
    partition, model = load_data(config).partition, load_model(folder)
    if head != "linear":
        model = by_prototypes(model, folder, mean=head == "mean")
    images = (list(part) for part in (partition.labeled, partition.unlabeled, partition.evaluation))
    return Finished(folder, config.prototypes.per_class or 0, model, *images)


def keep(results: Path, look: str, run: Finished, **seen: Any) -> None:
    """Add what was seen, with what the run was."""
    result = json.loads((run.folder / "result.json").read_text())
    of_run = {key: result[key] for key in ("method", "recipe", "seed", "steps", "labeled", "unlabeled")}
    of_run["per_class"] = run.per_class
    row = {"look": look, "run": run.folder.name, **of_run, "commit": result["versions"]["commit"], **seen}
    store.append(results, row | {"machine": store.machine(), "finished": time.strftime("%Y-%m-%d")})
