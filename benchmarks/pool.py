"""What did the unlabelled images teach about themselves, and about other places?

    python benchmarks/pool.py RUN [RUN ...] [--head linear]

Scores the models of finished runs on their own unlabelled images (whose masks training never opens, but a benchmark's data set
has) and on the run's evaluation images. A model that gains on the first and not on the second has learned about these places.
"""

from __future__ import annotations

import math

import finished
from protoseg.engine.evaluate import evaluate

_IMAGES = 83  # every third of CamVid's 249


def main() -> None:
    options = finished.arguments(__doc__).parse_args()
    for folder in options.runs:
        run = finished.open_run(folder, options.head)
        model, seen = run.model, {}
        for name, samples in {"unlabelled": run.with_truth(_IMAGES), "evaluation": run.evaluation}.items():
            score = evaluate(model.network, samples, model.classes, model.normalization)
            iou = {n: None if math.isnan(v) else v for n, v in zip(model.classes.names, score.per_class, strict=True)}
            seen[name] = {"images": len(samples), "miou": score.mean, "iou": iou}
            per_class = ", ".join(f"{n} {100 * v:.0f}" for n, v in iou.items() if v is not None)
            print(f"{folder.name}: {len(samples)} {name} images: {100 * score.mean:.1f} ({per_class})", flush=True)
        finished.keep(options.results, "pool", run, head=options.head, **seen)


if __name__ == "__main__":
    main()
