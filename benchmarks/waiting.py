"""How long is a step on a CPU when somebody else wants a core, by how torch's threads wait for each other?

    python benchmarks/waiting.py
    python benchmarks/waiting.py --recipe camvid

Steps of a recipe's network and method (the demo's with 48 px, CamVid's with 160 px and weights from nothing) with as many
threads as the machine has cores: threads that spin while they wait (what torch's wheels do when nobody says anything), that
spin briefly and then sleep, that sleep at once, and one thread alone; with nothing beside and beside one process that is
always busy. Each cell is a process of its own for some seconds; the cells take turns. Ratios are of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protoseg.bench.store import append, machine
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "waiting.jsonl"
_THREE = "--model.mean [0.5,0.5,0.5] --model.std [0.25,0.25,0.25]"  # channels; the demo's own images have one
_RECIPES = {"demo": (8, 48, f"--prototypes.delay 0 {_THREE}"), "camvid": (4, 160, "--model.weights none")}
"""Images of each half of a batch, their side, and what else `protoseg train` is told."""
_DEFAULT = "spin"
_WAYS = {
    _DEFAULT: {},
    "spin briefly": {"GOMP_SPINCOUNT": "10000"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
_SET = {name for way in _WAYS.values() for name in way}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", choices=_RECIPES, default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of each cell; it ends with the step that is then under way")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.recipe, options.seconds)))
        return
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for beside in ("nothing", "one busy process"):
            for way, own in _WAYS.items():
                words = [sys.executable, __file__, "--measure", "--seconds", str(options.seconds), "--recipe", options.recipe]
                environment = {name: value for name, value in os.environ.items() if name not in _SET} | own
                with busy(beside != "nothing"):
                    output = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
                found.setdefault((beside, way), []).extend(json.loads(output))
    print("| beside | threads that wait | steps | seconds a step | against spin |\n|---|---|---|---|---|")
    for (beside, way), seconds in found.items():
        middle = statistics.median(seconds)
        ratio = middle / statistics.median(found[beside, _DEFAULT])
        print(f"| {beside} | {way} | {len(seconds)} | {middle:.3f} | {ratio:.2f} |")
        row = {"recipe": options.recipe, "beside": beside, "way": way, "steps": len(seconds)}
        row |= {"seconds": round(middle, 4), "against_spin": round(ratio, 2)}
        row |= {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d")}
        append(options.results, row)


def measured(recipe: str, seconds: float) -> list[float]:
    """Seconds of each step, without the first three."""
    import torch

    from step import Step, crops

    device, (batch, side, words) = torch.device("cpu"), _RECIPES[recipe]
    one = Step(["data", "--recipe", recipe, "--no-baseline", *words.split()], device)
    raw, taken, end = crops(batch, side, 0, device), list[float](), time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 4:
        taken.append(one.run(raw, len(taken)))
    return taken[3:]


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Somebody else."""
    if not wanted:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


if __name__ == "__main__":
    main()
