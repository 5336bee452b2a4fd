"""split.json of a run folder: which image stood where, and how large one might be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from protoseg.data.limit import most_pixels
from protoseg.data.splits import Partition

SPLIT = "split.json"
_LIMIT = "max_pixels"


class RunLists(NamedTuple):
    """Which images of a data set a run had for what, by their names."""

    hash: str  # of the partition
    labeled: list[str]
    unlabeled: int  # how many: they are the rest
    evaluation: list[str]
    evaluation_name: str


def as_stored(partition: Partition) -> dict[str, Any]:
    """The content of the file. Unlabelled images are the rest, and many: it holds their number and a hash of their names."""
    named = {"labeled": partition.labeled, "evaluation": partition.evaluation}
    return {
        "hash": partition.hash,
        "evaluation_name": partition.evaluation_name,
        "unlabeled": len(partition.unlabeled),
        "unlabeled_hash": partition.unlabeled_hash,
        _LIMIT: most_pixels(),  # here, because it says which of the images could be drawn
        **{name: [sample.name for sample in samples] for name, samples in named.items()},
    }


def read_run_lists(folder: Path) -> RunLists:
    """Read the file of a run folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not what protoseg writes.
    """
    path = folder / SPLIT
    stored = _read(path)
    whole = {
        "hash": isinstance(stored.get("hash"), str),
        "labeled": _are_names(stored.get("labeled")),
        "unlabeled": type(stored.get("unlabeled")) is int,
        "evaluation": _are_names(stored.get("evaluation")),
        "evaluation_name": isinstance(stored.get("evaluation_name"), str),
    }
    if not all(whole.values()):
        name = next(name for name in whole if not whole[name])
        raise _damaged(path, f"{name!r} is {'no such thing' if name in stored else 'missing'}")
    return RunLists(**{name: stored[name] for name in whole})


def read_limit(folder: Path) -> int | None:
    """Pixels of the largest image that a run reads; None where an earlier version, which did not write it down, started it.

    Raises:
        FileNotFoundError, ValueError: see `read_run_lists`.
    """
    path = folder / SPLIT
    limit = _read(path).get(_LIMIT)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise _damaged(path, f"{_LIMIT!r} is no such thing")
    return limit


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, which says what image stood where; give a whole run folder, or start a new run"
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(stored, dict):
        raise _damaged(path, "it holds no lists by name")
    return stored


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged ({why}); put a whole copy in its place, or start a new run")
