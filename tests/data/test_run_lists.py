"""split.json of a run folder: given back as it was written, named where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_folder import make_folder

from protoseg.data.formats import open_dataset
from protoseg.data.run_lists import RunLists, as_stored, read_limit, read_run_lists
from protoseg.data.splits import make_partition


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Any]:
    partition = make_partition(open_dataset(make_folder(tmp_path / "set", train=5, labeled=2, test=1)))
    return as_stored(partition)


def write(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "split.json").write_text(content)
    return folder


def test_there_and_back(stored: dict[str, Any], tmp_path: Path) -> None:
    run = write(tmp_path / "run", json.dumps(stored))
    lists = read_run_lists(run)
    assert lists == RunLists(stored["hash"], ["img_00", "img_01"], 3, stored["evaluation"], "test")
    assert len(lists.evaluation) == 1


def test_one_of_an_earlier_version(stored: dict[str, Any], tmp_path: Path) -> None:
    del stored["unlabeled_hash"], stored["max_pixels"]
    assert read_run_lists(write(tmp_path / "run", json.dumps(stored))).hash == stored["hash"]
    assert read_limit(tmp_path / "run") is None


def test_the_limit_is_given_back_or_named(stored: dict[str, Any], tmp_path: Path) -> None:
    assert read_limit(write(tmp_path / "run", json.dumps(stored))) == 100_000_000
    for damage in ("many", 0, 1.5, True):
        run = write(tmp_path / "run", json.dumps(stored | {"max_pixels": damage}))
        with pytest.raises(ValueError, match=r"split.json is damaged .'max_pixels' is no such thing."):
            read_limit(run)


@pytest.mark.parametrize("name", RunLists._fields)
@pytest.mark.parametrize("damage", ["missing", None, {"img_00": 1}, [["img_00"]], 1.5, True])
def test_a_damaged_entry_is_named(stored: dict[str, Any], tmp_path: Path, name: str, damage: Any) -> None:
    stored[name] = damage
    if damage == "missing":
        del stored[name]
    run = write(tmp_path / "run", json.dumps(stored))
    with pytest.raises(ValueError, match=f"split.json is damaged .'{name}' is (missing|no such thing).; put a whole copy in"):
        read_run_lists(run)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", "\x00", "[" * 100_000],
    ids=["empty", "cut", "list", "number", "null", "zero", "deep"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match=r"split.json is damaged .* start a new run"):
        read_run_lists(write(tmp_path / "run", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"split.json is missing, .*; give a whole run folder, or start a new run"):
        read_run_lists(tmp_path)
