"""Run cells, each in a process of its own: what breaks one of them does not end the others."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

from protoseg.bench import store
from protoseg.bench.cells import Cell, is_cell

Environment = Mapping[str, str]
_INTERRUPTED = 130  # what protoseg train ends with after Ctrl-C
_TAIL = 15  # lines of a failed run's output that are shown


class Failed(NamedTuple):
    """A cell without a result, and why."""

    cell: Cell
    reason: str


def slots(jobs: int, *, cuda: bool) -> list[Environment]:
    """What the environment of each of the processes that run at a time differs in: `jobs` for each GPU, each seeing its own.

    Args:
        jobs: processes for each device.
        cuda: whether cells train on GPUs, one each.
    """
    devices = _gpus() if cuda else []
    places: list[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": device} for _ in range(jobs) for device in devices]
    if not devices:
        places = [{} for _ in range(jobs)]
    if len(places) > 1 and "OMP_NUM_THREADS" not in os.environ:  # else each would take all cores
        share = str(max(1, (os.cpu_count() or 1) // len(places)))
        for place in places:
            place["OMP_NUM_THREADS"] = share
    return list[Environment](places)


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def run_cells(
    cells: Sequence[Cell],
    results: Path,
    *,
    say: Callable[[str], None],
    runs: Path | None = None,
    keep: bool = True,
    hide: Mapping[str, str] | None = None,
    places: Sequence[Environment] = ({},),
    look: Callable[[Cell, Path], object] = lambda cell, folder: None,
    after: Callable[[], object] = lambda: None,
    ended: Callable[[], object] = lambda: None,
) -> list[Failed]:
    """Run all cells that are not in the results yet, in order, as many at a time as there are places.

    Args:
        cells: the most important first.
        results: JSON lines file of finished cells.
        say: prints a line.
        runs: where run folders stay, and are gone on with; a temporary folder when left out.
        keep: leave the folder of a finished run there.
        hide: see `store.row_of`.
        places: of `slots`.
        look: called with each cell that has just trained and its run folder, before its row is written; one at a time.
        after: called after each finished cell.
        ended: called after each cell, whether it had to be run, and whatever came of it.

    Returns:
        The cells that failed.
    """
    free: queue.SimpleQueue[Environment] = queue.SimpleQueue()
    for place in places:
        free.put(place)
    writing, looking = threading.Lock(), threading.Lock()

    def work(number: int, cell: Cell) -> Failed | None:
        place = free.get()
        try:
            with writing:
                rows = store.read(results)
            if any(is_cell(row, cell.identity) for row in rows):  # another benchmark may have run it meanwhile
                return None
            name = f"[{number}/{len(cells)}] {cell.title}"
            with tempfile.TemporaryDirectory() as scratch:
                folder = (runs or Path(scratch)) / cell.folder
                log = folder.with_name(f"{folder.name}.log")
                say(f"{name}: started, its output goes to {log}")
                try:
                    train(cell.words, folder, log, place)
                    row = store.row_of(cell.identity, cell.words, folder, hide=hide or {})
                except (ValueError, OSError, KeyError) as error:
                    say(f"{name}: FAILED, {error}\n{_tail(log)}")
                    return Failed(cell, str(error))
                with looking:  # and the row behind it: the next one that is looked at finds this one finished
                    try:
                        look(cell, folder)
                    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # its number stands, the others go on
                        say(f"{name}: the page will lack something of it, {error}")
                    with writing:
                        store.append(results, row)
                say(f"{name}: mIoU {100 * row['miou']:.1f} after {row['seconds']:.0f} s of training")
                if runs is not None and not keep:
                    rmtree(folder)
                    log.unlink()
            with writing:
                after()
            return None
        finally:
            free.put(place)
            ended()

    with ThreadPoolExecutor(max_workers=len(places)) as pool:
        futures = [pool.submit(work, number, cell) for number, cell in enumerate(cells, 1)]
        try:
            failed = [failure for future in as_completed(futures) if (failure := future.result()) is not None]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C reaches the running cells by itself; no further one starts
            raise
    return sorted(failed, key=lambda failure: cells.index(failure.cell))


def train(words: Sequence[str], folder: Path, log: Path, environment: Environment) -> None:
    """`protoseg train` in a process of its own, or going on with a run folder.

    Args:
        words: of `protoseg train`, the folder of the data set first.
        folder: of the run.
        log: gets what it prints.
        environment: what its own differs in.

    Raises:
        ValueError: it ended with an error.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # The data set may lie elsewhere now: benchmarks/demo.py writes its images anew each time.
    resume = [*words[:1], "--resume", str(folder)]
    given = resume if (folder / "config.yaml").is_file() else [*words, "--out", str(folder)]
    with log.open("a") as output:
        command = [sys.executable, "-m", "protoseg.cli", "train", *given]
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        ran = subprocess.run(command, env={**os.environ, **environment}, check=False, **streams)  # type: ignore[call-overload]
    if ran.returncode == _INTERRUPTED:
        raise ValueError("stopped by Ctrl-C; the next call goes on with it")
    if ran.returncode:
        raise ValueError(f"protoseg train ended with status {ran.returncode}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL:] if log.is_file() else []
    return "\n".join(f"    {line}" for line in lines)
