"""`protoseg bench`: from the words of the command line to cells, tables, a plot and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from protoseg.arguments import DRY_RUN, parse_train
from protoseg.bench import plot, store, tables
from protoseg.bench.cells import Cell, Labels, column_folder, find_labels, is_cell, make_cells, method_words, recipe_identity
from protoseg.bench.page import Column, write_page
from protoseg.bench.pictures import PICTURES, keep_pictures
from protoseg.bench.remains import TRAININGS, keep_remains
from protoseg.bench.running import run_cells, slots
from protoseg.config import build_partition
from protoseg.report.page import REPORT
from protoseg.settings import TrainConfig
from protoseg.words import counted

RESULTS, TABLE, PLOT, RUNS = "results.jsonl", "table.md", "plot.png", "runs"
_REFERENCES = ("supervised", "labels only", "fixmatch")
_TAKEN = {
    "--seed": "--seeds",
    "--method": "--methods",
    "--out": "--out, which is the folder of the whole benchmark",
    "--resume": "the same command again, which goes on by itself",
    "--baseline": "supervised among --methods",
    DRY_RUN: "protoseg train --dry-run",
}
"""Settings of one training that a grid fills in itself -> what to give instead."""


def bench(
    data: Path,
    *,
    labels: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    recipe: str,
    extra: Sequence[str],
    out: Path,
    jobs: int = 1,
    keep_runs: bool = False,
    only_table: bool = False,
    console: Console,
    command: str | None = None,
) -> int:
    """Run a grid of trainings, or what is missing of it, and write tables, plot and report.

    Args:
        data: folder of the data set.
        labels: numbers, fractions or list files; see `find_labels`.
        methods, seeds: of the grid, in order of importance.
        recipe: of all cells.
        extra: further settings of all cells.
        out: folder for everything that it leaves.
        jobs: processes for each device.
        keep_runs: leave the run folders of finished cells.
        only_table: run nothing.
        console: for everything that is printed: a bar and tables on a terminal, plain lines and Markdown elsewhere.
        command: that started it, for its report; None where it was no command.

    Returns:
        How many cells failed.

    Raises:
        ValueError, FileNotFoundError: one sentence on what is wrong, before anything runs.
    """
    say = console.print
    for name, instead in _TAKEN.items():
        if any(word.split("=")[0].replace("_", "-") in {name, f"--no-{name[2:]}"} for word in extra):
            raise ValueError(f"protoseg bench sets {name} of each training; give {instead}")
    found = [find_labels(text, data) for text in labels]
    config, layout = _checked(data, found, methods, recipe=recipe, extra=extra)
    say(f"{data} is read as {layout}")
    for chosen in found:
        say(f"labels {chosen.name}: {chosen.source}")
    cells = list(make_cells(data, found, methods, seeds, recipe=recipe, extra=extra))
    results = out / RESULTS
    identity = {"data": data.resolve().name, "recipe": recipe_identity(recipe)}
    identity |= {"settings": " ".join(extra)} if extra else {}

    def write_tables() -> list[Column]:
        own = (row for row in store.read(results) if row["method"] in methods)
        rows = [row for row in own if any(is_cell(row, identity | chosen.identity) for chosen in found)]
        columns = columns_of(rows, found)
        if rows:
            (out / TABLE).write_text(report(columns, methods), encoding="utf-8")
            plot.write(out / PLOT, rows, methods)
            write_page(
                out / REPORT,
                columns,
                methods,
                against=_against(methods),
                name=data.resolve().name,
                layout=layout,
                command=command,
                pictures=out / PICTURES,
                trainings=out / TRAININGS,
                legend=_LEGEND,
            )
        return columns

    def keep(cell: Cell, run: Path) -> None:
        """What the page shows of a training beside its row."""
        finished = {column_folder(row) for row in store.read(results)}
        is_first = column_folder(cell.identity) not in finished
        keep_remains(out / TRAININGS, cell.folder, run)
        keep_pictures(out / PICTURES, cell.identity, run, data, format=config.format, is_first=is_first)

    failed = []
    if not only_table:
        out.mkdir(parents=True, exist_ok=True)
        devices = config.trainer.get("devices", 1)
        say(f"{counted(len(cells), 'cell')}; results in {results}, tables in {out / TABLE}, plot in {out / PLOT}")
        with _bar(len(cells), console) as ended:
            failed = run_cells(
                cells,
                results,
                say=say,
                runs=out / RUNS,
                keep=keep_runs,
                # A training on several devices divides them itself.
                places=slots(jobs, cuda=_on_gpus(config)) if devices in (1, "1") else [{}] * jobs,
                look=keep,
                after=write_tables,
                ended=ended,
            )
    columns = write_tables()
    if columns:
        _print_tables(columns, methods, console)
        say(f"report: {out / REPORT}")
    else:
        say(f"there is no finished cell of this grid in {results}")
    for cell, reason in failed:
        say(f"failed: {cell.title}: {reason}; its output is {out / RUNS / cell.folder}.log")
    if failed:
        say(f"{len(failed)} of {counted(len(cells), 'cell')} failed; the same command runs them again")
    return len(failed)


def _checked(
    data: Path, found: Sequence[Labels], methods: Sequence[str], *, recipe: str, extra: Sequence[str]
) -> tuple[TrainConfig, str]:
    """The settings of the first cell, after those of every method have been looked through: a grid takes hours. And the layout
    that the data is read as."""
    if not found or not methods or len(set(methods)) < len(methods):
        raise ValueError("give each of --labels and --methods at least once, and no method twice")

    def settings(chosen: Labels, method: str) -> TrainConfig:
        words = [str(data), *chosen.words, "--recipe", recipe, "--no-baseline", *method_words(method), *extra]
        return parse_train(words)

    config, *_ = [settings(found[0], method) for method in methods]
    # More labels than masks stop here, not once in every cell.
    index, *_ = [build_partition(settings(chosen, methods[0]))[0] for chosen in found]
    scored = any(sample.split != "train" and sample.mask is not None for sample in index.whole)
    if not config.evaluate or not (scored or config.holdout):
        raise ValueError(f"there is nothing to compare by: {data} has no test or val images; keep some with --holdout 1/5")
    return config, index.format


def _on_gpus(config: TrainConfig) -> bool:
    from protoseg.stage import uses_cuda

    return uses_cuda(config)


def columns_of(rows: Sequence[dict[str, Any]], labels: Sequence[Labels]) -> list[Column]:
    """The finished cells of each label count, without those that have none."""
    columns = []
    for chosen in labels:
        own = [row for row in rows if is_cell(row, chosen.identity | {k: row[k] for k in ("settings",) if k in row})]
        if own:
            counts = " or ".join(sorted({str(row["labeled"]) for row in own}, key=int))
            columns.append(Column(f"labels {chosen.name}: {counts} labelled images", chosen.source, own))
    return columns


def _against(methods: Sequence[str]) -> list[str]:
    return [name for name in _REFERENCES if name in methods] or [methods[0]]


def report(columns: Sequence[Column], methods: Sequence[str]) -> str:
    """All tables of a grid, label count by label count; empty where there is no finished cell."""
    parts = []
    for title, source, own in columns:
        parts.append(f"## {title}, {source}")
        parts += [f"**{text}**" for text in tables.warnings(own)]
        parts += [table.markdown() for table in _tables(own, methods)]
    return "\n\n".join([*parts, _LEGEND]) + "\n" if parts else ""


def _print_tables(columns: Sequence[Column], methods: Sequence[str], console: Console) -> None:
    if not console.is_terminal:
        console.print(report(columns, methods))
        return
    for title, source, own in columns:
        console.print(Text(f"\n{title}, {source}", style="bold"))
        for text in tables.warnings(own):
            console.print(f"warning: {text}")
        for table in _tables(own, methods):
            console.print(table.rich(), soft_wrap=False)
    console.print(_LEGEND)


def _tables(rows: Sequence[tables.Row], methods: Sequence[str]) -> list[tables.Table]:
    found = (
        tables.score_table(rows, methods, against=_against(methods)),
        tables.term_table(rows, methods),
        tables.class_table(rows, methods),
    )
    return [table for table in found if table is not None]


@contextmanager
def _bar(total: int, console: Console) -> Iterator[Callable[[], object]]:
    """How many cells have ended, on a terminal; gives what to call for each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("cells", total=total)
        yield lambda: bar.advance(task)


_LEGEND = """\
mIoU in per cent over all scored images, each counted once, of the last step; mean ± standard deviation over seeds. Differences
are points of mIoU, paired by seed, with a 95 % t-interval over seeds: one that holds zero shows nothing. Speed and memory are
medians over seeds: images a second of training, labelled and unlabelled together, in the second half of the run; memory as
PyTorch hands it out on a GPU, of the whole process on a CPU."""
