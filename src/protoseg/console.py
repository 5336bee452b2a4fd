"""Where a command prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_WRONG = ("warning:", "error:", "failed:")
_RESULTS = ("report:", "atlas:", "predictions:", "list:", "findings:", "mIoU:", "protoseg app:")
"""How lines begin that somebody needs who does not watch: what went wrong; and the result, or where it is."""


def make_console(*, quiet: bool = False) -> Console:
    """Class names and paths are printed as they are: brackets are no markup, and no line is broken inside a path.

    Args:
        quiet: print what went wrong and the result or where it is, nothing else.
    """
    return _Quiet() if quiet else Console(markup=False, soft_wrap=True)


def plain(table: Table, console: Console) -> Table:
    """A table without lines where it goes into a pipe or a log: what reads it there wants words and numbers."""
    if not console.is_terminal:
        table.box = None
    return table


class _Quiet(Console):
    def __init__(self) -> None:
        super().__init__(markup=False, soft_wrap=True, force_terminal=False)  # no progress bars

    def print(self, *objects: Any, **options: Any) -> None:
        if objects and str(objects[0]).startswith(_WRONG + _RESULTS):
            super().print(*objects, **options)
