"""What was taken for what in each scored image, of every training: with one seed, how sure a difference is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protoseg.bench.cells import folder_of
from protoseg.engine.tally import TALLY, Tally
from protoseg.files import make_folder, replacing
from protoseg.report.compare import Interval, gain_interval

TALLIES = "tallies"
"""Folder beside the results of a benchmark: a file for each training."""


def keep_tally(tallies: Path, name: str, run: Path) -> None:
    """Keep a training's tally before its run folder goes.

    Args:
        tallies: folder for all.
        name: of its run folder, see `folder_of`.
        run: that folder.

    Raises:
        OSError: it cannot be read.
        CannotWriteError: see `replacing`.
    """
    content = (run / TALLY).read_bytes()
    make_folder(tallies)
    with replacing(tallies / f"{name}.npz") as partial:
        partial.write_bytes(content)


def images_interval(tallies: Path, row: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[Interval, int] | None:
    """How sure the difference of two trainings is as far as the choice of images goes: a 95 % interval, and of how many images.

    None where a tally was not kept, as by earlier versions, or they were not scored on the same images.

    Args:
        tallies: folder of `keep_tally`.
        row, base: finished rows.

    Raises:
        ValueError: a file is damaged.
    """
    files = [tallies / f"{folder_of(one)}.npz" for one in (row, base)]
    if not all(file.is_file() for file in files):
        return None
    ours, theirs = (_load(file) for file in files)
    interval = gain_interval(ours, theirs)
    return None if interval is None else (interval, len(ours.names))


def _load(file: Path) -> Tally:
    try:
        return Tally.load(file)
    except ValueError as error:
        # Not what to do about that of a run folder: this is a copy, and the run may be gone.
        raise ValueError(f"{file} is damaged; delete it, and its training is no longer compared over its images") from error
