"""What would the teacher teach? Its labels on the unlabelled images, beside the truth that training never opens.

    python benchmarks/pseudo_labels.py RUN [RUN ...] [--head linear] [--scale 1] [--threshold 0.9]

For each class: IoU, recall and precision of the label; predicted pixels per true pixel; and of the true pixels, the share that
is confidently right, the share that is confidently called something else, and the confident predictions per confident true
pixel. A class that is called something else more often than by its name is untaught by its own pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as V

import finished
from protoseg.bench.tables import Table
from protoseg.data.check import read_pair
from protoseg.data.index import Sample
from protoseg.trained import TrainedModel
from protoseg.types import IGNORE_INDEX

_IMAGES = 32
Counts = np.ndarray[Any, np.dtype[np.int64]]


def main() -> None:
    parser = finished.arguments(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the images, as in a random crop; default 1")
    parser.add_argument("--threshold", type=float, default=0.9, help="lowest confidence that counts; default 0.9")
    options = parser.parse_args()
    for folder in options.runs:
        run = finished.open_run(folder, options.head)
        size = len(run.model.classes)
        every, confident = np.zeros((2, size, size), dtype=np.int64)  # rows: truth, columns: label
        for sample in run.with_truth(_IMAGES):
            truth, label, confidence = predict(run.model, sample, options.scale)
            known = truth != IGNORE_INDEX
            every += count(truth[known], label[known], size)
            sure = known & (confidence >= options.threshold)
            confident += count(truth[sure], label[sure], size)
        seen = compare(every, confident, run.model.classes.names)
        finished.keep(options.results, "pseudo-labels", run, **_of(options), **seen)
        print(f"{folder.name}: mIoU {100 * seen['miou']:.1f}; ", end="")
        print(f"{percent(seen['confident'])}% of the pixels are confident, {percent(seen['right'])}% of them right")
        print(table(seen["classes"]), flush=True)


def _of(options: Any) -> dict[str, Any]:
    return {key: getattr(options, key) for key in ("head", "scale", "threshold")}


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


def count(truth: torch.Tensor, label: torch.Tensor, size: int) -> Counts:
    """Pixels of each truth (row) and label (column)."""
    return torch.bincount(truth * size + label, minlength=size * size).view(size, size).numpy()


def compare(every: Counts, confident: Counts, names: Sequence[str]) -> dict[str, Any]:
    """The numbers of all pixels and of each class, as shares; None where there is nothing to divide by.

    Args:
        every: pixels, (C, C), rows are truth, columns the label.
        confident: the same of confident labels.
        names: of the classes.
    """
    classes = {}
    for c, name in enumerate(names):
        hit, true, predicted = every[c, c], every[c].sum(), every[:, c].sum()
        sure_hit, sure_true, sure_predicted = confident[c, c], confident[c].sum(), confident[:, c].sum()
        classes[name] = {
            "iou": share(hit, true + predicted - hit),
            "recall": share(hit, true),
            "precision": share(hit, predicted),
            "predicted": share(predicted, true),
            "confidently_right": share(sure_hit, true),
            "confidently_wrong": share(sure_true - sure_hit, true),
            "confidently_predicted": share(sure_predicted, sure_true),
        }
    ious = [numbers["iou"] for numbers in classes.values() if numbers["iou"] is not None]
    return {
        "miou": sum(ious) / len(ious),
        "confident": share(confident.sum(), every.sum()),
        "right": share(np.trace(confident), confident.sum()),
        "classes": classes,
    }


def share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def table(classes: Mapping[str, Mapping[str, float | None]]) -> str:
    """One line a class."""
    titles = ["class", "IoU", "recall", "precision", "predicted / true"]
    titles += ["confidently right", "confidently wrong", "confident: predicted / true"]
    return Table(
        titles, [[name, *(_cell(key, value) for key, value in own.items())] for name, own in classes.items()]
    ).markdown()


def _cell(key: str, value: float | None) -> str:
    return ratio(value) if key in ("predicted", "confidently_predicted") else percent(value)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


def ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
