"""`protoseg train --dry-run`: the network, the data and the losses of a run, two steps of them, and nothing written."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from protoseg.config import build_views, method_class, metric_fields
from protoseg.data.check import CheckedData
from protoseg.engine.callbacks import read_rows
from protoseg.engine.train import METRICS, FitReport, fit
from protoseg.run import build, settle
from protoseg.settings import TrainConfig
from protoseg.stage import build_streams, describe_device, optimizer_of, trainer_options
from protoseg.summary import describe_data, print_found

_STEPS, _IMAGES, _CROP = 2, 2, 64  # the first step on labels alone, the second on both


def dry_run(config: TrainConfig, *, console: Console) -> FitReport:
    """Do what `train` does up to its second step, with the settings that cost time reduced, and leave nothing behind.

    All labelled images are decoded and checked, because training does that first; the whole network is built, with its
    weights. What is reduced is printed.

    Args:
        config: settings; open ones are filled in as for the whole run.
        console: for everything that is printed.

    Returns:
        What the two steps came to.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: one sentence on what would stop the run.
        CollapseError: the loss is no number.
    """
    if config.resume is not None:
        raise ValueError("--dry-run is for a run that has not started; leave out --resume")
    if method_class(config.method.partition("+")[0]).needs_labeler:
        raise ValueError(
            f"{config.method} trains several models one after the other, each from the one before; "
            "--dry-run its first: --method supervised"
        )
    started = time.perf_counter()
    whole, data = settle(config, console=console)
    small = reduced(whole)
    normalization, _, method = build(small, data, console=console)
    print_found(whole, data, describe_data(whole, data), None, describe_device(whole), console)
    few = few_images(data)
    sizes = [f"{len(part.labeled)} labelled, {len(part.unlabeled)} unlabelled" for part in (data.partition, few.partition)]
    changes = [f"images {sizes[0]} -> {sizes[1]}", *differences(whole.to_dict(), small.to_dict())]
    console.print(f"reduced for the dry run: {'; '.join(changes)}; nothing is scored")
    assert small.steps is not None
    with tempfile.TemporaryDirectory(prefix="protoseg-dry-run-") as scratch:
        fitted = fit(
            method,
            build_streams(small, few, method, normalization, pass_crops=_IMAGES),
            build_views(small, normalization),
            out=Path(scratch),
            steps=small.steps,
            make_optimizer=optimizer_of(small),
            class_names=data.classes.names,
            class_pixels=data.report.pixels.tolist(),
            seed=small.seed,
            power=small.optimizer.power,
            lr_warmup=small.optimizer.warmup_steps,
            log_every=1,
            checkpoint_every=None,
            fields=metric_fields(small),
            on_collapse=small.on_collapse,
            console=console,
            title=small.full_method,
            trainer_options=trainer_options(small),
        )
        losses = [f"{float(row['loss']):.3f}" for row in read_rows(Path(scratch) / METRICS)]
    console.print(
        f"{fitted.steps} steps went through in {time.perf_counter() - started:.0f} s, with a loss of {', '.join(losses)}"
    )
    console.print("nothing was written; without --dry-run this command trains")
    return fitted


def reduced(config: TrainConfig) -> TrainConfig:
    """The same run at the least cost that still takes every part of it: one step on labels, one on both.

    Args:
        config: resolved.
    """
    consistency, loss, old = config.consistency, config.loss, config.crop
    assert old is not None
    crop = small_crop(old, config.model.arch)
    assert consistency.warmup_steps is not None
    ramp = consistency.rampup_steps
    trainer = {name: value for name, value in config.trainer.items() if name not in {"devices", "num_nodes", "strategy"}}
    return dataclasses.replace(
        config,
        steps=_STEPS,
        crop=crop,
        batch=_IMAGES,
        accumulate=1,
        workers=0,
        log_every=1,
        evaluate_every=0,
        baseline=False,
        on_collapse="stop",  # a loss that is no number is what a dry run is for
        prototypes=dataclasses.replace(config.prototypes, delay=0),
        consistency=dataclasses.replace(
            consistency,
            warmup_steps=min(1, consistency.warmup_steps),
            rampup_steps=ramp if ramp is None else min(1, ramp),
        ),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=min(1, config.optimizer.warmup_steps)),
        # In proportion to the pixels, so that pixels are still left out.
        loss=dataclasses.replace(loss, ohem_min_kept=max(1, loss.ohem_min_kept * crop**2 // old**2)),
        trainer=trainer,
    )


def small_crop(crop: int, arch: str) -> int:
    """A crop of about 64 pixels that fits a network as the recipe's own does, never larger than that.

    The paper's network gets crops of 4n + 1, a ViT whole patches (of 14 pixels in DINOv2, of 16 in DINOv3).
    """
    if crop <= _CROP:
        return crop
    if arch == "dino_dpt":
        return 5 * 14 if crop % 14 == 0 else _CROP
    return _CROP + 1 if crop % 4 == 1 else _CROP


def few_images(data: CheckedData) -> CheckedData:
    """The labelled images that show most classes, and the first unlabelled ones; none to score on."""
    labeled = [fact for fact in data.report.facts if fact.role == "labeled"]
    facts = sorted(labeled, key=lambda fact: len(fact.pixels(data.classes)), reverse=True)[:_IMAGES]
    partition = dataclasses.replace(
        data.partition,
        labeled=tuple(fact.sample for fact in facts),
        unlabeled=data.partition.unlabeled[:_IMAGES],
        evaluation=(),
        evaluation_name="",
    )
    return dataclasses.replace(data, partition=partition, report=dataclasses.replace(data.report, facts=tuple(facts)))


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """`crop 513 -> 65` for each setting that differs, sorted by its dotted name."""

    def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    old, new = dict(flat(before)), dict(flat(after))
    for name, value in sorted(old.items()):
        if new.get(name) != value:
            yield f"{name} {value} -> {new.get(name, 'left out')}"
