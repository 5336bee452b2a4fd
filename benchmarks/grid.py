"""The grids of the scripts beside it: their options, cells and tables. What runs, keeps and counts is protoseg.bench."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from protoseg.bench import store
from protoseg.bench.cells import NAMED, Cell, folder_name, is_cell, method_words, recipe_identity
from protoseg.bench.running import run_cells, slots
from protoseg.bench.tables import class_table, score_table, term_table


def arguments(description: str, results: Path) -> argparse.ArgumentParser:
    """Options that all grids share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated; default 0,1,2")
    parser.add_argument("--methods", default=None, help="comma-separated: names of --method, or the default three")
    parser.add_argument("--results", type=Path, default=results, help=f"JSON lines file of finished cells; default {results}")
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here; default a temporary folder")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on each GPU or on the CPU; default 1")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    return parser


def run(
    options: argparse.Namespace,
    extra: Sequence[str],
    common: Callable[[int], Sequence[str]],
    *,
    recipe: str,
    hide: Mapping[str, str],
    **cell: str,
) -> None:
    """Run all cells of the asked methods and seeds, then print the tables. Ends the process with status 1 where a cell failed.

    Args:
        options: of `arguments`.
        extra: further options of `protoseg train`, for every method; they become part of the cell.
        common: seed -> words of `protoseg train`; called for seeds with an unfinished cell alone.
        recipe: of all cells. Its content is part of the cell: a number of another version of it is another number.
        hide: see `store.row_of`.
        cell: what else tells these cells from others in the results file.
    """
    methods = options.methods.split(",") if options.methods else list(NAMED)
    cell = shared_identity(recipe, extra, **cell)
    failed = []
    if not options.table:
        seeds = [int(text) for text in options.seeds.split(",")]
        cells = unfinished(store.read(options.results), methods, seeds, common, recipe=recipe, extra=extra, cell=cell)
        failed = run_cells(
            cells,
            options.results,
            say=partial(print, flush=True),
            runs=options.runs,
            hide=hide,
            places=slots(options.jobs, cuda=True),
        )
    rows = [row for row in store.read(options.results) if is_cell(row, cell)]
    if rows:
        print(*tables(rows, methods), sep="\n\n")
    if failed:
        sys.exit(1)


def tables(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> tuple[str, ...]:
    """Scores beside the first method's, classes, and what the term adds."""
    scores = score_table(rows, methods, against=methods[:1], time="seconds")
    tables = (scores, class_table(rows, methods), term_table(rows, methods))
    return tuple(table.markdown() for table in tables if table is not None)


def shared_identity(recipe: str, extra: Sequence[str], **cell: str) -> dict[str, Any]:
    """What the cells of a grid have in common."""
    cell |= {"recipe": recipe_identity(recipe)}
    return cell | ({"settings": " ".join(extra)} if extra else {})


def unfinished(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    seeds: Sequence[int],
    common: Callable[[int], Sequence[str]],
    *,
    recipe: str,
    extra: Sequence[str],
    cell: Mapping[str, Any],
) -> list[Cell]:
    """The cells that are not among the finished rows, seed by seed."""
    cells = []
    for seed in seeds:
        for method in methods:
            identity = {"method": method, "seed": seed, **cell}
            if not any(is_cell(row, identity) for row in rows):
                words = (*common(seed), "--recipe", recipe, "--seed", str(seed), *method_words(method), *extra)
                cells.append(Cell(identity, words, folder_name(*identity.values())))
    return cells
