"""What stays of a training when its run folder goes: its report, and what was taken for what in each scored image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protoseg.bench.cells import folder_of
from protoseg.engine.tally import TALLY, Tally
from protoseg.files import make_folder, replacing
from protoseg.report.compare import Interval, gain_interval
from protoseg.report.page import REPORT

TRAININGS = "trainings"
"""Folder beside the results of a benchmark: a folder for each training."""


def keep_remains(trainings: Path, name: str, run: Path) -> None:
    """Keep a training's report and tally.

    Args:
        trainings: folder for all.
        name: of its run folder, see `folder_of`.
        run: that folder.

    Raises:
        OSError: one of them cannot be read.
        CannotWriteError: see `replacing`.
    """
    contents = {file: (run / file).read_bytes() for file in (REPORT, TALLY)}
    make_folder(trainings / name)
    for file, content in contents.items():
        with replacing(trainings / name / file) as partial:
            partial.write_bytes(content)


def report_of(trainings: Path, row: Mapping[str, Any]) -> Path | None:
    """The report of a finished row's training; None where it was not kept, as by earlier versions."""
    file = trainings / folder_of(row) / REPORT
    return file if file.is_file() else None


def images_interval(trainings: Path, row: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[Interval, int] | None:
    """How sure the difference of two trainings is as far as the choice of images goes: a 95 % interval, and of how many images.

    None where a tally was not kept, as by earlier versions, or they were not scored on the same images.

    Args:
        trainings: folder of `keep_remains`.
        row, base: finished rows.

    Raises:
        ValueError: a file is damaged.
    """
    files = [trainings / folder_of(one) / TALLY for one in (row, base)]
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
