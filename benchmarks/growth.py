"""How does the prototype branch grow with classes, prototypes of each, and the size of the crop?

    python benchmarks/growth.py [--classes 2,21,100,250,1000] [--per-class 1,4,16,64] [--crops 129,257,513]

One step of the branch alone, as in benchmarks/branch.py: features of the chosen pixels, cosines, loss, gradient of the feature
map, and the move of the prototypes. First classes by prototypes at one crop, up to 16,000 prototypes in all (64,000 take a
processor 20 seconds), then the crop alone. All cases take turns, so that whatever else the machine does meets each of them
alike; ratios are medians over these rounds. More than 255 classes are for this measurement only (docs/decisions/0022).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from branch import Case, at_points, make_case, make_head, peak_bytes, seconds
from protoseg.bench.store import append, machine
from protoseg.nn import prototype_head
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "growth.jsonl"
MOST = 16_000  # prototypes in all


class Size(NamedTuple):
    """What one case measures; the first one of all is what the others are compared with."""

    classes: int
    per_class: int
    crop: int


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", default="2,21,100,250,1000", help="comma-separated; default %(default)s")
    parser.add_argument("--per-class", default="1,4,16,64", help="comma-separated; default %(default)s")
    parser.add_argument("--crops", default="129,257,513", help="comma-separated, in pixels; default %(default)s")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--stride", type=int, default=4, help="of the feature map; default 4")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each case, in turns; default 5")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options = parser.parse_args(words)
    of = commit()  # before rows are added to a file of the checkout
    classes, per_class, crops = (
        [int(text) for text in given.split(",")] for given in (options.classes, options.per_class, options.crops)
    )
    together = [Size(c, k, 257) for c in classes for k in per_class if c * k <= MOST]
    sizes = [Size(21, 4, 257), *together, *(Size(21, 4, crop) for crop in crops)]
    sizes = list(dict.fromkeys(sizes))
    with patch.object(prototype_head, "IGNORE_INDEX", 2**16 - 1):  # not 255, which is a class here
        times, memory = measured(sizes, options)
    print(
        "| classes | prototypes of each | crop | seconds a step | against the first | peak memory |\n|---|---|---|---|---|---|"
    )
    for size in sizes:
        ratio = statistics.median(own / base for own, base in zip(times[size], times[sizes[0]], strict=True))
        row: dict[str, Any] = {**size._asdict(), "seconds": statistics.median(times[size]), "ratio": ratio}
        row |= {"peak_bytes": memory[size], "batch": options.batch, "channels": options.channels, "stride": options.stride}
        row |= {"rounds": options.rounds, "threads": torch.get_num_threads(), "commit": of, "machine": machine()}
        append(options.results, row | {"finished": time.strftime("%Y-%m-%d")})
        cells = [*map(str, size), f"{row['seconds']:.4f}", f"{ratio:.2f}", f"{memory[size] / 2**20:.0f} MiB"]
        print(f"| {' | '.join(cells)} |")


def measured(sizes: list[Size], options: argparse.Namespace) -> tuple[dict[Size, list[float]], dict[Size, int]]:
    """Seconds of each case in each round, and peak bytes."""
    times: dict[Size, list[float]] = {size: [] for size in sizes}
    memory = dict[Size, int]()
    for round_ in range(options.rounds + 1):  # the first is not counted
        for size in sizes:
            case, head = make(size, options)
            taken = seconds(at_points, case, head)
            if round_ == 0:
                memory[size] = peak_bytes(at_points, case, head)
            else:
                times[size].append(taken)
    return times, memory


def make(size: Size, options: argparse.Namespace) -> tuple[Case, PrototypeHead]:
    """Random features and labels of that size, and prototypes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = make_case(options.batch, options.channels, size.crop, options.stride, size.classes, device)
    return case, make_head(case, size.classes, size.per_class)


if __name__ == "__main__":
    main()
