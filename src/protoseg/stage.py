"""One model of a run: train it to its last step, save it, score it, describe it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from protoseg.config import (
    build_geometry,
    build_inference,
    build_optimizer,
    build_rare_crops,
    build_views,
    metric_fields,
)
from protoseg.data.check import CheckedData
from protoseg.data.images import read_image, to_rgb
from protoseg.data.io import UnreadableImageError
from protoseg.data.loader import LabeledCrops, UnlabeledCrops
from protoseg.data.patience import patiently
from protoseg.engine.checkpoint import MODEL, save_model
from protoseg.engine.datamodule import StreamModule
from protoseg.engine.evaluate import Normalization, evaluate, predict_image, read_labeled, tally
from protoseg.engine.examples import EXAMPLES, write_examples
from protoseg.engine.inference import Inference
from protoseg.engine.machine import machine
from protoseg.engine.metrics import IoU
from protoseg.engine.module import TrainingModule
from protoseg.engine.pictures import colorize, sheet
from protoseg.engine.tally import TALLY, Tally
from protoseg.engine.tracker import Tracker
from protoseg.engine.train import LEFT_OUT, FitReport, fit
from protoseg.files import make_folder, write_text
from protoseg.launch import asks_for_several, is_first, started_by_torchrun
from protoseg.methods.base import Method
from protoseg.report.gather import BASELINE, RESULT, SHEET
from protoseg.report.shapes import FINISHED, misfit_of_finished
from protoseg.settings import TrainConfig
from protoseg.stored import DamagedError, read_json
from protoseg.trained import load_model, progress
from protoseg.types import IGNORE_INDEX
from protoseg.versions import package_versions
from protoseg.words import counted

_SHEET_ROWS = 6
_NO_WAY_ON = "the run cannot go on from it, start a new one"
_PRECISIONS = {"None": "float32", "32-true": "float32", "32": "float32", "64-true": "float64", "64": "float64"}
_PRECISIONS |= {"bf16-mixed": "bfloat16", "bf16": "bfloat16", "16-mixed": "float16", "16": "float16"}
_PRIVATE = {"data", "unlabeled", "labels", "holdout", "out", "resume", "logger", "trainer", "cache"}
"""Settings that say where things lie on one machine: of no use to whoever gets the model file."""


def train_one(
    config: TrainConfig,
    data: CheckedData,
    method: Method,
    normalization: Normalization,
    out: Path,
    console: Console,
    *,
    title: str,
    baseline: dict[str, Any] | None = None,
    snapshots: Sequence[int] = (),
) -> dict[str, Any] | None:
    """Train, save, score and describe one model, or go on with it, or read what it said when it was finished.

    Args:
        config: resolved.
        data: images and classes.
        method: at its start.
        normalization: of the images.
        out: folder for everything that it leaves.
        console: for everything that is printed.
        title: of the progress display.
        baseline: result of the labels-only model, to compare with.
        snapshots: steps at which the weights are kept beside the rest.

    Returns:
        What `result.json` holds; None on all but the first process of a distributed run.
    """
    if (out / RESULT).is_file():
        return read_finished(out / RESULT, scored=config.evaluate and bool(data.partition.evaluation))
    make_folder(out)
    assert config.steps is not None
    inference = build_inference(config.inference)
    streams = build_streams(config, data, method, normalization)

    def score(module: TrainingModule) -> float:
        samples, network = data.partition.evaluation, module.method.predictor
        return evaluate(network, samples, data.classes, normalization, inference=inference).mean

    with _tracker(config, out, console) as tracker:
        fitted = fit(
            method,
            streams,
            build_views(config, normalization),
            out=out,
            steps=config.steps,
            make_optimizer=optimizer_of(config),
            class_names=data.classes.names,
            class_pixels=data.report.pixels.tolist(),
            seed=config.seed,
            power=config.optimizer.power,
            lr_warmup=config.optimizer.warmup_steps,
            log_every=config.log_every or 50,
            checkpoint_every=config.checkpoint_every,
            fields=metric_fields(config),
            score=score if data.partition.evaluation else None,
            score_every=config.evaluate_every,
            on_collapse=config.on_collapse,
            tracker=tracker,
            console=console,
            title=title,
            trainer_options=trainer_options(config),
            snapshots=snapshots,
        )
        if not fitted.is_main:
            return None
        network = method.predictor
        header = _header(config, data, normalization)
        save_model(out / MODEL, network.state_dict(), method.prototype_state(), header)
        network.to(fitted.device).to(memory_format=torch.channels_last)  # as `evaluate` has it, for the same score
        result = _result(config, data, fitted, header)
        evaluation, scored = data.partition.evaluation, None
        if evaluation and config.evaluate:
            scored = tally(
                network,
                evaluation,
                data.classes,
                normalization,
                inference=inference,
                track=progress(f"scoring {title}", console),
            )
            scored.save(out / TALLY)
            result |= _score(data, scored.iou)
            if tracker is not None:
                split = data.partition.evaluation_name
                per_class = {f"{split}/iou/{name}": value for name, value in result["iou"].items()}
                tracker.log({f"{split}/miou": result["miou"], **per_class}, step=fitted.steps)
    if scored is not None and baseline is not None:
        result["baseline"] = {key: baseline[key] for key in ("miou", "iou", "steps", "seconds")}
        result["gain"] = result["miou"] - baseline["miou"]
    networks = {"ours": network.eval()}
    if baseline is not None:
        other = load_model(out / BASELINE).network.to(fitted.device).to(memory_format=torch.channels_last)
        networks = {"labels only": other, **networks}
    if scored is not None:
        tallies = {"ours": scored}
        if baseline is not None and (out / BASELINE / TALLY).is_file():  # earlier versions kept none
            tallies = {"labels only": Tally.load(out / BASELINE / TALLY), **tallies}
        write_examples(out / EXAMPLES, evaluation, tallies, networks, data.classes, normalization, inference=inference)
    _write_sheet(out, data, networks, normalization, inference)
    write_json(out / RESULT, result)
    return result


def _tracker(config: TrainConfig, out: Path, console: Console) -> AbstractContextManager[Tracker | None]:
    """Where the numbers go beside the run folder; the first process sends them."""
    if config.logger is None or not is_first():
        return nullcontext()
    settings = {key: value for key, value in config.to_dict().items() if key not in _PRIVATE}
    return Tracker(config.logger, out, settings=settings, console=console)


def build_streams(
    config: TrainConfig, data: CheckedData, method: Method, normalization: Normalization, **options: int
) -> StreamModule:
    """The labelled and unlabelled crops of a run. Expects a resolved config; `options` are those of `StreamModule`."""
    assert config.batch is not None
    geometry = build_geometry(config, normalization)
    return StreamModule(
        LabeledCrops(
            data.partition.labeled,
            data.classes,
            geometry,
            rare=build_rare_crops(config.views, data.report),
            cache=data.cache,
        ),
        UnlabeledCrops(data.partition.unlabeled, geometry, cache=data.cache) if method.uses_unlabeled else None,
        batch=config.batch,
        seed=config.seed,
        workers=config.workers or 0,
        accumulate=config.accumulate,
        **options,
    )


def stored_json(path: Path, shape: Any) -> dict[str, Any]:
    """A JSON file of a run folder.

    Args:
        path: of the file.
        shape: of its content, see `stored`.

    Raises:
        DamagedError: it is missing or damaged.
    """
    return read_json(path, shape, advice=_NO_WAY_ON)  # type: ignore[no-any-return]


def read_finished(path: Path, *, scored: bool) -> dict[str, Any]:
    """What a model's training said when it was finished.

    Args:
        path: of its result.json.
        scored: there were images to score it on.

    Raises:
        DamagedError: see `stored_json`.
    """
    result = stored_json(path, FINISHED)
    why = "'miou' is missing" if scored and "miou" not in result else misfit_of_finished(result)
    if why:
        raise DamagedError(f"{path} is damaged ({why}); {_NO_WAY_ON}")
    return result


def uses_cuda(config: TrainConfig) -> bool:
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in {"auto", "gpu", "cuda"}


def trainer_options(config: TrainConfig) -> dict[str, Any]:
    """What the settings ask of the Lightning Trainer."""
    options: dict[str, Any] = {"accumulate_grad_batches": config.accumulate}
    if config.optimizer.clip > 0:
        options["gradient_clip_val"] = config.optimizer.clip
    if uses_cuda(config):
        options["precision"] = "bf16-mixed"
    options |= started_by_torchrun() | config.trainer
    if options.get("strategy") in LEFT_OUT:
        del options["strategy"]
    if asks_for_several(config.trainer):
        options.setdefault("strategy", "ddp")
    return options


def optimizer_of(config: TrainConfig) -> Callable[[Method], Optimizer]:
    """What builds the optimizer of a run."""
    scaled = _PRECISIONS.get(str(trainer_options(config).get("precision"))) == "float16"
    return lambda method: build_optimizer(config.optimizer, method, scaled=scaled)


def describe_device(config: TrainConfig) -> str:
    """What a run trains on, and how, in words. Expects a resolved config. The GPU's name stays out: asking for it would keep
    processes that are forked later from using it."""
    options = trainer_options(config)
    precision = str(options.get("precision"))
    words = [_PRECISIONS.get(precision, precision)]
    if uses_cuda(config):
        words = ["GPU", *words, "channels last"]
    else:
        chosen = options.get("accelerator", "auto")
        own = "mps" if torch.backends.mps.is_available() else "cpu"
        device = own if chosen == "auto" else str(chosen)
        if device == "cpu" and words == ["float16"]:
            words = ["bfloat16, not float16"]  # what Lightning makes of it
        words = [device, *words]
    several = [f"{name} {options[name]}" for name in ("devices", "num_nodes") if options.get(name, 1) not in (1, "1")]
    return ", ".join([*words, *several, counted(config.workers or 0, "worker") + " for images"])


def _header(config: TrainConfig, data: CheckedData, normalization: Normalization) -> dict[str, Any]:
    classes = data.classes
    return {
        "config": {key: value for key, value in config.to_dict().items() if key not in _PRIVATE}
        | {"model": {**config.to_dict()["model"], "weights": Path(config.model.weights).name}},
        "classes": {
            "names": classes.names,
            "values": classes.values,
            "colors": classes.colors,
            "ignored": classes.ignored,
        },
        "normalization": dataclasses.asdict(normalization),
        "crop": config.crop,
        "recipe": config.recipe,
        "versions": package_versions(),
    }


def _result(config: TrainConfig, data: CheckedData, fitted: FitReport, header: dict[str, Any]) -> dict[str, Any]:
    partition = data.partition
    return {
        "method": config.full_method,
        "recipe": config.recipe,
        "seed": config.seed,
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 1),
        "peak_bytes": fitted.peak_bytes,
        "labeled": len(partition.labeled),
        "unlabeled": len(partition.unlabeled),
        "split": {"labels": config.labels or "all", "evaluation": partition.evaluation_name, "hash": partition.hash},
        "skipped": [path for path in fitted.skipped if not _is_image(path)],
        "other_kind": [path for path in fitted.skipped if _is_image(path)],
        "events": list(fitted.events),
        "dropped_steps": fitted.dropped,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": header["versions"],
        "machine": machine(fitted.device),
    }


def _is_image(path: str) -> bool:
    """Whether a file that was skipped can be read, and so is of another kind than the labelled images."""
    try:
        patiently(partial(read_image, Path(path)), path)
    except UnreadableImageError:
        return False
    return True


def _score(data: CheckedData, iou: IoU) -> dict[str, Any]:
    # JSON has no NaN: a class absent from the evaluation images has no IoU.
    per_class = {name: None if value != value else value for name, value in zip(data.classes.names, iou.per_class, strict=True)}
    return {"evaluated": len(data.partition.evaluation), "miou": iou.mean, "iou": per_class}


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _write_sheet(
    out: Path,
    data: CheckedData,
    networks: dict[str, nn.Module],
    normalization: Normalization,
    inference: Inference,
) -> None:
    """predictions.png: image, truth, labels-only where it was trained, ours. Without evaluation images, unlabelled ones."""
    partition, classes = data.partition, data.classes
    scored = bool(partition.evaluation)
    samples = partition.evaluation or partition.unlabeled or partition.labeled
    rows, void = [], False
    for sample in samples[:: max(1, len(samples) // _SHEET_ROWS)]:
        truth = []
        if scored:
            image, label = read_labeled(sample, classes, normalization)
            truth, void = [colorize(label, classes)], void or bool((label == IGNORE_INDEX).any())  # which truth alone holds
        else:
            try:
                image = patiently(partial(read_image, sample.image, normalization.kind), sample.image)
            except UnreadableImageError:  # training has counted it
                continue
        labels = [predict_image(net, image, normalization, inference).label.cpu() for net in networks.values()]
        predicted = [colorize(label.to(torch.uint8).numpy(), classes) for label in labels]
        rows.append([to_rgb(image), *truth, *predicted])
        if len(rows) == _SHEET_ROWS:
            break
    if rows:
        titles = networks if len(networks) > 1 else ("prediction",)
        sheet(out / SHEET, rows, ["image", *(["truth"] if scored else []), *titles], classes, void=void)
