"""What did the unlabelled images teach about themselves, and about other places?

    python benchmarks/pool.py RUN [RUN ...]

Scores the models of finished runs on their own unlabelled images (whose masks training never opens, but a benchmark's data set
has) and on the run's evaluation images. A model that gains on the first and not on the second has learned about these places.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from protoseg.arguments import parse_train
from protoseg.engine.evaluate import evaluate
from protoseg.run import load_data
from protoseg.trained import load_model

_IMAGES = 83  # every third of CamVid's 249


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    for run in parser.parse_args().runs:
        data, model = load_data(parse_train(["--resume", str(run)])), load_model(run)
        pool = [sample for sample in data.partition.unlabeled if sample.mask is not None]
        parts = {"unlabelled": pool[:: max(1, len(pool) // _IMAGES)], "evaluation": list(data.partition.evaluation)}
        for name, samples in parts.items():
            score = evaluate(model.network, samples, model.classes, model.normalization)
            per_class = ", ".join(f"{n} {100 * v:.0f}" for n, v in zip(model.classes.names, score.per_class, strict=True))
            print(f"{run.name}: {len(samples)} {name} images: {100 * score.mean:.1f} ({per_class})", flush=True)


if __name__ == "__main__":
    main()
