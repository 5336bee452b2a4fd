"""What the demo data shows: labels only, the CutMix teacher, and prototypes, over seeds 0-2.

    python benchmarks/demo.py

Settings were chosen on seeds 100 and up, with equal effort for each method; see docs/benchmarks.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import grid
from protoseg.data.demo import write_demo

METHODS = {
    "labels only": ["--method", "supervised"],
    "CutMix teacher": ["--prototypes.per_class", "0"],
    "prototypes": [],
}


def main() -> None:
    parser = grid.arguments(__doc__ or "", Path(__file__).with_name("results") / "demo.jsonl")
    options = parser.parse_args()
    methods = options.methods.split(",") if options.methods else list(METHODS)
    if not options.table:
        for seed in (int(text) for text in options.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "data"
                write_demo(data, seed=seed)
                for method in methods:
                    words = [str(data), "--recipe", "demo", "--no-baseline", "--seed", str(seed), *METHODS[method]]
                    cell = {"method": method, "seed": seed}
                    grid.run_cell(cell, words, options.results, options.runs, hide={str(data): "DEMO"})
    print(grid.table(grid.read(options.results), methods))


if __name__ == "__main__":
    main()
