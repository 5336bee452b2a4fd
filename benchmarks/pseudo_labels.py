"""What would the teacher teach? Its labels on the unlabelled images, beside the truth that training never opens.

    python benchmarks/pseudo_labels.py RUN [--head linear] [--scale 1] [--threshold 0.9]

For each class: IoU, recall and precision of the label; predicted pixels per true pixel; and of the true pixels, the share that
is confidently right, the share that is confidently called something else, and the confident predictions per confident true
pixel. A class that is called something else more often than by its name is untaught by its own pseudo-labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torchvision.transforms.v2 import functional as V

from protoseg.arguments import parse_train
from protoseg.data.check import read_pair
from protoseg.data.index import Sample
from protoseg.run import load_data
from protoseg.trained import Head, TrainedModel, by_prototypes, load_model
from protoseg.types import IGNORE_INDEX

_IMAGES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--head", default="linear", choices=get_args(Head), help="whose labels; default linear")
    parser.add_argument("--scale", type=float, default=1.0, help="of the images, as in a random crop; default 1")
    parser.add_argument("--threshold", type=float, default=0.9, help="lowest confidence that counts; default 0.9")
    options = parser.parse_args()
    data, model = load_data(parse_train(["--resume", str(options.run)])), load_model(options.run)
    if options.head != "linear":
        model = by_prototypes(model, options.run, mean=options.head == "mean")
    pool = [sample for sample in data.partition.unlabeled if sample.mask is not None]
    size = len(model.classes)
    every, confident = np.zeros((size, size)), np.zeros((size, size))  # rows: truth, columns: label
    for sample in pool[:: max(1, len(pool) // _IMAGES)]:
        truth, label, confidence = predict(model, sample, options.scale)
        known = truth != IGNORE_INDEX
        every += count(truth[known], label[known], size)
        sure = known & (confidence >= options.threshold)
        confident += count(truth[sure], label[sure], size)
    right = percent(np.trace(confident), confident.sum())
    hits = every.diagonal()
    union = every.sum(axis=0) + every.sum(axis=1) - hits
    print(f"mIoU {100 * (hits[union > 0] / union[union > 0]).mean():.1f}; ", end="")
    print(f"{percent(confident.sum(), every.sum())}% of the pixels are confident, {right}% of them right")
    columns = ["class", "IoU", "recall", "precision", "predicted / true"]
    columns += ["confidently right", "confidently wrong", "confident: predicted / true"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for c, name in enumerate(model.classes.names):
        hit, true, predicted = every[c, c], every[c].sum(), every[:, c].sum()
        sure_hit, sure_true, sure_predicted = confident[c, c], confident[c].sum(), confident[:, c].sum()
        cells = [percent(hit, true + predicted - hit), percent(hit, true), percent(hit, predicted), ratio(predicted, true)]
        cells += [percent(sure_hit, true), percent(sure_true - sure_hit, true), ratio(sure_predicted, sure_true)]
        print(f"| {name} | {' | '.join(cells)} |")


@torch.no_grad()
def predict(model: TrainedModel, sample: Sample, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth, label and confidence of each pixel of a scaled image, (h, w) each."""
    image, mask = read_pair(sample, model.normalization.kind)
    pixels = model.normalization(image, torch.device("cpu"))  # (1, I, H, W)
    truth = torch.from_numpy(model.classes.encode(mask)).long()
    size = [round(side * scale) for side in truth.shape]
    confidence, label = model.network(V.resize(pixels, size, antialias=True)).logits.softmax(dim=1).max(dim=1)
    truth = V.resize(truth[None], size, interpolation=V.InterpolationMode.NEAREST_EXACT)
    return truth[0], label[0], confidence[0]


def count(truth: torch.Tensor, label: torch.Tensor, size: int) -> np.ndarray:  # type: ignore[type-arg]
    return torch.bincount(truth * size + label, minlength=size * size).view(size, size).numpy()


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}" if whole else ""


def ratio(part: float, whole: float) -> str:
    return f"{part / whole:.2f}" if whole else ""


if __name__ == "__main__":
    main()
