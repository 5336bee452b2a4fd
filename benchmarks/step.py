"""How long is one optimizer step of each method, and how much memory does it take?

    python benchmarks/step.py --model.encoder resnet18

All methods without and with the prototype term, or those of `--methods`; other words go to `protoseg train`.

Memory is what a step holds at its peak: weights, teacher, state of the optimizer, activations and gradients, not the libraries.
Same network, crops and batch for all; steps of the methods take turns, so that whatever else the machine does meets each of
them alike, and the ratio to the first method is the median over these rounds. Crops are random numbers on the device: decoding
is not measured, views, CutMix, EMA and prototypes are. `--also contiguous,compile` measures every method in these ways too, a
`+` between two takes both at once.

On a GPU the table also says how many kernels a step starts (copies and fills among them), for how much of the step they keep
the device busy, and how many operations a second the step comes to (multiplications and additions of convolutions and matrix
products, counted by torch).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from branch import traced_peak
from protoseg.arguments import parse_train
from protoseg.bench.cells import TERM
from protoseg.bench.store import append, machine
from protoseg.config import (
    METHODS,
    build_method,
    build_network,
    build_normalization,
    build_optimizer,
    build_views,
    method_class,
)
from protoseg.data.images import PHOTOGRAPH
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "step.jsonl"
_CLASSES = 21
_WAYS = ("contiguous", "channels-last", "unfused", "compile", "cudnn-benchmark", "float32")
"""Other than training does it: on a GPU its weights are channels last, its optimizer is fused. `float32` is without bfloat16,
and without the short products of TF32."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = [name + term for name in METHODS for term in ("", TERM) if name + term != f"prototype{TERM}"]
    parser.add_argument("--methods", default=",".join(every), help="comma-separated; the first is the measure; default all")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4, help="labelled and unlabelled crops each; default 4")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each method; default 10")
    parser.add_argument("--also", default="", help=f"comma-separated ways to run each method besides: {', '.join(_WAYS)}")
    parser.add_argument("--json", type=Path, help="also write the rows as one list")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options, extra = parser.parse_known_args()
    measured = commit()  # before rows are added to a file of the checkout
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    words = ["data", "--model.weights", "none", "--crop", str(options.crop), "--batch", str(options.batch), *extra]
    ways = [tuple(filter(None, way.split("+"))) for way in ("", *filter(None, options.also.split(",")))]
    if unknown := sorted({word for way in ways for word in way} - set(_WAYS)):
        parser.error(f"there is no way {unknown[0]!r} to run a step; choose of {', '.join(_WAYS)}")
    steps = {}
    for name in options.methods.split(","):
        for way in ways:
            steps[", ".join([name, *way])] = Step([*words, "--method", name], device, way)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(options.rounds + 2):  # the first two are not counted
        raw = crops(options.batch, options.crop, round_, device)
        for name, step in steps.items():
            seconds = step.run(raw, round_)
            if round_ >= 2:
                times[name].append(seconds)
    first = next(iter(steps))
    rows = []
    head = ("method", "seconds a step", f"against {first} (quartiles)", "peak memory", "kernels", "busy", "TFLOP/s")
    head = head if device.type == "cuda" else head[:4]  # of a processor nothing tells what it could do
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, step in steps.items():
        ratios = sorted(own / base for own, base in zip(times[name], times[first], strict=True))
        step.look_at_memory(raw, options.rounds + 2)
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        row = {"method": name, "seconds": statistics.median(times[name]), "ratio": middle, "quartiles": [low, high]}
        row |= {"against": first, "rounds": options.rounds, "peak_bytes": step.peak, "threads": torch.get_num_threads()}
        row |= {"crop": options.crop, "batch": options.batch, "network": step.network, "settings": shlex.join(extra)}
        row |= {"commit": measured, "machine": machine(), "finished": time.strftime("%Y-%m-%d")}
        cells = [name, f"{row['seconds']:.4f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        cells.append(f"{step.peak / 2**30:.2f} GiB")
        if device.type == "cuda":
            row |= step.work(raw, options.rounds + 3)
            rate = row["operations"] / row["seconds"] / 1e12
            cells += [str(row["kernels"]), f"{100 * row['kernel_seconds'] / row['seconds']:.0f} %", f"{rate:.1f}"]
        append(options.results, row)
        rows.append(row)
        print(f"| {' | '.join(cells)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


class Step:
    """One method with its optimizer and its own copy of the network."""

    def __init__(self, words: list[str], device: torch.device, way: Sequence[str] = ()) -> None:
        config = parse_train(words)
        own = {"warmup_steps": 0, "ema_momentum": 0.99}
        config = dataclasses.replace(config, steps=1000, consistency=dataclasses.replace(config.consistency, **own))
        config.optimizer.lr = config.optimizer.lr or 1e-4
        torch.manual_seed(0)
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        with device:  # drawing the start weights of a large network takes a processor seconds
            network = build_network(config.model, _CLASSES)
        self.method = build_method(config, network).to(device).train()
        if ("channels-last" in way or device.type == "cuda") and "contiguous" not in way:
            self.method.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(config.optimizer, self.method)
        if "unfused" in way:
            for group in self.optimizer.param_groups:
                group["fused"] = None
        if "compile" in way:
            for network in (*(part.network for part in self.method.trained()), self.method.teacher.network):
                network.compile()
        self.cudnn_benchmark, self.bfloat16 = "cudnn-benchmark" in way, device.type == "cuda" and "float32" not in way
        self.views = build_views(config, build_normalization(config.model, PHOTOGRAPH)).to(device)
        self.network = f"{config.model.arch} on {config.model.encoder}"
        self.device, self.peak = device, 0
        self.held = torch.cuda.memory_allocated() - before if device.type == "cuda" else 0
        self.uses_unlabeled = method_class(config.method).uses_unlabeled

    def run(self, raw: dict[str, Any], step: int) -> float:
        """Seconds of one whole step on crops of `crops`."""
        cuda = self.device.type == "cuda"
        before = 0
        if cuda:  # what is there belongs to all methods that take turns; `held` of it to this one
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        self.method.before_step(lambda: iter([self.views.labeled(raw["labeled"])]), step=step)
        if cuda:
            torch.cuda.synchronize()
        seconds = self._run(raw, step)
        if cuda:
            self.peak = max(self.peak, self.held + torch.cuda.max_memory_allocated() - before)
            self.held += torch.cuda.memory_allocated() - before  # the optimizer's state, in the first step
        return seconds

    def _run(self, raw: dict[str, Any], step: int) -> float:
        start = time.perf_counter()
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = self.cudnn_benchmark, self.bfloat16
        with torch.autocast("cuda", torch.bfloat16, enabled=self.bfloat16):
            unlabeled = self.views.unlabeled(raw["unlabeled"], step=step) if self.uses_unlabeled else None
            out = self.method(self.views.labeled(raw["labeled"]), unlabeled, step=step)
        out.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.after_step([out.carry], step=step)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def look_at_memory(self, raw: dict[str, Any], step: int) -> None:
        """Count what one more step holds at its peak; on a GPU every step has been counted."""
        if self.device.type != "cuda":
            held = sum(tensor.nbytes for tensor in self._tensors())
            self.peak = held + traced_peak(lambda: self.run(raw, step))

    def _tensors(self) -> Iterator[Tensor]:
        """What stays from step to step."""
        yield from self.method.parameters()
        yield from self.method.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def work(self, raw: dict[str, Any], step: int) -> dict[str, Any]:
        """Kernels of a step, the seconds that they take, and operations of convolutions and matrix products."""
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:  # it sees no compiled code
            self.run(raw, step)
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            self.run(raw, step + 1)
        events = recorded.events()
        kernels = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
        seconds = sum(kernel.self_device_time_total for kernel in kernels) / 1e6
        return {"kernels": len(kernels), "kernel_seconds": seconds, "operations": counter.get_total_flops()}


def crops(batch: int, side: int, step: int, device: torch.device) -> dict[str, Any]:
    """What the loaders bring."""
    gen = torch.Generator(device).manual_seed(step)
    shape, whole = (batch, side, side), {"generator": gen, "dtype": torch.uint8, "device": device}
    seeds = [[(2 * step + half) * batch + i for i in range(batch)] for half in range(2)]
    images = [torch.randint(0, 256, (batch, 3, side, side), **whole) for _ in range(2)]  # type: ignore[call-overload]
    mask = torch.randint(0, _CLASSES, shape, **whole)  # type: ignore[call-overload]
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    return {
        "labeled": {"image": images[0], "mask": mask, "seed": seeds[0]},
        "unlabeled": {"image": images[1], "valid": valid, "seed": seeds[1]},
    }


if __name__ == "__main__":
    main()
