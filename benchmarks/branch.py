"""What does the prototype branch cost, read at its points, beside features brought up to the size of the image first?

    python benchmarks/branch.py [--crop 513] [--channels 512] [--classes 21] [--per-class 4]

One step of the branch alone: features of the chosen pixels, cosines, loss, gradient of the feature map, and the move of the
prototypes. The other way is what the authors' released code does, written here with plain loops: up-sample the whole map, index
it, compare class by class, move prototype by prototype. Both get the same map, points and labels, and have to agree. Memory is
what a step holds at its peak, beyond the map and its gradient.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg import PrototypeHead
from protoseg.bench.store import append, machine
from protoseg.functional.points import read_features, read_pixels, sample_points
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "branch.jsonl"


class Case(NamedTuple):
    features: Tensor  # (B, D, h, w)
    points: Tensor  # (B, P, 2) pixels of the image
    label: Tensor  # (B, H, W) int64


class Outcome(NamedTuple):
    loss: Tensor  # scalar
    gradient: Tensor  # (B, D, h, w)
    prototype: Tensor  # (C, K, D) after the step


def at_points(case: Case, head: PrototypeHead) -> Outcome:
    """The package's own parts."""
    features = case.features.detach().requires_grad_()
    read = read_features(features, case.points, case.label.shape[-2:], align_corners=True).flatten(0, 1)
    label = read_pixels(case.label, case.points).flatten()
    compared = head.compare(read)
    loss = head.loss(compared.logits, label)
    loss.backward()
    head.update(read, label, compared.nearest)
    assert features.grad is not None
    return Outcome(loss.detach(), features.grad, head.prototype.clone())


def full_size(case: Case, head: PrototypeHead) -> Outcome:
    """Up-sample everything, then pick; loops over classes and prototypes."""
    features = case.features.detach().requires_grad_()
    large = F.interpolate(features, case.label.shape[-2:], mode="bilinear", align_corners=True).permute(
        0, 2, 3, 1
    )  # (B, H, W, D)
    chosen = torch.zeros(case.label.shape, dtype=torch.bool, device=features.device)
    for image, points in zip(chosen, case.points, strict=True):
        image[points[:, 0], points[:, 1]] = True
    read, label = large[chosen], case.label[chosen]
    scores, nearest = [], []
    for prototypes in head.prototype:
        cosine = F.normalize(read, dim=1) @ F.normalize(prototypes, dim=1).T  # (N, K)
        best, which = cosine.max(dim=1)
        scores.append(best / head.temperature)
        nearest.append(which)
    loss = F.cross_entropy(torch.stack(scores, dim=1), label)
    loss.backward()
    with torch.no_grad():
        for c in range(head.num_classes):
            for k in range(head.per_class):
                members = read[(label == c) & (nearest[c] == k)]
                if len(members):
                    head.prototype[c, k] *= head.momentum
                    head.prototype[c, k] += (1 - head.momentum) * members.mean(dim=0)
    assert features.grad is not None
    return Outcome(loss.detach(), features.grad, head.prototype.clone())


WAYS: dict[str, Callable[[Case, PrototypeHead], Outcome]] = {"at the points": at_points, "up-sampled first": full_size}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crop", type=int, default=513)
    parser.add_argument("--stride", type=int, default=4, help="of the feature map; default 4")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each way, in turns; default 7")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = make_case(options.batch, options.channels, options.crop, options.stride, options.classes, device)
    heads = {name: make_head(case, options.classes, options.per_class) for name in WAYS}
    first, second = (way(case, heads[name]) for name, way in WAYS.items())
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    memory = {name: peak_bytes(way, case, heads[name]) for name, way in WAYS.items()}
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            times[name].append(seconds(way, case, heads[name]))
    ours, theirs = times.values()
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print("| features | seconds a step | peak memory |\n|---|---|---|")
    for name in WAYS:
        print(f"| {name} | {statistics.median(times[name]):.4f} | {memory[name] / 2**20:.1f} MiB |")
    smaller = memory["up-sampled first"] / memory["at the points"]
    print(f"equal results; at the points {ratio:.0f} x faster and {smaller:.0f} x smaller")
    row = {"seconds": {name: statistics.median(own) for name, own in times.items()}, "ratio": ratio, "peak_bytes": memory}
    row |= {key: value for key, value in vars(options).items() if key != "results"}
    row |= {"threads": torch.get_num_threads(), "commit": commit(), "machine": machine(), "finished": time.strftime("%Y-%m-%d")}
    append(options.results, row)


def make_case(batch: int, channels: int, crop: int, stride: int, classes: int, device: torch.device) -> Case:
    gen = torch.Generator().manual_seed(0)
    side = (crop - 1) // stride + 1
    features = torch.randn(batch, channels, side, side, generator=gen)
    points = sample_points(torch.rand(batch, 32 * 32, 2, generator=gen), (crop, crop))
    label = torch.randint(0, classes, (batch, crop, crop), generator=gen)
    return Case(*(tensor.to(device) for tensor in (features, points, label)))


def make_head(case: Case, classes: int, per_class: int) -> PrototypeHead:
    """With prototypes at random features."""
    channels = case.features.shape[1]
    head = PrototypeHead(channels, classes, per_class=per_class)
    head.assign(torch.randn(classes, per_class, channels, generator=torch.Generator().manual_seed(1)))
    return head.to(case.features.device)


def seconds(way: Callable[[Case, PrototypeHead], Outcome], case: Case, head: PrototypeHead) -> float:
    _wait(case)
    start = time.perf_counter()
    way(case, head)
    _wait(case)
    return time.perf_counter() - start


def peak_bytes(way: Callable[[Case, PrototypeHead], Outcome], case: Case, head: PrototypeHead) -> int:
    """The most that one step holds at once, less the gradient of the map, which either way has to be there."""
    gradient = case.features.nbytes
    if case.features.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way(case, head)
        return int(torch.cuda.max_memory_allocated()) - before - gradient
    return traced_peak(lambda: way(case, head)) - gradient


def traced_peak(run: Callable[[], object]) -> int:
    """The most bytes of a processor's memory that a call holds at once beyond what was there, as torch's profiler sees it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held = peak = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def _wait(case: Case) -> None:
    if case.features.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
