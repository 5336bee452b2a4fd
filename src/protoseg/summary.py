"""What a run prints before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from protoseg.config import OWN_NETWORKS, note_on_batch
from protoseg.console import plain
from protoseg.data.check import CheckedData
from protoseg.data.doctor import diagnose, left_out, nothing_to_score_on
from protoseg.engine.metrics import IoU
from protoseg.settings import TrainConfig
from protoseg.words import counted


def describe_data(config: TrainConfig, data: CheckedData) -> dict[str, Any]:
    """What a run starts from, for its folder: images, classes, and what may go wrong with them."""
    partition, report = data.partition, data.report
    share = report.pixels / report.pixels.sum()
    findings = diagnose(report.facts, data.classes, crop=config.crop)
    findings = [*left_out(data.index), *nothing_to_score_on(partition), *findings]
    return {
        "folder": config.data,
        "format": data.index.format,
        "labeled": len(partition.labeled),
        "unlabeled": len(partition.unlabeled),
        "evaluation": len(partition.evaluation),
        "evaluation_name": partition.evaluation_name,
        "sizes": [[w, h, count] for (h, w), count in report.sizes.items()],
        "kind": str(report.kind),
        "shares": dict(zip(data.classes.names, (round(float(part), 6) for part in share), strict=True)),
        "notes": list(report.notes),
        "findings": [{"severity": f.severity, "title": f.title, "advice": f.advice} for f in findings],
    }


def print_found(
    config: TrainConfig, data: CheckedData, found: dict[str, Any], out: Path | None, device: str, console: Console
) -> None:
    """What training starts from: images, classes, network, length.

    Args:
        config: resolved.
        data: images and classes.
        found: of `describe_data`.
        out: run folder, None where there is none.
        device: that trains, in words.
        console: for everything that is printed.
    """
    partition, report = data.partition, data.report
    assert config.crop is not None
    assert config.batch is not None
    assert config.steps is not None
    sizes = [f"{w}x{h}" for h, w in report.sizes]
    more = f" and {counted(len(sizes) - 3, 'other size')}" if len(sizes) > 3 else ""
    table = Table.grid(padding=(0, 2))
    table.add_row("data", f"{config.data} ({data.index.format})")
    kind = "" if report.kind.is_photograph else f", {report.kind}"
    table.add_row("labelled", f"{counted(len(partition.labeled), 'image')}, {', '.join(sizes[:3])}{more}{kind}")
    table.add_row("unlabelled", counted(len(partition.unlabeled), "image"))
    scored = counted(len(partition.evaluation), f"{partition.evaluation_name} image") if partition.evaluation else "none"
    table.add_row("scored on", scored)
    named = [f"{name} {100 * part:.1f} %" for name, part in found["shares"].items()]
    table.add_row("classes", f"{len(named)}: " + ", ".join(named[:20]) + (" ..." if len(named) > 20 else ""))
    model = config.model
    network = model.arch if model.arch in OWN_NETWORKS else f"{model.arch} on {model.encoder}"
    network += f", weights {model.weights}" + (", encoder frozen" if model.freeze_encoder else "")
    table.add_row("network", network + (f", projected to {counted(model.projection, 'channel')}" if model.projection else ""))
    method: str = config.full_method
    if config.prototypes.per_class:
        method += f", {counted(config.prototypes.per_class, 'prototype')} per class"
        if config.prototypes.emphasis != "even":
            method += f", emphasis {config.prototypes.emphasis}"
        if config.prototypes.balance:
            method += f", balance {config.prototypes.balance:g}"
    elif method == "prototype":
        method += ", term off"
    if config.consistency.threshold is not None and config.method != "supervised":
        method += f", threshold {config.consistency.threshold:g}"
    table.add_row("method", method)
    crops = counted(config.batch, "crop") if config.method == "supervised" else f"{config.batch} + {config.batch} crops"
    table.add_row("training", f"{counted(config.steps, 'step')} of {crops} of {config.crop} px, seed {config.seed}")
    optimizer, consistency = config.optimizer, config.consistency
    rates = f"{optimizer.name}, {optimizer.lr:g}"
    if optimizer.head_factor != 1:
        rates += f" in the encoder and {optimizer.head_factor:g} times that elsewhere"
    if optimizer.warmup_steps:
        rates += f", rising over {counted(optimizer.warmup_steps, 'step')}"
    table.add_row("learning rate", rates)
    average = f"EMA of momentum {consistency.ema_momentum:g}, which is scored"
    if config.method != "supervised" and consistency.warmup_steps is not None:
        average += f"; {counted(consistency.warmup_steps, 'step')} on labels before unlabelled images teach"
    table.add_row("weights", average)
    if config.prototypes.per_class:
        assert consistency.warmup_steps is not None
        table.add_row("prototypes", f"start after {counted(consistency.warmup_steps + config.prototypes.delay, 'step')}")
    table.add_row("device", device)
    if out is not None:
        table.add_row("run folder", str(out))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    if config.resume is None and (note := note_on_batch(config)):
        console.print(f"note: {note}")
    for finding in found["findings"]:
        console.print(f"{finding['severity']}: {finding['title']}; {finding['advice']}")
    if len(partition.labeled) < config.batch:
        console.print(
            f"note: {counted(len(partition.labeled), 'labelled image')} for a batch of {config.batch}: drawn again, with fresh "
            "crops"
        )
    if config.batch == 1 and config.method != "supervised" and config.views.cutmix_probability > 0:
        console.print("note: CutMix needs a partner in the batch; with --batch 1 there is none, and no image is mixed")


def print_result(result: dict[str, Any], out: Path, console: Console) -> None:
    """The table of IoU, and what the unlabelled images did."""
    if result["skipped"]:
        console.print(
            f"{counted(len(result['skipped']), 'unlabelled image was', 'unlabelled images were')} unreadable and skipped; "
            "result.json names them"
        )
    if result["other_kind"]:
        many = counted(len(result["other_kind"]), "unlabelled image was", "unlabelled images were")
        console.print(f"{many} skipped, of another type or number of channels than the labelled ones; result.json names them")
    if "miou" not in result:
        reason = "evaluation was switched off" if result["split"]["evaluation"] else "no labelled images left to score on"
        console.print(f"{reason}; the model is in {out}")
        return
    columns = {"ours": result}
    if "baseline" in result:
        columns = {"labels only": result["baseline"], "ours": result}
    names = tuple(result["iou"])
    nan = float("nan")
    scores = {
        title: IoU(part["miou"], tuple(nan if part["iou"][n] is None else part["iou"][n] for n in names))
        for title, part in columns.items()
    }
    console.print(plain(iou_table(names, scores), console))
    if "gain" in result:
        console.print(gain_line(result["gain"]))
    scored = counted(result["evaluated"], f"{result['split']['evaluation']} image")
    console.print(f"{scored}, last step; run folder {out}")


def gain_line(gain: float) -> str:
    """What the unlabelled images did to mIoU, a difference of shares, in words."""
    return f"the unlabelled images changed mIoU by {100 * gain:+.1f} points (one seed: repeat with others before you trust it)"


def iou_table(names: Sequence[str], scores: dict[str, IoU]) -> Table:
    """IoU per class in percent, one column for each model."""
    table = Table("class", *scores)
    for i, name in enumerate(names):
        values = [score.per_class[i] for score in scores.values()]
        table.add_row(name, *("absent" if value != value else f"{100 * value:.1f}" for value in values))
    table.add_section()
    table.add_row("mIoU", *(f"{100 * score.mean:.1f}" for score in scores.values()))
    for column in table.columns[1:]:
        column.justify = "right"
    return table
