"""Fills the tables of docs/benchmarks.md from the finished cells in results/*.jsonl; the words around them stay as they are.

    python benchmarks/make_docs.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the names and what they show are below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.bench import store
from protoseg.bench.cells import NAMED, is_cell
from protoseg.bench.tables import class_table, markdown, score_table, term_table

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
RESULTS = Path(__file__).with_name("results")
_MARKED = re.compile(r"(<!-- table: ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Rows = Sequence[Mapping[str, Any]]


def cells(file: str, *, seeds: Sequence[int] | None = None, **identity: str) -> list[dict[str, Any]]:
    """The finished cells of a grid, all of its seeds where none are named."""
    rows = store.read(RESULTS / f"{file}.jsonl")
    return [row for row in rows if is_cell(row, identity) and (seeds is None or row["seed"] in seeds)]


def methods_of(rows: Rows) -> list[str]:
    """The three contestants, then whatever else has run, as it came."""
    found = dict.fromkeys(row["method"] for row in rows)
    return [*(name for name in NAMED if name in found), *(name for name in found if name not in NAMED)]


def scores(rows: Rows) -> str:
    methods = methods_of(rows)
    return score_table(rows, methods, against=methods[:1], time="seconds")


def classes(rows: Rows) -> str:
    return class_table(rows, methods_of(rows))


def term(rows: Rows) -> str:
    return term_table(rows, methods_of(rows))


def demo_search() -> str:
    """mIoU of the three contestants for each network and learning rate that was tried."""
    width_24, width_16 = "width 24, 1,400", "width 16, 2,200"
    tried = [  # network, learning rate, seed, settings beyond the recipe's
        (width_24, "1e-3", 100, {"settings": "--optimizer.lr 1e-3"}),
        (width_24, "3e-3", 100, {}),
        (width_24, "1e-2", 100, {"settings": "--optimizer.lr 1e-2"}),
        (width_24, "3e-3", 101, {}),
        *((width_16, "2e-3", seed, {"settings": "--optimizer.lr 2e-3 --model.width 16 --steps 2200"}) for seed in (100, 101)),
    ]
    lines = []
    for network, rate, seed, own in tried:
        by_method = {row["method"]: row["miou"] for row in cells("demo", seeds=[seed], recipe="demo@6eb7d6ad", **own)}
        lines.append([network, rate, str(seed), *(f"{100 * by_method[method]:.1f}" for method in NAMED)])
    return markdown(["network, steps", "learning rate", "seed", *NAMED], lines)


DEMO = {"file": "demo", "recipe": "demo@50329b7c"}
DEMO_BEFORE = {"file": "demo", "recipe": "demo@bc132b08"}
CAMVID = {"file": "camvid", "recipe": "camvid@3a7d3a64", "labels": "23", "scored": "test"}
REPORTED = (0, 1, 2)
"""Seeds of the reported tables; settings are chosen on those from 100 on."""
TABLES: dict[str, Callable[[], str]] = {
    "demo scores": lambda: scores(cells(seeds=REPORTED, **DEMO)),
    "demo classes": lambda: classes(cells(seeds=REPORTED, **DEMO)),
    "demo scores, 64 px": lambda: scores(cells(**DEMO_BEFORE)),
    "demo search": demo_search,
    "camvid scores": lambda: scores(cells(seeds=REPORTED, **CAMVID)),
    "camvid classes": lambda: classes(cells(seeds=REPORTED, **CAMVID)),
    "camvid term": lambda: term(cells(seeds=REPORTED, **CAMVID)),
}
"""Name in the page -> the table."""


def filled(page: str) -> str:
    """The page with all of its tables written anew.

    Raises:
        ValueError: a marker is open or names no table, or a table has no place.
    """
    names = [match[2] for match in _MARKED.finditer(page)]
    if len(names) != page.count("<!-- table:") or len(names) != page.count("<!-- end -->"):
        raise ValueError(f"{PAGE}: each <!-- table: NAME --> needs an <!-- end --> behind its table, and none else")
    if sorted(names) != sorted(TABLES):
        raise ValueError(f"{PAGE} has the tables {', '.join(names)}; make_docs.py knows {', '.join(TABLES)}")
    return _MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[4]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    print(f"{PAGE}: {len(TABLES)} tables")
