"""One function for each command: from settings to a run folder."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import track
from torch import nn

from protoseg.config import (
    ModelConfig,
    TrainConfig,
    build_geometry,
    build_method,
    build_network,
    build_normalization,
    build_optimizer,
    build_views,
    metric_fields,
    resolve,
    validate,
)
from protoseg.data.check import CheckedData, check_labels, mask_values, read_pair
from protoseg.data.formats import folder, open_dataset
from protoseg.data.index import ClassTable, Sample, Split
from protoseg.data.loader import LabeledCrops, UnlabeledCrops
from protoseg.data.splits import Partition, make_partition
from protoseg.engine.checkpoint import load_model_file, part, save_model
from protoseg.engine.datamodule import StreamModule
from protoseg.engine.evaluate import Normalization, evaluate, predict_image
from protoseg.engine.metrics import IoU
from protoseg.engine.module import TrainingModule
from protoseg.engine.pictures import colorize, sheet
from protoseg.engine.predict import predict
from protoseg.engine.train import FitReport, fit
from protoseg.methods.base import Method
from protoseg.methods.prototype import PrototypeConsistency
from protoseg.summary import iou_table, print_found, print_result

CONFIG, SPLIT, MODEL, RESULT, BASELINE = "config.yaml", "split.json", "model.safetensors", "result.json", "baseline"
_SHEET_ROWS = 6
_PRIVATE = {"data", "unlabeled", "labels", "holdout", "out", "resume", "trainer"}
"""Settings that say where things lie on one machine: of no use to whoever gets the model file."""


@dataclass(frozen=True)
class TrainedModel:
    """A model read back from its file.

    Attributes:
        network: in eval mode.
        classes: of its outputs.
        normalization: of its input.
        header: everything else that the file says.
    """

    network: nn.Module
    classes: ClassTable
    normalization: Normalization
    header: dict[str, Any]


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
    validate(config)
    data = load_data(config)
    if config.baseline and not data.partition.evaluation:
        raise ValueError(
            "--baseline compares two models on labelled images, and none are left; keep some back with --holdout 1/5"
        )
    sizes, num_unlabeled = data.report.sizes, len(data.partition.unlabeled)
    config = resolve(config, sizes=sizes, num_unlabeled=num_unlabeled, cuda=_uses_cuda(config))
    if config.method != "supervised" and not data.partition.unlabeled:
        raise ValueError(
            "there are no unlabelled images to learn from; add some to images/ or with --unlabeled DIR, use fewer masks with "
            "--labels, or train with --method supervised"
        )
    _build(config, data)  # a setting that cannot work stops here, before anything is written
    out = _open_run_folder(config, data.partition)
    if _is_main_process():
        print_found(config, data, out, console)

    baseline: dict[str, Any] | None = None
    if config.baseline and config.method != "supervised":
        baseline = _run_one(_baseline_config(config), data, out / BASELINE, console, title="labels only", baseline=None)
    result = _run_one(config, data, out, console, title=config.method, baseline=baseline)
    if result is not None:
        print_result(result, out, console)
    return result


def load_data(config: TrainConfig) -> CheckedData:
    """List the images, divide them, and decode all labelled ones.

    Raises:
        ValueError, FileNotFoundError: see `open_dataset`, `make_partition` and `check_labels`.
    """
    index = open_dataset(Path(config.data), unlabeled=Path(config.unlabeled) if config.unlabeled else None)
    partition = make_partition(
        index,
        labels=config.labels,
        holdout=config.holdout,
        split=config.split,
        seed=config.seed,
        classes_in=mask_values,
    )
    return CheckedData(index, partition, check_labels(index, partition))


def load_model(path: Path) -> TrainedModel:
    """Read a trained model from a run folder or a model file; nothing is unpickled.

    Raises:
        FileNotFoundError, ValueError: see `load_model_file`; or the tensors do not fit the network that the file names.
    """
    file = load_model_file(path)
    header = file.header
    try:
        classes = _classes_from(header["classes"])
        normalization = Normalization(tuple(header["normalization"]["mean"]), tuple(header["normalization"]["std"]))
        model = ModelConfig(**header["config"]["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was written by another version of protoseg, its header does not fit ({error})") from error
    network = build_network(model, len(classes), pretrained=False)
    try:
        network.load_state_dict(part(file.tensors, "network"))
    except RuntimeError as error:
        raise ValueError(f"the tensors in {path} do not fit its own description: {str(error).splitlines()[0]}") from error
    return TrainedModel(network.eval(), classes, normalization, header)


def evaluate_run(run: Path, root: Path, *, split: Split, console: Console) -> IoU:
    """Score a trained model on a labelled folder and print the table.

    Args:
        run: run folder or model file.
        root: data set.
        split: its evaluation images; for a data set without evaluation images, all of its labelled images are scored.
        console: for the table.

    Raises:
        ValueError: no labelled image in that split, or a mask value that the model does not know.
    """
    model = load_model(run)
    index = open_dataset(root, for_training=False)
    has_splits = any(sample.split != "train" for sample in index.samples)
    chosen: Split = split if has_splits else "train"
    samples = [sample for sample in index.of(chosen) if sample.mask is not None]
    if not samples:
        raise ValueError(f"there is no labelled image in the {split} part of {root}; choose another with --split")
    # The data set's own rule for ignored values counts, unless the model has learned such a value as a class.
    ignored = index.classes.ignored if index.classes else model.classes.ignored
    ignored = tuple(value for value in ignored if value not in model.classes.values)
    classes = dataclasses.replace(model.classes, ignored=ignored)
    for sample in samples:
        _, mask = read_pair(sample)
        if unknown := classes.unknown(mask):
            value, count = next(iter(unknown.items()))
            raise ValueError(
                f"{sample.mask} holds the value {value} in {count} pixels, which is no class of the model in {run}"
            )
    network = model.network.to(_device())
    score = evaluate(network, samples, classes, model.normalization, track=_track("scoring", console))
    where = f"{chosen} images" if has_splits else "labelled images (no test/ or val/ there)"
    console.print(f"{len(samples)} {where} of {root}")
    console.print(iou_table(classes.names, {"IoU": score}))
    return score


def predict_run(run: Path, images: Path, *, out: Path, console: Console) -> None:
    """Predict every image of a folder (or one file) and write pictures.

    Raises:
        FileExistsError: the output folder holds something.
    """
    model = load_model(run)
    if images.is_file():
        samples = [Sample(images.stem, images, None, "test")]
    else:
        found = folder.read_images(images, "prediction")
        samples = [Sample(s.image.relative_to(images).with_suffix("").as_posix(), s.image, None, "test") for s in found]
    _require_empty(out, "-o")
    network = model.network.to(_device())
    skipped = predict(network, samples, model.classes, model.normalization, out=out, track=_track("predicting", console))
    for error in skipped:
        console.print(f"warning: skipped, {error}")
    if len(skipped) == len(samples):
        raise ValueError(f"none of the {len(samples)} images in {images} could be read")
    console.print(f"{len(samples) - len(skipped)} images: mask, overlay and confidence of each in {out}")


def _run_one(
    config: TrainConfig, data: CheckedData, out: Path, console: Console, *, title: str, baseline: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Train, save, score and describe one model."""
    if (out / RESULT).is_file():
        return json.loads((out / RESULT).read_text())  # type: ignore[no-any-return]
    out.mkdir(parents=True, exist_ok=True)
    method, normalization = _build(config, data)
    assert config.steps is not None
    assert config.crop is not None
    assert config.batch is not None
    geometry = build_geometry(config, normalization)
    unlabeled = UnlabeledCrops(data.partition.unlabeled, geometry) if method.uses_unlabeled else None
    streams = StreamModule(
        LabeledCrops(data.partition.labeled, data.classes, geometry),
        unlabeled,
        batch=config.batch,
        seed=config.seed,
        workers=config.workers or 0,
        accumulate=config.accumulate,
    )

    def score(module: TrainingModule) -> float:
        return evaluate(module.method.predictor, data.partition.evaluation, data.classes, normalization).mean

    fitted = fit(
        method,
        streams,
        build_views(config, normalization),
        out=out,
        steps=config.steps,
        make_optimizer=lambda method: build_optimizer(config.optimizer, method),
        seed=config.seed,
        power=config.optimizer.power,
        lr_warmup=config.optimizer.warmup_steps,
        log_every=config.log_every or 50,
        checkpoint_every=config.checkpoint_every,
        fields=metric_fields(config),
        score=score if data.partition.evaluation else None,
        score_every=config.evaluate_every,
        console=console,
        title=title,
        trainer_options=_trainer_options(config),
    )
    if not fitted.is_main:
        return None
    network = method.predictor
    header = _header(config, data, normalization)
    prototypes: dict[str, torch.Tensor] = {}
    if isinstance(method, PrototypeConsistency) and method.prototypes is not None:
        prototypes = method.prototypes.head.state_dict()
    save_model(out / MODEL, network.state_dict(), prototypes, header)
    result = _result(config, data, fitted, header)
    evaluation = data.partition.evaluation
    if evaluation and config.evaluate:
        iou = evaluate(
            network.to(fitted.device),
            evaluation,
            data.classes,
            normalization,
            track=_track(f"scoring {title}", console),
        )
        result |= _score(data, iou)
        if baseline is not None:
            result["baseline"] = {key: baseline[key] for key in ("miou", "iou", "steps", "seconds")}
            result["gain"] = iou.mean - baseline["miou"]
        _write_sheet(out, data, network, normalization, has_baseline=baseline is not None)
    _write_json(out / RESULT, result)
    return result


def _build(config: TrainConfig, data: CheckedData) -> tuple[Method, Normalization]:
    normalization = build_normalization(config.model)
    build_geometry(config, normalization)
    torch.manual_seed(config.seed)  # the labels-only model starts from the same weights
    network = build_network(config.model, len(data.classes))
    return build_method(config, network), normalization


def _baseline_config(config: TrainConfig) -> TrainConfig:
    """The run on labels alone: same start, images, crops, seeds, steps and EMA; its own learning rate if one is set."""
    lr = config.optimizer.baseline_lr or config.optimizer.lr
    return dataclasses.replace(
        config, method="supervised", baseline=False, optimizer=dataclasses.replace(config.optimizer, lr=lr)
    )


def _open_run_folder(config: TrainConfig, partition: Partition) -> Path:
    """Make the run folder and write settings and lists into it, or check that the images of a resumed run are the same."""
    if config.resume is not None:
        out = Path(config.resume)
        if json.loads((out / SPLIT).read_text())["hash"] != partition.hash:
            raise ValueError(f"the images in {config.data} are not those that the run in {out} started with; start a new run")
        return out
    if not _is_main_process():
        if folder_name := os.environ.get("PROTOSEG_RUN_FOLDER") or config.out:
            return Path(folder_name)
        raise ValueError(
            "several processes were started from outside: give the run folder with --out, so that all of them know it"
        )
    out = Path(config.out) if config.out else _new_name(config)
    _require_empty(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    stored = dataclasses.replace(config, out=str(out))
    (out / CONFIG).write_text(yaml.safe_dump(stored.to_dict(), sort_keys=False))
    _write_json(out / SPLIT, _lists(partition))
    os.environ["PROTOSEG_RUN_FOLDER"] = str(out)  # for the processes that Lightning starts
    return out


def _lists(partition: Partition) -> dict[str, Any]:
    """Which image stood where; unlabelled ones are the rest, and many."""
    named = {"labeled": partition.labeled, "evaluation": partition.evaluation}
    return {
        "hash": partition.hash,
        "evaluation_name": partition.evaluation_name,
        "unlabeled": len(partition.unlabeled),
        **{name: [sample.name for sample in samples] for name, samples in named.items()},
    }


def _require_empty(out: Path, option: str) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        resumable = (out / CONFIG).is_file()
        hint = f", or go on with it: protoseg train --resume {out}" if resumable else ""
        raise FileExistsError(f"{out} exists and is not empty; give another folder with {option}{hint}")


def _new_name(config: TrainConfig) -> Path:
    stem = f"{Path(config.data).resolve().name}-{config.method}-seed{config.seed}"
    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(path for path in (Path("runs") / name for name in names) if not path.exists())


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _uses_cuda(config: TrainConfig) -> bool:
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in {"auto", "gpu", "cuda"}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
        "normalization": {"mean": normalization.mean, "std": normalization.std},
        "crop": config.crop,
        "recipe": config.recipe,
        "versions": _versions(),
    }


def _classes_from(stored: dict[str, Any]) -> ClassTable:
    colors = tuple((int(r), int(g), int(b)) for r, g, b in stored["colors"])
    return ClassTable(tuple(stored["names"]), tuple(stored["values"]), colors, tuple(stored["ignored"]))


def _versions() -> dict[str, str | None]:
    packages = ("protoseg", "torch", "torchvision", "lightning", "segmentation-models-pytorch", "timm")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of a source checkout; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def _result(config: TrainConfig, data: CheckedData, fitted: FitReport, header: dict[str, Any]) -> dict[str, Any]:
    partition = data.partition
    return {
        "method": config.method,
        "recipe": config.recipe,
        "seed": config.seed,
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 1),
        "labeled": len(partition.labeled),
        "unlabeled": len(partition.unlabeled),
        "split": {"labels": config.labels or "all", "evaluation": partition.evaluation_name, "hash": partition.hash},
        "skipped": list(fitted.skipped),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": header["versions"],
    }


def _score(data: CheckedData, iou: IoU) -> dict[str, Any]:
    # JSON has no NaN: a class absent from the evaluation images has no IoU.
    per_class = {name: None if value != value else value for name, value in zip(data.classes.names, iou.per_class, strict=True)}
    return {"evaluated": len(data.partition.evaluation), "miou": iou.mean, "iou": per_class}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def _write_sheet(out: Path, data: CheckedData, network: nn.Module, normalization: Normalization, *, has_baseline: bool) -> None:
    """predictions.png: image, truth, labels-only where it was trained, ours."""
    evaluation, classes = data.partition.evaluation, data.classes
    chosen = evaluation[:: max(1, len(evaluation) // _SHEET_ROWS)][:_SHEET_ROWS]
    networks = [network.eval()]
    titles = ["image", "truth", "ours" if has_baseline else "prediction"]
    if has_baseline:
        networks.insert(0, load_model(out / BASELINE).network.to(next(network.parameters()).device))
        titles.insert(2, "labels only")
    rows = []
    for sample in chosen:
        image, mask = read_pair(sample)
        labels = [predict_image(net, image, normalization).label.to(torch.uint8).cpu().numpy() for net in networks]
        rows.append([image, colorize(classes.encode(mask), classes), *(colorize(label, classes) for label in labels)])
    sheet(out / "predictions.png", rows, titles, classes)


def _track(text: str, console: Console) -> Callable[[Sequence[Sample]], Iterable[Sample]]:
    if not console.is_terminal:
        return iter
    return lambda samples: track(samples, description=text, console=console, transient=True)
