"""What the demo data shows: labels only, the CutMix teacher, and prototypes, over seeds 0-2.

    python benchmarks/demo.py [--seeds 0,1,2] [any setting of protoseg train, for all three]

Settings are chosen on seeds 100 and up, with equal effort for each method; see docs/benchmarks.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import grid
from protoseg.data.demo import write_demo


def main() -> None:
    parser = grid.arguments(__doc__ or "", Path(__file__).with_name("results") / "demo.jsonl")
    parser.add_argument("--size", type=int, default=48, help="side of the images in pixels; default 48, as in protoseg demo")
    options, extra = parser.parse_known_args()
    cell = {} if options.size == parser.get_default("size") else {"size": str(options.size)}
    with tempfile.TemporaryDirectory() as folder:
        grid.run(options, extra, common_words(Path(folder), options.size), recipe="demo", hide={folder: "."}, **cell)


def common_words(folder: Path, size: int = 48) -> Callable[[int], list[str]]:
    """What every run of a seed says to `protoseg train`; its images are written when they are first asked for."""

    def words(seed: int) -> list[str]:
        data = folder / f"demo{seed}"
        if not data.exists():
            write_demo(data, seed=seed, size=size)
        return [str(data), "--no-baseline"]

    return words


if __name__ == "__main__":
    main()
