"""`protoseg train`: from settings to a run folder."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import nn

from protoseg.config import (
    METHOD_OPTIONS,
    build_class_rules,
    build_geometry,
    build_inference,
    build_method,
    build_network,
    build_normalization,
    build_optimizer,
    build_partition,
    build_rare_crops,
    build_views,
    metric_fields,
    parameter_groups,
    resolve,
    settle_method,
    validate,
)
from protoseg.data.check import CheckedData, check_labels, check_unlabeled, read_pair
from protoseg.data.images import read_image, to_rgb
from protoseg.data.index import Sample
from protoseg.data.io import UnreadableImageError
from protoseg.data.loader import LabeledCrops, UnlabeledCrops
from protoseg.data.splits import Partition
from protoseg.engine.checkpoint import save_model
from protoseg.engine.datamodule import StreamModule
from protoseg.engine.evaluate import Normalization, evaluate, predict_image
from protoseg.engine.inference import Inference
from protoseg.engine.metrics import IoU
from protoseg.engine.module import TrainingModule
from protoseg.engine.pictures import colorize, sheet
from protoseg.engine.train import CHECKPOINT, FitReport, check_trainer_options, fit
from protoseg.methods.base import Method
from protoseg.settings import TrainConfig
from protoseg.summary import print_found, print_result
from protoseg.trained import CONFIG, SPLIT, load_model, progress, require_empty

MODEL, RESULT, BASELINE = "model.safetensors", "result.json", "baseline"
_SHEET_ROWS = 6
_PRIVATE = {"data", "unlabeled", "labels", "holdout", "out", "resume", "trainer"}
"""Settings that say where things lie on one machine: of no use to whoever gets the model file."""


def train(config: TrainConfig, *, console: Console) -> dict[str, Any] | None:
    """Train as the settings say and leave a run folder; go on with one where `config.resume` names it.

    Args:
        config: settings; open ones are filled in.
        console: for everything that is printed.

    Returns:
        What `result.json` holds; None on all but the first process of a distributed run.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, ConnectionError: one sentence on what is wrong, before training.
    """
    config = settle_method(config)
    validate(config)
    data = load_data(config, track=progress("reading labelled images", console))
    if config.baseline and not data.partition.evaluation:
        raise ValueError(
            "--baseline compares two models on labelled images, and none are left; keep some back with --holdout 1/5"
        )
    config = resolve(config, data.report, num_unlabeled=len(data.partition.unlabeled), cuda=_uses_cuda(config))
    validate(config)
    normalization = build_normalization(config.model, data.report.kind)
    build_geometry(config, normalization)
    build_inference(config.inference)
    torch.manual_seed(config.seed)
    # A checkpoint holds every weight, so a run can go on where its start weights are out of reach.
    goes_on = config.resume is not None and (Path(config.resume) / CHECKPOINT).is_file()
    network = build_network(config.model, len(data.classes), pretrained=not goes_on)
    method = build_method(config, network)
    if method.uses_unlabeled and not data.partition.unlabeled:
        raise ValueError(
            "there are no unlabelled images to learn from; add some to images/ or with --unlabeled DIR, use fewer masks with "
            "--labels, or train with --method supervised"
        )
    if method.uses_unlabeled:
        for note in check_unlabeled(data.partition.unlabeled, data.report.kind):
            console.print(f"warning: {note}")
    _check_batch(config, network)
    parameter_groups(config.optimizer, method)
    check_trainer_options(config.trainer)
    # Whatever cannot work has stopped by now; only from here on something is written.
    out = _open_run_folder(config, data.partition)
    if _is_main_process():
        print_found(config, data, out, console)

    baseline: dict[str, Any] | None = None
    if config.baseline and method.uses_unlabeled:
        labels_only = _baseline_config(config)
        start = build_method(labels_only, copy.deepcopy(network))  # the same weights
        baseline = _run_one(labels_only, data, start, normalization, out / BASELINE, console, title="labels only")
    result = _run_one(config, data, method, normalization, out, console, title=config.full_method, baseline=baseline)
    if result is not None:
        print_result(result, out, console)
    return result


def load_data(config: TrainConfig, *, track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter) -> CheckedData:
    """List the images, divide them, and decode all labelled ones.

    Args:
        config: settings.
        track: wraps a list of images, to show progress.

    Raises:
        ValueError, FileNotFoundError: see `open_dataset`, `make_partition` and `check_labels`.
    """
    index, partition = build_partition(config)
    return CheckedData(index, partition, check_labels(index, partition, build_class_rules(config.classes), track=track))


def _run_one(
    config: TrainConfig,
    data: CheckedData,
    method: Method,
    normalization: Normalization,
    out: Path,
    console: Console,
    *,
    title: str,
    baseline: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Train, save, score and describe one model."""
    if (out / RESULT).is_file():
        return _stored(out / RESULT)
    out.mkdir(parents=True, exist_ok=True)
    assert config.steps is not None
    assert config.crop is not None
    assert config.batch is not None
    geometry = build_geometry(config, normalization)
    inference = build_inference(config.inference)
    unlabeled = UnlabeledCrops(data.partition.unlabeled, geometry) if method.uses_unlabeled else None
    streams = StreamModule(
        LabeledCrops(data.partition.labeled, data.classes, geometry, rare=build_rare_crops(config.views, data.report)),
        unlabeled,
        batch=config.batch,
        seed=config.seed,
        workers=config.workers or 0,
        accumulate=config.accumulate,
    )

    def score(module: TrainingModule) -> float:
        samples, network = data.partition.evaluation, module.method.predictor
        return evaluate(network, samples, data.classes, normalization, inference=inference).mean

    fitted = fit(
        method,
        streams,
        build_views(config, normalization),
        out=out,
        steps=config.steps,
        make_optimizer=lambda method: build_optimizer(config.optimizer, method),
        class_names=data.classes.names,
        seed=config.seed,
        power=config.optimizer.power,
        lr_warmup=config.optimizer.warmup_steps,
        log_every=config.log_every or 50,
        checkpoint_every=config.checkpoint_every,
        fields=metric_fields(config),
        score=score if data.partition.evaluation else None,
        score_every=config.evaluate_every,
        on_collapse=config.on_collapse,
        console=console,
        title=title,
        trainer_options=_trainer_options(config),
    )
    if not fitted.is_main:
        return None
    network = method.predictor
    header = _header(config, data, normalization)
    save_model(out / MODEL, network.state_dict(), method.prototype_state(), header)
    result = _result(config, data, fitted, header)
    evaluation = data.partition.evaluation
    if evaluation and config.evaluate:
        iou = evaluate(
            network.to(fitted.device),
            evaluation,
            data.classes,
            normalization,
            inference=inference,
            track=progress(f"scoring {title}", console),
        )
        result |= _score(data, iou)
        if baseline is not None:
            result["baseline"] = {key: baseline[key] for key in ("miou", "iou", "steps", "seconds")}
            result["gain"] = iou.mean - baseline["miou"]
    _write_sheet(out, data, network, normalization, inference, has_baseline=baseline is not None)
    _write_json(out / RESULT, result)
    return result


def _baseline_config(config: TrainConfig) -> TrainConfig:
    """The run on labels alone: same start, images, crops, seeds, steps and EMA; its own learning rate if one is set."""
    lr = config.optimizer.baseline_lr or config.optimizer.lr
    own: dict[str, Any] = dict.fromkeys(METHOD_OPTIONS)
    return dataclasses.replace(
        config,
        method="supervised",
        baseline=False,
        optimizer=dataclasses.replace(config.optimizer, lr=lr),
        prototypes=dataclasses.replace(config.prototypes, per_class=0),
        consistency=dataclasses.replace(config.consistency, **own),
    )


def _open_run_folder(config: TrainConfig, partition: Partition) -> Path:
    """Make the run folder and write settings and lists into it, or check that the images of a resumed run are the same."""
    if config.resume is not None:
        out = Path(config.resume)
        if _stored(out / SPLIT).get("hash") != partition.hash:
            raise ValueError(f"the images in {config.data} are not those that the run in {out} started with; start a new run")
        if _is_main_process():
            _note_moved(config, out / CONFIG)
        return out
    if not _is_main_process():
        if folder_name := os.environ.get("PROTOSEG_RUN_FOLDER") or config.out:
            return Path(folder_name)
        raise ValueError(
            "several processes were started from outside: give the run folder with --out, so that all of them know it"
        )
    out = Path(config.out) if config.out else _new_name(config)
    require_empty(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    stored = dataclasses.replace(config, out=str(out))
    (out / CONFIG).write_text(yaml.safe_dump(stored.to_dict(), sort_keys=False))
    _write_json(out / SPLIT, _lists(partition))
    os.environ["PROTOSEG_RUN_FOLDER"] = str(out)  # for the processes that Lightning starts
    return out


def _note_moved(config: TrainConfig, stored: Path) -> None:
    """Write down where the images of a resumed run lie now: the next resume and `evaluate` look there."""
    before = yaml.safe_load(stored.read_text())
    after = before | {name: getattr(config, name) for name in ("data", "unlabeled", "labels", "holdout")}
    if after != before:
        stored.write_text(yaml.safe_dump(after, sort_keys=False))


def _stored(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); the run cannot go on from it, start a new one") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what protoseg writes; the run cannot go on from it, start a new one")
    return content


def _lists(partition: Partition) -> dict[str, Any]:
    """Which image stood where; unlabelled ones are the rest, and many."""
    named = {"labeled": partition.labeled, "evaluation": partition.evaluation}
    return {
        "hash": partition.hash,
        "evaluation_name": partition.evaluation_name,
        "unlabeled": len(partition.unlabeled),
        **{name: [sample.name for sample in samples] for name, samples in named.items()},
    }


def _new_name(config: TrainConfig) -> Path:
    stem = f"{Path(config.data).resolve().name}-{config.full_method}-seed{config.seed}"
    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(path for path in (Path("runs") / name for name in names) if not path.exists())


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _check_batch(config: TrainConfig, network: nn.Module) -> None:
    """Stop where a process would get no whole share of the batch, or one image that BatchNorm cannot train on."""
    assert config.batch is not None
    processes = _processes(config)
    if processes > 1 and config.on_collapse == "rollback":
        raise ValueError(f"--on-collapse rollback works in one process, not in {processes}; give stop or continue")
    if processes > 1 and config.batch % processes:
        raise ValueError(f"--batch {config.batch} does not divide over {processes} processes; give a multiple of {processes}")
    if config.batch == max(processes, 1):
        image = torch.zeros(1, int(network.in_channels), config.crop or 1, config.crop or 1)  # type: ignore[arg-type]
        copy.deepcopy(network).train()(image)


def _processes(config: TrainConfig) -> int:
    devices = config.trainer.get("devices", 1)
    return int(os.environ.get("WORLD_SIZE", devices if isinstance(devices, int) else 1))


def _uses_cuda(config: TrainConfig) -> bool:
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in {"auto", "gpu", "cuda"}


def _trainer_options(config: TrainConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"accumulate_grad_batches": config.accumulate}
    if config.optimizer.clip > 0:
        options["gradient_clip_val"] = config.optimizer.clip
    if _uses_cuda(config):
        options["precision"] = "bf16-mixed"
    options |= config.trainer
    if options.get("devices", 1) not in (1, "1") and "strategy" not in options:
        options["strategy"] = "ddp"
    return options


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
        "versions": _versions(),
    }


def _versions() -> dict[str, str | None]:
    packages = ("protoseg", "torch", "torchvision", "lightning", "segmentation-models-pytorch", "timm")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of a source checkout, with `-dirty` where files differ from it; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or None


def _result(config: TrainConfig, data: CheckedData, fitted: FitReport, header: dict[str, Any]) -> dict[str, Any]:
    partition = data.partition
    return {
        "method": config.full_method,
        "recipe": config.recipe,
        "seed": config.seed,
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 1),
        "labeled": len(partition.labeled),
        "unlabeled": len(partition.unlabeled),
        "split": {"labels": config.labels or "all", "evaluation": partition.evaluation_name, "hash": partition.hash},
        "skipped": [path for path in fitted.skipped if not _is_image(path)],
        "other_kind": [path for path in fitted.skipped if _is_image(path)],
        "events": list(fitted.events),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": header["versions"],
    }


def _is_image(path: str) -> bool:
    """Whether a file that was skipped can be read, and so is of another kind than the labelled images."""
    try:
        read_image(Path(path))
    except UnreadableImageError:
        return False
    return True


def _score(data: CheckedData, iou: IoU) -> dict[str, Any]:
    # JSON has no NaN: a class absent from the evaluation images has no IoU.
    per_class = {name: None if value != value else value for name, value in zip(data.classes.names, iou.per_class, strict=True)}
    return {"evaluated": len(data.partition.evaluation), "miou": iou.mean, "iou": per_class}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def _write_sheet(
    out: Path,
    data: CheckedData,
    network: nn.Module,
    normalization: Normalization,
    inference: Inference,
    *,
    has_baseline: bool,
) -> None:
    """predictions.png: image, truth, labels-only where it was trained, ours. Without evaluation images, unlabelled ones."""
    partition, classes = data.partition, data.classes
    scored = bool(partition.evaluation)
    samples = partition.evaluation or partition.unlabeled or partition.labeled
    networks = {"ours" if has_baseline else "prediction": network.eval()}
    if has_baseline:
        networks = {"labels only": load_model(out / BASELINE).network.to(next(network.parameters()).device), **networks}
    rows = []
    for sample in samples[:: max(1, len(samples) // _SHEET_ROWS)]:
        truth = []
        if scored:
            image, mask = read_pair(sample, normalization.kind)
            truth = [colorize(classes.encode(mask), classes)]
        else:
            try:
                image = read_image(sample.image, normalization.kind)
            except UnreadableImageError:  # training has counted it
                continue
        labels = [predict_image(net, image, normalization, inference).label.cpu() for net in networks.values()]
        predicted = [colorize(label.to(torch.uint8).numpy(), classes) for label in labels]
        rows.append([to_rgb(image), *truth, *predicted])
        if len(rows) == _SHEET_ROWS:
            break
    if rows:
        sheet(out / "predictions.png", rows, ["image", *(["truth"] if scored else []), *networks], classes)
