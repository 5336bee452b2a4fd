"""How often a file is opened: every image and every mask once, and where it is more often, why."""

from __future__ import annotations

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from make_folder import TINY, TINY_MODEL, make_folder, write_index
from make_formats import WRITERS, make_pictures
from PIL import Image

from protoseg.arguments import parse_train
from protoseg.cli import main
from protoseg.data.io import IMAGE_SUFFIXES
from protoseg.data.masks import read_mask
from protoseg.run import load_data

Opened = Counter[Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images with and without masks, some of them palettes or TIFF, and evaluation images."""
    root = make_folder(tmp_path / "data", train=8, labeled=4, test=3, val=2, classes=("ground", "square", "disc"))
    for name in ("img_01", "test/test_01"):
        write_index(root / f"masks/{name}.png", read_mask(root / f"masks/{name}.png").astype(np.uint8), palette=True)
    old = root / "masks/img_02.png"
    Image.fromarray(read_mask(old).astype(np.uint8)).save(old.with_suffix(".tif"))
    old.unlink()
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Path -> how often it has been opened, by whatever library."""
    count, really = Opened(), io.open

    def counting(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike):
            count[Path(file)] += 1
        return really(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)
    return count


def times(opened: Opened, root: Path, of: str = "") -> dict[str, int]:
    """Path below the data set, without suffix -> how often the picture was opened."""
    pictures = [path for path in (root / of).rglob("*") if path.suffix in IMAGE_SUFFIXES]
    return {path.relative_to(root).with_suffix("").as_posix(): opened[path] for path in pictures}


def examine(root: Path, *words: str) -> None:
    assert main(["doctor", str(root), *TINY_MODEL, "--crop", "32", "--out", str(root.parent / "doctor.json"), *words]) == 0


class TestDoctor:
    def test_every_file_once(self, data: Path, opened: Opened) -> None:
        examine(data)
        assert set(times(opened, data).values()) == {1}

    def test_a_drawn_holdout_opens_masks_once_more(self, data: Path, opened: Opened) -> None:
        """Which masks are kept back depends on what is in them, and is known before anything is examined."""
        examine(data, "--holdout", "1/4")
        assert set(times(opened, data, "masks").values()) == {1, 2}
        assert {name for name, number in times(opened, data).items() if number == 2} == {f"masks/img_0{i}" for i in range(4)}

    @pytest.mark.parametrize("kind", ["photograph as TIFF", "16-bit RGB as PNG"])
    def test_two_kinds_of_images_take_two_libraries(self, data: Path, opened: Opened, kind: str) -> None:
        """The first says what is in the file, and finds that the second reads it without loss."""
        path = data / "images/img_07.png"
        image = np.asarray(Image.open(path))
        if kind == "photograph as TIFF":
            path.unlink()
            tifffile.imwrite(path.with_suffix(".tif"), image, photometric="rgb")
        else:
            path.write_bytes(imagecodecs.png_encode(image.astype(np.uint16) * 257))
        opened.clear()
        examine(data)
        assert {name for name, number in times(opened, data).items() if number != 1} == {"images/img_07"}
        assert times(opened, data)["images/img_07"] == 2

    def test_a_painted_mask_looks_at_the_size_of_its_image_first(self, tmp_path: Path, opened: Opened) -> None:
        """Of the header alone: a mask is made in the size that the annotation file claims, however large that is."""
        WRITERS["labelme"][1](tmp_path / "data", make_pictures())
        opened.clear()
        examine(tmp_path / "data")
        labeled = {f"{p.split}/images/{p.stem}": 1 if p.label is None else 2 for p in make_pictures()}
        assert times(opened, tmp_path / "data") == labeled

    def test_learning_by_heart_opens_its_one_image_again(
        self, data: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It goes through the training's own stream of crops, which is what it tests."""
        monkeypatch.setattr("protoseg.doctor.overfit_losses", lambda *_: [1.0, 0.05])
        examine(data, "--overfit")
        again = [name for name, number in times(opened, data).items() if number != 1]
        assert len(again) == 2
        assert {Path(name).stem for name in again} == {Path(again[0]).stem}


class TestTrain:
    def test_before_the_first_step_every_labelled_file_once(self, data: Path, opened: Opened) -> None:
        """And no other: masks that are not used are nobody's business."""
        load_data(parse_train([str(data), *TINY, "--labels", "3"]))
        assert Counter(times(opened, data).values()) == {1: 2 * (3 + 3), 0: 8 - 3 + 2 + 4 - 3 + 2}

    def test_evaluation_files_are_checked_scored_and_shown(self, data: Path, opened: Opened, tmp_path: Path) -> None:
        """First of all, so that a fault in them does not come to light after days of training. Shown twice: on the sheet, and
        the best and worst of them in the report."""
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0
        scored = {f"{kind}/test/test_0{i}": 4 for kind in ("images", "masks") for i in range(3)}
        assert times(opened, data, "images/test") | times(opened, data, "masks/test") == scored
        assert set(times(opened, data, "masks/val").values()) == {0}


def test_evaluate_opens_masks_once_more(data: Path, opened: Opened, tmp_path: Path) -> None:
    """Palettes in the wrong order come to light before scoring, which takes long. The best and worst images are shown."""
    assert main(["train", str(data), *TINY, "--method", "supervised", "--out", str(tmp_path / "run")]) == 0
    opened.clear()
    assert main(["evaluate", str(tmp_path / "run"), str(data)]) == 0
    assert times(opened, data, "images/test") == {f"images/test/test_0{i}": 2 for i in range(3)}
    assert times(opened, data, "masks/test") == {f"masks/test/test_0{i}": 3 for i in range(3)}


@pytest.mark.parametrize("reader", [lambda path: path.read_bytes(), Image.open, tifffile.TiffFile])
def test_every_way_to_open_a_file_is_counted(tmp_path: Path, opened: Opened, reader: Callable[[Path], object]) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((4, 4), dtype=np.uint8))
    opened.clear()
    reader(path)
    assert opened[path] == 1
