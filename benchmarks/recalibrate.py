"""Does a model lose by its BatchNorm statistics? They come from clean and colour-changed crops together.

    python benchmarks/recalibrate.py RUN [RUN ...]

Scores the model of a finished run on the run's own evaluation images: as it is, and with the statistics of the decoder
estimated anew on whole labelled and on whole unlabelled images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

import finished
from protoseg.data.images import read_image
from protoseg.data.index import Sample
from protoseg.engine.evaluate import Normalization, evaluate

_IMAGES, _BATCH = 32, 4


def main() -> None:
    options = finished.arguments(__doc__).parse_args()
    for folder in options.runs:
        run = finished.open_run(folder, options.head)
        model, seen = run.model, {}
        networks = {
            "as it is": model.network,
            "statistics of labelled images": recalibrated(model.network, run.labeled, model.normalization),
            "statistics of unlabelled images": recalibrated(model.network, run.unlabeled, model.normalization),
        }
        for name, network in networks.items():
            seen[name] = evaluate(network, run.evaluation, model.classes, model.normalization).mean
            print(f"{folder.name}, {name}: {100 * seen[name]:.1f}", flush=True)
        finished.keep(options.results, "recalibrate", run, head=options.head, miou=seen)


@torch.no_grad()
def recalibrated(network: nn.Module, samples: Sequence[Sample], normalization: Normalization) -> nn.Module:
    """A copy whose BatchNorm layers outside the encoder have the plain mean of the statistics of some whole images."""
    network = copy.deepcopy(network).eval()
    layers = [m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and "encoder" not in name]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:_IMAGES].tolist()
    for start in range(0, len(order) // _BATCH * _BATCH, _BATCH):  # whole batches: one image alone has no statistics
        images = [read_image(samples[i].image, normalization.kind) for i in order[start : start + _BATCH]]
        network(torch.cat([normalization(image, torch.device("cpu")) for image in images]))
    return network.eval()


if __name__ == "__main__":
    main()
