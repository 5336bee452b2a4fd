"""Which trainings a benchmark consists of, what tells one from another, and in which order they come."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg.config import recipe_files

TERM = "+prototypes"
METHODS = (
    *(name + term for name in ("supervised", "fixmatch", "unimatch_v2") for term in ("", TERM)),
    *("CutMix teacher", "prototype"),
)
"""What is compared where nothing is said, in order of importance: each base method without and with the prototype term."""
NAMED = {
    "labels only": ("--method", "supervised"),
    "CutMix teacher": ("--method", "prototype", "--prototypes.per_class", "0"),
    "prototypes": ("--method", "prototype"),
}
"""Contestants by other names than those of --method: what each adds to the common settings."""
_WITH_TERM = {"prototype": "CutMix teacher", "prototypes": "CutMix teacher"}
_MAY_LACK = ("settings", "size", "list")
"""Keys of an identity that are left out where there is nothing to say, so that a row which has them is another cell."""
_IDENTITY = ("method", "seed", "data", "labels", "list", "recipe", "settings")
"""Keys of the identities that `make_cells` gives, in their order, which a folder's name depends on."""
_LONGEST_NAME = 150  # of a folder; most file systems end at 255 bytes


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        identity: what tells it from all others: method, seed, labels, recipe, settings.
        words: of `protoseg train`, without --out.
        folder: name of its run folder.
    """

    identity: Mapping[str, Any]
    words: tuple[str, ...]
    folder: str

    @property
    def title(self) -> str:
        """For a line of progress."""
        labels = f", labels {self.identity['labels']}" if "labels" in self.identity else ""
        return f"{self.identity['method']}{labels}, seed {self.identity['seed']}"


@dataclass(frozen=True)
class Labels:
    """Which masks the cells of one column of a grid use.

    Attributes:
        name: as it was given, for tables.
        words: of `protoseg train`.
        source: where the choice comes from, in words.
        identity: of the cells.
    """

    name: str
    words: tuple[str, ...]
    source: str
    identity: dict[str, str] = field(default_factory=dict)


def find_labels(text: str, root: Path) -> Labels:
    """What one entry of `bench --labels` means.

    Args:
        text: a number, a fraction, a list file or `all`. A number that names a list in the data set's `splits/` is that list:
            benchmarks publish theirs.
        root: of the data set.

    Raises:
        FileNotFoundError: it is none of these.
    """
    from protoseg.data.splits import is_amount  # brings torch, which --help does without

    if text == "all":
        return Labels(text, (), "all masks", {"labels": text})
    shipped = root / "splits" / f"{text}.txt"
    file = shipped if text.isdigit() and shipped.is_file() else None if is_amount(text) else Path(text)
    if file is None:
        return Labels(text, ("--labels", text), "drawn anew by each seed", {"labels": text})
    if not file.is_file():
        raise FileNotFoundError(f"--labels {text} is no number, no fraction such as 1/8, not `all`, and there is no such list")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    identity = {"labels": file.stem, "list": f"{file.name}@{digest}"}
    return Labels(file.stem, ("--labels", str(file)), f"the list {file}", identity)


def recipe_identity(recipe: str) -> str:
    """A recipe by its name and content, what it extends included: a number of another version of it is another number."""
    content = b"".join(file.read_bytes() for file in recipe_files(recipe))
    return f"{recipe}@{hashlib.sha256(content).hexdigest()[:8]}"


def make_cells(
    data: Path,
    labels: Sequence[Labels],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    recipe: str,
    extra: Sequence[str] = (),
) -> Iterator[Cell]:
    """All cells of a grid, the most important first.

    Every method of one seed before the next seed, and every seed of one label count before the next: so a comparison of all
    methods is complete as early as can be, and each further seed makes it firmer.

    Args:
        data: folder of the data set.
        labels, methods, seeds: of the grid, in order of importance.
        recipe: of all cells.
        extra: further settings of all cells.
    """
    for chosen in labels:
        for seed in seeds:
            for method in methods:
                identity = {"method": method, "seed": seed, "data": data.resolve().name, **chosen.identity}
                identity["recipe"] = recipe_identity(recipe)
                if extra:
                    identity["settings"] = " ".join(extra)
                words = (str(data), "--recipe", recipe, "--no-baseline", *chosen.words, "--seed", str(seed))
                yield Cell(identity, (*words, *method_words(method), *extra), folder_of(identity))


def folder_of(row: Mapping[str, Any]) -> str:
    """The name of a run folder of a grid, from the identity of its cell or its finished row."""
    return _folder_of(row, _IDENTITY, row["method"], row["labels"], f"seed{row['seed']}")


def column_folder(row: Mapping[str, Any]) -> str:
    """The name of a folder for all trainings of a number of labels, from the identity or the finished row of any of them."""
    return _folder_of(row, [key for key in _IDENTITY if key not in ("method", "seed")], "labels", row["labels"])


def _folder_of(row: Mapping[str, Any], keys: Sequence[str], *parts: object) -> str:
    identity = {key: row[key] for key in keys if key in row}
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    return f"{folder_name(*parts)}-{digest}"


def method_words(method: str) -> tuple[str, ...]:
    """The settings that make a contestant."""
    return NAMED.get(method, ("--method", method))


def base_of(method: str) -> str | None:
    """The same method without the prototype term; None where it has none."""
    return method.removesuffix(TERM) if method.endswith(TERM) else _WITH_TERM.get(method)


def folder_name(*parts: object) -> str:
    """A name for a folder from what tells it from others."""
    name = re.sub(r"[^\w.]+", "-", "-".join(str(part) for part in parts))
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_cell(row: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a finished row is of this cell, or of these: everything equal, and no further settings."""
    same = all(row.get(key) == value for key, value in identity.items())
    return same and all(row.get(key) == identity.get(key) for key in _MAY_LACK)
