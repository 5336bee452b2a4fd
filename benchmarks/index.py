"""What does a large pool of unlabelled images cost before the first step, in seconds and in memory?

    python benchmarks/index.py

Writes a data set of a few labelled images and, in a folder beside it, a million names of small photographs in a thousand
folders (hard links, so that they take no room), and does in a process of its own what every command does first: list the
images, divide them, hash the lists, and pack the unlabelled ones for a worker process. Nothing of them is decoded. Seconds are
the processor's, so that other work on the machine does not count; the directories are in memory, so that no disk does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg.bench.store import append, machine
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "index.jsonl"
PER_LINK = 50_000  # names of one file: ext4 allows 65,000
LABELED = 20


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000, help="unlabelled ones; default 1000000")
    parser.add_argument("--folders", type=int, default=1_000, help="that they stand in; default 1000")
    parser.add_argument("--inside", action="store_true", help="in the data set's own images/, not in a folder for --unlabeled")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options = parser.parse_args(words)
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    scratch = Path(tempfile.mkdtemp(prefix="protoseg-index-"))
    try:
        root, pool = write_data(scratch, options.images, options.folders, inside=options.inside)
        command = [sys.executable, __file__, "--measure", str(root), str(pool)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        shutil.rmtree(scratch)
    row = {"images": options.images, "folders": options.folders, "inside": options.inside, **row}
    row |= {"commit": commit(), "machine": machine(), "finished": time.strftime("%Y-%m-%d")}
    print("| images | list | divide | hash | pack for a worker | packed | held after | peak | machine |")
    print("|---|---|---|---|---|---|---|---|---|")
    seconds = [f"{row[name]:.1f} s" for name in ("list", "divide", "hash", "pack")]
    sizes = [f"{row[name] >> 20:,} MiB" for name in ("packed", "held", "peak")]
    print(f"| {' | '.join([f'{options.images:,}', *seconds, *sizes, row['machine']])} |")
    append(options.results, row)


def write_data(scratch: Path, images: int, folders: int, *, inside: bool) -> tuple[Path, Path]:
    """A data set, and the folder of unlabelled images (the same one where they stand inside)."""
    root, rng = scratch / "data", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(LABELED):
        picture = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        picture.save(root / f"images/labelled_{i:03d}.png")
        Image.fromarray(rng.integers(0, 3, (48, 64), dtype=np.uint8)).save(root / f"masks/labelled_{i:03d}.png")
    pool, source = root / "images" if inside else scratch / "pool", scratch / "source"
    source.mkdir()
    for link in range(-(-images // PER_LINK)):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(source / f"{link}.jpg")
    for folder in range(folders):
        (pool / f"survey_{folder // 100:02d}/day_{folder:04d}").mkdir(parents=True)
    for i in range(images):
        folder = i % folders
        os.link(source / f"{i // PER_LINK}.jpg", f"{pool}/survey_{folder // 100:02d}/day_{folder:04d}/IMG_{i:08d}.jpg")
    return root, root if inside else pool


def measure(root: Path, pool: Path) -> dict[str, float]:
    """Seconds of each part; bytes that the process holds more at its end, and at most, than before."""
    from protoseg.data.formats import open_dataset
    from protoseg.data.loader import Geometry, UnlabeledCrops
    from protoseg.data.splits import make_partition

    def timed(name: str, part: Callable[[], object]) -> object:
        start = time.process_time()
        result = part()
        row[name] = time.process_time() - start
        return result

    row: dict[str, float] = {}
    gc.collect()
    before = memory("VmRSS")
    index = timed("list", lambda: open_dataset(root, unlabeled=None if pool == root else pool))
    partition = timed("divide", lambda: make_partition(index))  # type: ignore[arg-type]
    timed("hash", lambda: (partition.hash, partition.unlabeled_hash))  # type: ignore[attr-defined]
    crops = UnlabeledCrops(partition.unlabeled, Geometry(321))  # type: ignore[attr-defined]
    packed = timed("pack", lambda: pickle.dumps(crops))
    row["packed"] = len(packed)  # type: ignore[arg-type]
    row["peak"] = memory("VmHWM") - before
    del packed
    gc.collect()
    return row | {"held": memory("VmRSS") - before, "unlabeled": len(partition.unlabeled)}  # type: ignore[attr-defined]


def memory(name: str) -> int:
    """Bytes of this process as Linux counts them: VmRSS now, VmHWM at most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main()
