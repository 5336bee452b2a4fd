"""How long does `protoseg doctor` take to read a data set once?

    python benchmarks/doctor.py

Writes JPEG images of 500x375 into a temporary folder, some of them with masks and some of them for tests, and runs the command
on them. The images are crops of scikit-learn's two photographs at all sizes, laid over each other: as hard to decode as
photographs are, and no two alike. Seconds are those of the whole command, its start included; processor seconds, of all its
threads together, say what it takes where other work runs beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from protoseg.bench.store import append, machine
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "doctor.jsonl"
_SIZE = (500, 375)
_CELLS = (10, 8)  # of a mask, which is made of smooth areas
_CLASSES = 4


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="in all; default 1000")
    parser.add_argument("--labeled", type=int, default=100, help="training images with masks; default 100")
    parser.add_argument("--test", type=int, default=100, help="test images, all with masks; default 100")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the median counts; default 3")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        write_images(data, options.images, labeled=options.labeled, test=options.test)
        runs = [run(data) for _ in range(options.repeats)]
    times = [seconds for seconds, _ in runs]
    median, processor = statistics.median(times), statistics.median(seconds for _, seconds in runs)
    row = {"images": options.images, "masks": options.labeled + options.test, "runs": sorted(times), "seconds": median}
    row |= {"processor_seconds": processor, "commit": commit(), "machine": machine(), "finished": time.strftime("%Y-%m-%d")}
    append(options.results, row)
    print("| images | masks | workers | seconds | of | images a second | processor seconds | machine |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {options.images} | {options.labeled + options.test} | {os.cpu_count()} | {median:.1f} | {min(times):.1f} to "
        f"{max(times):.1f} in {len(times)} runs | {options.images / median:.0f} | {processor:.1f} | {machine()} |"
    )


def write_images(root: Path, number: int, *, labeled: int, test: int, seed: int = 0) -> None:
    """A folder with so many images, the first of them labelled and the last of them for tests.

    Raises:
        ValueError: there are fewer images than are to have masks.
    """
    if labeled + test > number:
        raise ValueError(f"--labeled {labeled} and --test {test} are more than --images {number}")
    rng = np.random.default_rng(seed)
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for i in range(number):
        below = "test" if i >= number - test else ""
        for kind in ("images", "masks"):
            (root / kind / below).mkdir(parents=True, exist_ok=True)
        crops = [_crop(photographs[k], rng) for k in rng.integers(0, len(photographs), 2)]
        Image.blend(crops[0], crops[1], rng.uniform(0, 0.5)).save(root / "images" / below / f"{i:05d}.jpg", quality=90)
        if below or i < labeled:
            noise = Image.fromarray(rng.integers(0, 256, _CELLS[::-1], dtype=np.uint8))
            smooth = np.asarray(noise.resize(_SIZE, Image.Resampling.BICUBIC))
            mask = (smooth // (256 // _CLASSES)).astype(np.uint8)
            Image.fromarray(mask).save(root / "masks" / below / f"{i:05d}.png")


def _crop(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of a photograph of any place and size, mirrored or not."""
    width = int(rng.integers(160, photograph.width))
    height = min(photograph.height, width * _SIZE[1] // _SIZE[0])
    left, top = rng.integers(0, photograph.width - width + 1), rng.integers(0, photograph.height - height + 1)
    part = photograph.resize(_SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def run(data: Path) -> tuple[float, float]:
    """Seconds of one run of the command, and those that processors worked for it."""
    words = [sys.executable, "-m", "protoseg.cli", "doctor", str(data), "--out", str(data.parent / "doctor.json")]
    started, before = time.perf_counter(), os.times()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4])  # of ended processes: in Python, and in the system


if __name__ == "__main__":
    main()
