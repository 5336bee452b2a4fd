"""How many crops a second does one core bring, and how many the way of the published code bases?

    python benchmarks/input.py

Theirs, as the data sets of FixMatch and UniMatch do it in the worker: decode, resize the whole image with Pillow, crop, flip,
then two strong views by colour jitter, greyscale and blur, two CutMix boxes, and three normalised float tensors. Ours in the
worker: decode, crop, resize the crop, uint8; the strong views are made on the device, and what they cost on this processor
stands in a column of its own. The last columns take the decoded images from `--cache` instead, the same crops of the same
images, and say what a start costs: filling the cache once, and finding and checking it at each later start.

Same files and crop sizes for all, one process and one thread, in turns. Time is the processor's, so that other work on the
machine counts in none of them; files and cache are in memory, so that no disk does either.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import normalize, to_tensor

from protoseg.bench.store import append, machine
from protoseg.config import IMAGENET_MEAN, IMAGENET_STD
from protoseg.data.batch import BatchViews
from protoseg.data.cache import open_cache
from protoseg.data.images import PHOTOGRAPH, read_image
from protoseg.data.index import Sample
from protoseg.data.loader import Geometry, UnlabeledCrops, collate
from protoseg.data.sampler import Draw
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "input.jsonl"


class Setting(NamedTuple):
    width: int
    height: int
    suffix: str
    crop: int


SETTINGS = (
    Setting(500, 375, ".jpg", 321),
    Setting(500, 375, ".jpg", 513),
    Setting(2048, 1024, ".jpg", 801),
    Setting(2048, 1024, ".png", 801),
)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="different images; default 16")
    parser.add_argument("--rounds", type=int, default=7, help="each way takes all images once a round; default 7")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = []
    print("| image | crop | decode | their way | ours, worker | ratio | ours, worker and views | ratio ", end="")
    print("| ours, worker with --cache | ratio to without | to fill it, ms an image | to check it, ms an image |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(setting, write_images(Path(folder), setting, options.images), options.rounds)
        counted = {"images": options.images, "rounds": options.rounds}
        rows.append({**setting._asdict(), **counted, **row, "commit": commit(), "machine": machine()})
        whole = 1 / (1 / row["worker"] + 1 / row["views"])
        cells = [f"{setting.width} x {setting.height} {setting.suffix[1:]}", f"{setting.crop}", f"{row['decode']:.0f}"]
        cells.append(f"{row['theirs']:.1f}")
        for speed in (row["worker"], whole):
            cells += [f"{speed:.0f}", f"{speed / row['theirs']:.1f} x"]
        cells += [f"{row['cached']:.0f}", f"{row['gain']:.2f} x", f"{1000 * row['fill']:.1f}", f"{1000 * row['check']:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nImages a second of one core, medians of {options.rounds} rounds over {options.images} images; {machine()}.")
    for row in rows:
        append(options.results, row | {"finished": time.strftime("%Y-%m-%d")})


def write_images(folder: Path, setting: Setting, count: int) -> list[Path]:
    """Photographs of any size: scikit-learn's two beside their mirror images, shifted, so that texture stays."""
    photos = [np.concatenate([np.concatenate([photo, photo[:, ::-1]], 1)] * 2) for photo in load_sample_images().images]
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        photo = photos[i % len(photos)]
        tiles = np.tile(photo, (1 + setting.height // photo.shape[0], 1 + setting.width // photo.shape[1], 1))
        tiles = np.roll(tiles, rng.integers(0, 400, size=2), axis=(0, 1))[: setting.height, : setting.width]
        paths.append(folder / f"{i}{setting.suffix}")
        Image.fromarray(tiles).save(paths[-1], **({"quality": 92} if setting.suffix == ".jpg" else {}))
    return paths


def measure(setting: Setting, paths: list[Path], rounds: int) -> dict[str, float]:
    """Images a second of each part."""
    samples = [Sample(path.stem, path, mask=None, split="train") for path in paths]
    ours = UnlabeledCrops(samples, Geometry(setting.crop))
    folder, starts = paths[0].parent / "cache", list[float]()
    for _ in range(2):
        start = time.process_time()
        cache = open_cache(folder, samples, PHOTOGRAPH, say=lambda text: None)
        starts.append((time.process_time() - start) / len(paths))
    cached = UnlabeledCrops(samples, Geometry(setting.crop), cache=cache)
    views = BatchViews(mean=IMAGENET_MEAN, std=IMAGENET_STD, num_strong=2, cutmix_per="image")
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"decode": [], "theirs": [], "worker": [], "cached": [], "views": []}
    for round_ in range(rounds + 1):  # the first is not counted
        draws = [Draw(i, seed=round_ * len(paths) + i) for i in range(len(paths))]
        raw = collate([ours[draw] for draw in draws[:8]])
        parts: dict[str, tuple[int, Callable[[], object]]] = {
            "decode": (len(paths), lambda: [read_image(path) for path in paths]),
            "theirs": (len(paths), lambda: [their_way(path, setting.crop, rng) for path in paths]),
            "worker": (len(paths), lambda draws=draws: [ours[draw] for draw in draws]),  # type: ignore[misc]
            "cached": (len(paths), lambda draws=draws: [cached[draw] for draw in draws]),  # type: ignore[misc]
            "views": (len(draws[:8]), lambda raw=raw: views.unlabeled(raw, step=0)),  # type: ignore[misc]
        }
        for name, (count, part) in parts.items():
            start = time.process_time()
            part()
            times[name] += [(time.process_time() - start) / count] if round_ else []
    gain = statistics.median(plain / kept for plain, kept in zip(times["worker"], times["cached"], strict=True))
    speeds = {name: 1 / statistics.median(values) for name, values in times.items()}
    return speeds | {"gain": gain, "fill": starts[0], "check": starts[1]}


def their_way(path: Path, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One unlabelled item: weak view, two strong views, two boxes."""
    image = Image.open(path).convert("RGB")
    longer = int(rng.integers(int(max(image.size) * 0.5), int(max(image.size) * 2.0) + 1))
    width, height = (round(side * longer / max(image.size)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = ImageOps.expand(image, border=(0, 0, max(0, size - width), max(0, size - height)), fill=0)
    left, top = (int(rng.integers(0, side - size + 1)) for side in image.size)
    image = image.crop((left, top, left + size, top + size))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    strong = [_normalized(_their_colors(image, rng)) for _ in range(2)]
    return _normalized(image), strong[0], strong[1], _their_box(size, rng), _their_box(size, rng)


def _their_colors(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.8:
        image = ColorJitter(0.5, 0.5, 0.5, 0.25)(image)
    if rng.random() < 0.2:
        image = ImageOps.grayscale(image).convert("RGB")
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(radius=rng.uniform(0.1, 2.0)))
    return image


def _their_box(size: int, rng: np.random.Generator) -> Tensor:
    box = torch.zeros(size, size)
    if rng.random() < 0.5:
        area, ratio = rng.uniform(0.02, 0.4) * size * size, rng.uniform(0.3, 1 / 0.3)
        width, height = min(size, int((area / ratio) ** 0.5)), min(size, int((area * ratio) ** 0.5))
        left, top = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
        box[top : top + height, left : left + width] = 1
    return box


def _normalized(image: Image.Image) -> Tensor:
    return normalize(to_tensor(image), list(IMAGENET_MEAN), list(IMAGENET_STD))


if __name__ == "__main__":
    main()
