"""What does prediction cost beside the bare network, and how much memory does a huge image take?

    python benchmarks/predict.py speed [--encoder resnet50] [--side 1536] [--window 513]
    python benchmarks/predict.py memory [--side 20000] [--kinds tiff,png]

`speed` predicts a folder of photographs through overlapping windows as the command does: read, cut, normalise, network,
average, write mask, overlay and confidence. Then the network alone sees the same windows, cut and normalised beforehand, as
many at a time. Both in turns; the ratio is the median over rounds. `memory` predicts one generated image by a small network in
a process of its own, and says how far that process grew beyond what it had before it opened the image, at its peak.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from protoseg.bench.store import append, machine
from protoseg.data.images import read_image
from protoseg.data.index import Sample, table_from_values
from protoseg.data.limit import MAX_PIXELS
from protoseg.engine.evaluate import Normalization
from protoseg.engine.inference import Inference, num_windows, starts
from protoseg.engine.machine import peak_bytes
from protoseg.engine.predict import predict
from protoseg.nn.segmenter import create_segmenter
from protoseg.nn.small_unet import SmallUNet
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "predict.jsonl"
NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BLOCK, _TILE = 1000, 512  # a block of noise that is repeated, and the tiles of the TIFF


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("speed", "memory", "one"), help="`one` is what `memory` starts for each kind of file")
    parser.add_argument("--arch", default="deeplabv3plus", help="speed: default %(default)s")
    parser.add_argument("--encoder", default="resnet50", help="speed: default %(default)s")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--side", type=int, help="of the images in pixels; default 1536 for speed, 20000 for memory")
    parser.add_argument("--window", type=int, default=513, help="speed: default %(default)s")
    parser.add_argument("--images", type=int, default=4, help="speed: default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="speed: of both in turns; default %(default)s")
    parser.add_argument("--kinds", default="tiff,png", help="memory: default %(default)s")
    parser.add_argument("--crop", type=int, default=321, help="memory: of the training; default %(default)s")
    parser.add_argument("--image", type=Path, help="one: to predict")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines file to add to; default %(default)s")
    options = parser.parse_args(words)
    if options.what == "one":
        print(json.dumps(grown(options.image, options.classes, options.crop)))
        return
    options.side = options.side or {"speed": 1536, "memory": 20_000}[options.what]
    with tempfile.TemporaryDirectory() as scratch:
        rows = list((speed if options.what == "speed" else memory)(options, Path(scratch)))
    for row in rows:
        row |= {"threads": torch.get_num_threads(), "commit": commit(), "machine": machine()}
        append(options.results, row | {"finished": time.strftime("%Y-%m-%d")})


def speed(options: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = create_segmenter(options.arch, options.encoder, num_classes=options.classes).eval().to(device)
    network.to(memory_format=torch.channels_last)
    samples = [Sample(f"{i}", scratch / f"{i}.jpg", None, "test") for i in range(options.images)]
    for i, sample in enumerate(samples):
        write_photograph(sample.image, options.side, seed=i)
    inference = Inference(window=options.window)
    batches = [batch for sample in samples for batch in windows_of(read_image(sample.image), inference, device)]
    table, times = table_from_values(list(range(options.classes))), list[tuple[float, float]]()
    for i in range(options.rounds + 1):
        start = time.perf_counter()
        predict(network, samples, table, NORMALIZATION, out=scratch / f"out-{i}", inference=inference)
        whole = time.perf_counter() - start
        times.append((whole, alone(network, batches)))
    del times[0]  # in which libraries choose their algorithms
    ratio = statistics.median(bare / whole for whole, bare in times)
    whole, bare = (statistics.median(column) for column in zip(*times, strict=True))
    pixels = options.images * options.side**2
    num = sum(len(batch) for batch in batches)
    print("| | seconds | megapixels a second |\n|---|---|---|")
    for name, seconds in (("predict", whole), ("the network alone, on the same windows", bare)):
        print(f"| {name} | {seconds:.2f} | {pixels / 1e6 / seconds:.2f} |")
    print(f"predict reaches {ratio:.2f} of the network's own speed ({num} windows of {options.window} px)")
    given = {key: getattr(options, key) for key in ("arch", "encoder", "classes", "side", "window", "images", "rounds")}
    yield {"what": "speed", **given, "windows": num, "seconds": {"predict": whole, "network": bare}, "ratio": ratio}


def windows_of(image: NDArray[Any], inference: Inference, device: torch.device) -> list[Tensor]:
    """What the network is shown of an image, (B, I, h, w) at a time."""
    assert inference.window is not None
    pixels, side = NORMALIZATION(image, device), inference.window
    stride = -(-2 * side // 3)
    lefts, batches = starts(pixels.shape[-1], side, stride), []
    for top in starts(pixels.shape[-2], side, stride):
        num = num_windows(side * side, device)
        for i in range(0, len(lefts), num):
            batch = torch.cat([pixels[..., top : top + side, left : left + side] for left in lefts[i : i + num]])
            batches.append(batch.contiguous(memory_format=torch.channels_last))
    return batches


@torch.no_grad()
def alone(network: nn.Module, batches: list[Tensor]) -> float:
    start = time.perf_counter()
    for batch in batches:
        network(batch)
    if batches[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def write_photograph(path: Path, side: int, *, seed: int) -> None:
    """Smooth colours and a little noise, which a JPEG holds as it holds a photograph."""
    gen = np.random.default_rng(seed)
    small = Image.fromarray(gen.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    Image.fromarray((smooth + gen.integers(-9, 9, smooth.shape)).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def memory(options: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    print("| file | decoded image | peak | above the decoded image | seconds |\n|---|---|---|---|---|")
    for kind in options.kinds.split(","):
        path = scratch / f"image.{'tif' if kind == 'tiff' else kind}"
        (write_tiff if kind == "tiff" else write_png)(path, options.side)
        words = ["--image", str(path), "--classes", str(options.classes), "--crop", str(options.crop)]
        limit = {MAX_PIXELS: str(options.side**2)}  # as `protoseg predict --max-pixels` sets it
        command = [sys.executable, __file__, "one", *words]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **limit})
        found = json.loads(ran.stdout)
        decoded = 3 * options.side**2
        above = found["grown"] - decoded
        sizes = " | ".join(f"{size / 2**30:.2f} GiB" for size in (decoded, found["grown"], above))
        print(f"| {kind} | {sizes} | {found['seconds']:.0f} |")
        given = {key: getattr(options, key) for key in ("side", "classes", "crop")}
        yield {"what": "memory", "kind": kind, **given, **found, "decoded": decoded, "above": above}


def grown(image: Path, num_classes: int, crop: int) -> dict[str, Any]:
    """By how many bytes this process has grown at its peak when an image has been predicted."""
    network, table = SmallUNet(num_classes, width=4).eval(), table_from_values(list(range(num_classes)))
    before, start = _resident(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        report = predict(network, [Sample("x", image, None, "test")], table, NORMALIZATION, out=Path(out), crop=crop)
    if report.skipped:
        raise ValueError(report.skipped[0][1])
    peak = peak_bytes(torch.device("cpu"))
    assert peak is not None  # on Linux, where the line above has been read too
    return {"grown": peak - before, "windows": report.windowed, "seconds": time.perf_counter() - start}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (_BLOCK, _BLOCK, 3), dtype=np.uint8)


def write_tiff(path: Path, side: int) -> None:
    """In tiles of deflate, one after the other."""
    block, places = _noise(), range(0, side, _TILE)

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for top, left in itertools.product(places, places):
            rows, columns = ((np.arange(first, min(first + _TILE, side)) % _BLOCK) for first in (top, left))
            yield block[np.ix_(rows, columns)]

    options = {"photometric": "rgb", "compression": "deflate", "compressionargs": {"level": 1}}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype="uint8", tile=(_TILE, _TILE), **options)


def write_png(path: Path, side: int) -> None:
    """Row by row, as no library does."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    block, columns, packer = _noise(), np.arange(side) % _BLOCK, zlib.compressobj(1)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)))
        for y in range(side):
            file.write(chunk(b"IDAT", packer.compress(b"\0" + block[y % _BLOCK, columns].tobytes())))
        file.write(chunk(b"IDAT", packer.flush()) + chunk(b"IEND", b""))


if __name__ == "__main__":
    main()
