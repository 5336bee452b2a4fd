"""Starts the other contestants of a grid from the warm-up of its prototype run, instead of training that three times.

    python benchmarks/camvid.py --root CAMVID --weights WEIGHTS --runs RUNS --seeds 0 --methods prototypes &
    python benchmarks/fork.py RUNS/prototypes-0-23-test-camvid-3a7d3a64 --wait
    python benchmarks/camvid.py --root CAMVID --weights WEIGHTS --runs RUNS --seeds 0 --methods "labels only,CutMix teacher"

Until the end of the warm-up all three are one run: a method's own terms and the prototypes start after it, and no unlabelled
crop is looked at. So the checkpoint of that step, in a run folder with a contestant's settings, goes on to the numbers of its
whole run. The folders are made beside the first, under the names by which the last command finds them. A contestant may also be
the prototype run with other settings of the term: with --also "--prototypes.emphasis uncertain" here, and these words and
--methods prototypes in a command like the last.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from protoseg.arguments import parse_train
from protoseg.bench.cells import NAMED, folder_name, method_words
from protoseg.config import metric_fields
from protoseg.dry_run import differences
from protoseg.engine.callbacks import SHARES, read_rows, read_shares
from protoseg.engine.resumable import CHECKPOINT, PREVIOUS, DamagedError, load_state, save_state
from protoseg.engine.train import METRICS
from protoseg.files import make_folder, write_text
from protoseg.report.gather import START
from protoseg.run import settle
from protoseg.settings import TrainConfig
from protoseg.stage import stored_json, write_json
from protoseg.stored import is_text
from protoseg.trained import CONFIG, SPLIT, require_empty

SOURCE = "prototypes"
OTHERS = tuple(name for name in NAMED if name != SOURCE)
_OF_PROTOTYPES = "method.prototypes."
"""What the names of their tensors in a checkpoint begin with."""
_AFTER_WARMUP = {f"consistency.{name}" for name in ("threshold", "selection", "normalizer", "weight")}
"""Settings beside the prototypes' own that change nothing before the warm-up's end."""
_FROM_THE_START = {f"prototypes.{name}" for name in ("per_class", "start", "class_prior")}
"""Settings of the prototypes that their tensors have from the first step on."""
_PAUSE = 2.0  # seconds between two looks at a run that has not come so far


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help=f"folder of a {SOURCE} cell, in its warm-up or hardly past it")
    parser.add_argument("--wait", action="store_true", help="until the run has begun and come to the end of its warm-up")
    parser.add_argument("--also", action="append", default=[], metavar="WORDS", help=f"{SOURCE} with these settings")
    options = parser.parse_args()
    try:
        for out in fork(options.run, wait=options.wait, also=options.also):
            print(f"{out}: goes on with protoseg train --resume, or with the benchmark that the run is of", flush=True)
    except (ValueError, OSError) as error:
        raise SystemExit(f"fork.py: {error}") from error


def fork(run: Path, *, wait: bool = False, also: Sequence[str] = ()) -> list[Path]:
    """Make the run folders of the other contestants beside that of the prototype run.

    Args:
        run: folder of the prototype run, which may be training.
        wait: for its start and for the last checkpoint of its warm-up; else the newest one will do, and the steps that it lacks
            are trained again by each.
        also: further contestants: the prototype run with other settings, each as the words that `protoseg train` takes.

    Returns:
        The new folders.

    Raises:
        ValueError: it is no prototype run, its checkpoints are past the warm-up, or a setting of `also` changes the warm-up.
        FileExistsError: a contestant has a folder already.
        FileNotFoundError: there is no such run.
    """
    if wait:
        print(f"waiting for {run} to come to the end of its warm-up", flush=True)
    while wait and not (run / CONFIG).is_file():
        time.sleep(_PAUSE)
    config = parse_train(["--resume", str(run)])
    if config.method != "prototype" or not config.prototypes.per_class or not run.name.startswith(f"{SOURCE}-"):
        raise ValueError(f"{run} is no {SOURCE} cell of a benchmark; give the folder of one, {SOURCE}-SEED-...")
    contestants = [(name, "") for name in OTHERS] + [(SOURCE, words) for words in also]
    shared = run.name.removeprefix(SOURCE)
    folders = [run.with_name(folder_name(f"{name}{shared}", *filter(None, [words]))) for name, words in contestants]
    for out in folders:
        require_empty(out, "--runs")
    settings = [settings_of(name, words, run, config) for name, words in contestants]
    state = shared_state(run, config, wait=wait)
    for own, out in zip(settings, folders, strict=True):
        write_fork(run, out, config, own, state)
    return folders


def settings_of(name: str, words: str, run: Path, config: TrainConfig) -> TrainConfig:
    """Those of another contestant: the run's own, with the run's settings file in the place of the recipe."""
    other = parse_train([config.data, "--recipe", str(run / CONFIG), *method_words(name), *shlex.split(words)])
    settled = settle(dataclasses.replace(other, recipe=config.recipe), console=Console(quiet=True))[0]
    if not words:
        return settled
    plain = settings_of(name, "", run, config)
    changed = [text.split()[0] for text in differences(plain.to_dict(), settled.to_dict())]
    late = [key for key in changed if key in _AFTER_WARMUP or (key.startswith("prototypes.") and key not in _FROM_THE_START)]
    if early := sorted({*changed}.difference(late)):
        raise ValueError(
            f"{early[0]} changes the checkpoint of the warm-up too, which {words!r} would share; train that cell whole"
        )
    return settled


def shared_state(run: Path, config: TrainConfig, *, wait: bool) -> dict[str, Any]:
    """The newest checkpoint that all contestants have in common. A running run keeps its last two.

    Raises:
        ValueError: there is none, or none any more.
    """
    end, every = config.consistency.warmup_steps, config.checkpoint_every
    assert end is not None
    assert every is not None
    awaited = end // every * every if wait else 0
    while True:
        found = [state for name in (CHECKPOINT, PREVIOUS) if (state := _read(run / name)) is not None]
        states = {int(state["global_step"]): state for state in found}
        shared = [step for step in states if step <= end]
        if shared and max(shared) >= awaited:
            return states[max(shared)]
        if states and not shared:
            raise ValueError(
                f"{run} is past its warm-up, which ended at step {end}: its checkpoints are of step "
                f"{' and '.join(map(str, sorted(states)))}. Fork a run in time, best with --wait beside it"
            )
        if not wait:
            raise ValueError(f"{run} has no checkpoint yet; --wait waits for that of the end of its warm-up")
        time.sleep(_PAUSE)


def _read(checkpoint: Path) -> dict[str, Any] | None:
    """A checkpoint; None where there is none, or the run has renamed it while it was looked for."""
    try:
        return load_state(checkpoint)
    except DamagedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def write_fork(run: Path, out: Path, config: TrainConfig, own: TrainConfig, state: dict[str, Any]) -> None:
    """Write a run folder that stands at the run's checkpoint, with settings of its own."""
    step = int(state["global_step"])
    make_folder(out)
    keeps = bool(own.prototypes.per_class)
    tensors = {name: value for name, value in state["state_dict"].items() if keeps or not name.startswith(_OF_PROTOTYPES)}
    save_state({**state, "state_dict": tensors}, out / CHECKPOINT)
    foreign = set(metric_fields(config)) - set(metric_fields(own))  # columns that stay empty until the warm-up's end
    rows = [row for row in read_rows(run / METRICS) if int(row["step"]) <= step]
    text = io.StringIO()
    table = csv.DictWriter(text, [name for name in (rows[0] if rows else ()) if name not in foreign], extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    write_text(out / METRICS, text.getvalue())
    shares = [row for row in read_shares(run / SHARES) if row["step"] <= step]
    write_text(out / SHARES, "".join(json.dumps(row) + "\n" for row in shares))
    write_json(out / SPLIT, stored_json(run / SPLIT, {}))
    start = stored_json(run / START, {"commands": [is_text]})
    command = shlex.join(["python", "benchmarks/fork.py", *sys.argv[1:]])
    write_json(out / START, start | {"commands": [*start["commands"], command]})
    settings = dataclasses.replace(own, out=str(out)).to_dict()
    write_text(out / CONFIG, yaml.safe_dump(settings, sort_keys=False))  # last: what has settings can go on


if __name__ == "__main__":
    main()
