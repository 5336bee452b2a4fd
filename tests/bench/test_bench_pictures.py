"""Pictures of a benchmark: of the same images, of one seed, and none of an earlier grid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_folder import TINY, make_folder
from PIL import Image

from protoseg.bench.cells import column_folder
from protoseg.bench.pictures import keep_pictures, read_pictures
from protoseg.cli import main

ROW = {"method": "supervised", "seed": 0, "data": "data", "labels": "3", "recipe": "prototype@1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, with its data set beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    data = make_folder(folder / "data", train=6, labeled=3, test=3)
    assert main(["train", str(data), *TINY, "--no-baseline", "--out", str(folder / "run")]) == 0
    return folder / "run"


def keep(run: Path, out: Path, *, is_first: bool = False, **own: Any) -> None:
    keep_pictures(out, ROW | own, run, run.parent / "data", is_first=is_first)


def shown_in(out: Path, **own: Any) -> tuple[str, int, tuple[str, ...]] | None:
    shown = read_pictures(out, ROW | own)
    return None if shown is None else (shown.method, shown.seed, shown.methods)


def test_the_first_chooses_and_others_of_its_seed_add(run: Path, tmp_path: Path) -> None:
    assert shown_in(tmp_path) is None
    keep(run, tmp_path, is_first=True)
    keep(run, tmp_path, method="fixmatch")
    keep(run, tmp_path, method="prototype", seed=1)
    assert shown_in(tmp_path) == ("supervised", 0, ("supervised", "fixmatch"))
    shown = read_pictures(tmp_path, ROW)
    assert shown is not None
    for example in shown.examples:  # the same model twice
        ours, again = example["layers"][1:]
        assert ours["score"] == again["score"]
        assert np.array_equal(*(np.asarray(Image.open(shown.folder / layer["picture"])) for layer in (ours, again)))
    assert {example["name"] for example in shown.examples} <= set(json.loads((run / "split.json").read_text())["evaluation"])


def test_a_training_that_runs_again_takes_its_own_place(run: Path, tmp_path: Path) -> None:
    keep(run, tmp_path, is_first=True)
    keep(run, tmp_path, method="fixmatch")
    shown = read_pictures(tmp_path, ROW)
    assert shown is not None
    stale = shown.folder / shown.examples[0]["layers"][1]["picture"]
    before = stale.read_bytes()
    stale.write_bytes(b"of an earlier training")
    keep(run, tmp_path)
    assert shown_in(tmp_path) == ("supervised", 0, ("supervised", "fixmatch"))
    assert stale.read_bytes() == before


def test_a_new_grid_in_the_same_folder_starts_anew(run: Path, tmp_path: Path) -> None:
    keep(run, tmp_path, is_first=True)
    keep(run, tmp_path, method="fixmatch")
    keep(run, tmp_path, method="prototype", seed=1, is_first=True)
    assert shown_in(tmp_path) == ("prototype", 1, ("prototype",))


def test_each_number_of_labels_has_its_own(run: Path, tmp_path: Path) -> None:
    keep(run, tmp_path, is_first=True)
    assert shown_in(tmp_path, labels="4") is None
    keep(run, tmp_path, labels="4", method="fixmatch", is_first=True)
    assert shown_in(tmp_path, labels="4") == ("fixmatch", 0, ("fixmatch",))
    assert shown_in(tmp_path) == ("supervised", 0, ("supervised",))


def test_an_image_that_is_gone_is_named(run: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "other", train=6, labeled=3, test=1)
    with pytest.raises(ValueError, match=r"evaluation images .* are not in .*other"):
        keep_pictures(tmp_path / "pictures", ROW, run, data)


@pytest.mark.parametrize("name", ["shown.json", "examples.json"])
@pytest.mark.parametrize(
    "damage", ["[", "{}", "[[]]", "[" * 100_000, '{"method": "a", "seed": 0, "classes": ["a"], "colors": []}']
)
def test_damaged_pictures_are_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / column_folder(ROW)
    folder.mkdir()
    (folder / "shown.json").write_text('{"method": "a", "seed": 0, "classes": ["a"], "colors": [[0, 0, 0]]}')
    (folder / "examples.json").write_text("[]")
    assert shown_in(tmp_path) == ("a", 0, ())
    (folder / name).write_text(damage)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(folder / name))} is damaged .*; remove {re.escape(str(folder))}, and"
    ):
        read_pictures(tmp_path, ROW)
