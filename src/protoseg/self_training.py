"""Self-training as a chain of runs: train on labels, let that model label, train anew (ST and ST++, arXiv 2106.05095)."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from protoseg.config import build_inference, build_method
from protoseg.data.check import CheckedData
from protoseg.data.images import read_image
from protoseg.data.index import Sample
from protoseg.data.io import UnreadableImageError
from protoseg.data.patience import AwayError, patiently
from protoseg.engine.callbacks import snapshot
from protoseg.engine.evaluate import Normalization, predict_image
from protoseg.engine.inference import Inference
from protoseg.engine.metrics import ConfusionMatrix, iou
from protoseg.files import write_text
from protoseg.methods.base import Method
from protoseg.settings import TrainConfig
from protoseg.stage import stored_json, train_one, uses_cuda
from protoseg.stored import DamagedError, is_number
from protoseg.trained import load_model, progress

FIRST, RELIABLE, AGREEMENT = "first", "reliable", "agreement.json"
"""Folders of the earlier models of a run, and how stable each unlabelled image was while the first one learned."""
_PARTS = 3  # of the first training: its weights are kept after each (K in the paper)


def prepare(
    method: Method,
    config: TrainConfig,
    labels_only: TrainConfig,
    data: CheckedData,
    normalization: Normalization,
    *,
    start: nn.Module,
    folder: Path,
    first: Path,
    console: Console,
) -> None:
    """Train what comes before the last model, and give the last one its labeler. What is finished is not trained again.

    ST: the labeler is a model of labels alone. ST++: that model labels the half of the unlabelled images on which its own
    snapshots agree best, a second model learns from these, and labels all.

    Args:
        method: the last one, at its start.
        config, labels_only: of the run, and of its first model; resolved.
        data: images and classes.
        normalization: of the images.
        start: the network as every model starts.
        folder: of the run.
        first: of the first model.
        console: for everything that is printed.
    """
    assert config.steps is not None
    in_order = bool(config.consistency.reliable_first)
    steps = [config.steps * part // _PARTS for part in range(1, _PARTS)] if in_order else []
    beginner = build_method(labels_only, copy.deepcopy(start), data.report.pixels.tolist())
    train_one(labels_only, data, beginner, normalization, first, console, title="labels only", snapshots=steps)
    model = load_model(first).network
    method.learn_from(model.state_dict())
    if not in_order:
        return
    labels = model.state_dict()
    model = model.to("cuda" if uses_cuda(config) else "cpu")
    agreement = _agreement(model, [snapshot(first, step) for step in steps], data, normalization, config, folder, console)
    stable = dataclasses.replace(data.partition, unlabeled=more_reliable_half(data.partition.unlabeled, agreement))
    second = build_method(config, copy.deepcopy(start), data.report.pixels.tolist())
    second.learn_from(labels)
    half = dataclasses.replace(data, partition=stable)
    train_one(config, half, second, normalization, folder / RELIABLE, console, title="reliable half")
    method.learn_from(load_model(folder / RELIABLE).network.state_dict())


def more_reliable_half(samples: Sequence[Sample], agreement: dict[str, float]) -> tuple[Sample, ...]:
    """The half of the images with the higher agreement, rounded up, in their own order."""
    ranked = sorted(samples, key=lambda sample: -agreement[sample.name])
    chosen = {sample.name for sample in ranked[: math.ceil(len(ranked) / 2)]}
    return tuple(sample for sample in samples if sample.name in chosen)


def stability(
    last: nn.Module, earlier: Sequence[nn.Module], sample: Sample, normalization: Normalization, inference: Inference
) -> float:
    """Mean over earlier snapshots of the mean IoU between what they and the last model see in an image; 0 if unreadable."""
    try:
        image = patiently(partial(read_image, sample.image, normalization.kind), sample.image)
    except AwayError:  # it may be read later, and what is found here is kept
        raise
    except UnreadableImageError:  # training counts and names it
        return 0.0
    label = predict_image(last, image, normalization, inference).label
    num_classes = int(last.num_classes)  # type: ignore[arg-type]
    scores = []
    for network in earlier:
        metric = ConfusionMatrix(num_classes).to(label.device)
        metric.update(predict_image(network, image, normalization, inference).label, label)
        scores.append(iou(metric.confusion).mean)
    return sum(scores) / len(scores)


def _agreement(
    last: nn.Module,
    snapshots: Sequence[Path],
    data: CheckedData,
    normalization: Normalization,
    config: TrainConfig,
    folder: Path,
    console: Console,
) -> dict[str, float]:
    stored = folder / AGREEMENT
    if stored.is_file():
        told = stored_json(stored, {str: is_number})
        if missing := [sample.name for sample in data.partition.unlabeled if sample.name not in told]:
            raise ValueError(f"{stored} says nothing of {missing[0]}; delete it, and the images are compared again")
        return told
    earlier = [_earlier(last, path, folder) for path in snapshots]
    inference = build_inference(config.inference)
    with torch.no_grad():
        found = {
            sample.name: stability(last, earlier, sample, normalization, inference)
            for sample in progress("ranking unlabelled images", console)(data.partition.unlabeled)
        }
    write_text(stored, json.dumps(found, indent=2) + "\n")
    return found


def _earlier(last: nn.Module, path: Path, folder: Path) -> nn.Module:
    """The first model as it was at a snapshot.

    Raises:
        DamagedError: the file is missing, damaged, or of another network.
    """
    network = copy.deepcopy(last)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DamagedError(
            f"{path} is missing or damaged ({str(error).splitlines()[0]}); remove {path.parent}, and protoseg train --resume "
            f"{folder} trains the first model again"
        ) from error
    return network.eval()
