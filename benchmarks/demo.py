"""What the demo data shows: labels only, the CutMix teacher, and prototypes, over seeds 0-2.

    python benchmarks/demo.py [--seeds 0,1,2] [any setting of protoseg train, for all three]

Settings are chosen on seeds 100 and up, with equal effort for each method; see docs/benchmarks.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import grid
from protoseg.data.demo import write_demo


def main() -> None:
    parser = grid.arguments(__doc__ or "", Path(__file__).with_name("results") / "demo.jsonl")
    parser.add_argument("--size", type=int, default=48, help="side of the images in pixels; default 48, as in protoseg demo")
    options, extra = parser.parse_known_args()
    cell = {} if options.size == parser.get_default("size") else {"size": str(options.size)}
    with tempfile.TemporaryDirectory() as folder:

        def words(seed: int) -> list[str]:
            data = Path(folder) / f"demo{seed}"
            if not data.exists():
                write_demo(data, seed=seed, size=options.size)
            return [str(data), "--no-baseline"]

        grid.run(options, extra, words, recipe="demo", hide={folder: "."}, **cell)


if __name__ == "__main__":
    main()
