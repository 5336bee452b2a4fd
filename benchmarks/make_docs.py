"""Writes the numbers of docs and README anew from results/*.jsonl; the words around them stay as they are.

    python benchmarks/make_docs.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the names, and what they show, are in score_tables.py and
speed_tables.py. In docs/methods.md it is the column of costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import score_tables
import speed_tables
from protoseg.bench import store
from protoseg.bench.cells import TERM
from protoseg.config import METHODS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
_MARKED = re.compile(r"(<!-- table: ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "docs/benchmarks.md": score_tables.TABLES,
    ROOT / "docs/performance.md": speed_tables.TABLES,
    ROOT / "README.md": score_tables.README,
}
"""Page -> the name of a table in it -> the table."""
PLOTS: dict[Path, Callable[[], str]] = {ROOT / "docs/pictures" / name: plot for name, plot in speed_tables.PLOTS.items()}
METHODS_PAGE = ROOT / "docs/methods.md"
STEP = {"network": "deeplabv3plus on resnet18", "crop": 256, "batch": 4, "against": "supervised"}
"""The measurement that docs/methods.md shows."""


def with_costs(text: str) -> str:
    """docs/methods.md, with the measured cost of a step in the fourth column of its table; words behind a number stay.

    Raises:
        ValueError: a method has no line in the table, or was not measured.
    """
    rows = {row["method"]: row for row in store.read(RESULTS / "step.jsonl") if STEP.items() <= row.items()}
    costs = {method: f"{rows[method]['ratio']:.1f}" for method in METHODS if method in rows}
    added = [rows[m + TERM]["ratio"] - rows[m]["ratio"] for m in METHODS if m + TERM in rows]
    costs["...+prototypes"] = f"{min(added):+.1f} to {max(added):+.1f}" if added else ""
    for name in (*METHODS, "...+prototypes"):
        line = re.compile(rf"^(\| `{re.escape(name)}` (?:\|[^|]*){{2}}\| )[^|;]*?(;[^|]*)?( \|.*)$", re.MULTILINE)
        if name not in costs or not line.search(text):
            raise ValueError(f"docs/methods.md: {name} has no line in the table or no cost in results/step.jsonl")
        text = line.sub(lambda match, cost=costs[name]: f"{match[1]}{cost}{match[2] or ''}{match[3]}", text)  # type: ignore[misc]
    return text


def filled(page: Path, text: str) -> str:
    """The text of a page with all of its numbers written anew.

    Raises:
        ValueError: a marker is open or names no table, a table has no place, or a number is missing.
    """
    if page == METHODS_PAGE:
        return with_costs(text)
    tables = PAGES[page]
    names = [match[2] for match in _MARKED.finditer(text)]
    if len(names) != text.count("<!-- table:") or len(names) != text.count("<!-- end -->"):
        raise ValueError(f"{page}: each <!-- table: NAME --> needs an <!-- end --> behind its table, and none else")
    if sorted(names) != sorted(tables):
        raise ValueError(f"{page} has the tables {', '.join(names)}; make_docs.py knows {', '.join(tables)}")
    return _MARKED.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[4]}", text)


if __name__ == "__main__":
    for page in (*PAGES, METHODS_PAGE):
        page.write_text(filled(page, page.read_text()))
        print(page)
    for picture, plot in PLOTS.items():
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(plot())
        print(picture)
