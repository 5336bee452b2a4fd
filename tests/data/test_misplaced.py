"""What a data set was probably meant to be. The messages as a whole are cases of tests/test_bad_input.py."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from make_folder import make_folder, write_image

from protoseg.data.formats import open_dataset
from protoseg.data.misplaced import meant_by


@pytest.mark.parametrize(
    ("mask", "images", "image"),
    [
        ("a_mask", ["a", "b"], "a"),
        ("mask_a", ["a", "b"], "a"),
        ("a.jpg", ["a"], "a"),
        ("img_10_mask", ["img_1", "img_10", "img_100"], "img_10"),
        ("img_1", ["img_10_rgb", "img_1_rgb"], "img_1_rgb"),
        ("a", ["x/a", "y/b"], "x/a"),
        ("masks/a", ["a_mask", "y/a"], "y/a"),
        ("c", ["a", "b"], None),
        ("c", [], None),
    ],
)
def test_the_image_that_a_mask_is_meant_for(mask: str, images: list[str], image: str | None) -> None:
    assert meant_by(mask, images) == image


def test_a_folder_around_a_zip_file(tmp_path: Path) -> None:
    (tmp_path / "task.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=rf"if {tmp_path}/task\.zip is the data set, give it itself"):
        open_dataset(tmp_path)


def test_two_archives_that_were_unpacked_into_a_folder_each(tmp_path: Path) -> None:
    first, second = "leftImg8bit_trainvaltest/leftImg8bit", "gtFine_trainvaltest/gtFine"
    for folder in (first, second):
        write_image(tmp_path / folder / "train/bonn/a.png", np.zeros((9, 9, 3), dtype=np.uint8))
    expected = f"{tmp_path} holds {tmp_path}/{first} and {tmp_path}/{second}; move both into one folder, and give that"
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        open_dataset(tmp_path)


@pytest.mark.parametrize(("image", "mask"), [("a.jpg", "a.png"), ("a.png", "a_mask.png"), ("a b.JPG", "a b-Labels.PNG")])
def test_masks_beside_their_images(tmp_path: Path, image: str, mask: str) -> None:
    for i, name in enumerate(("0.jpg", image, mask)):
        write_image(tmp_path / "images" / name, np.full((9, 9, 3), i, dtype=np.uint8))
    expected = (
        f"if {tmp_path}/images/{mask} is the mask of {image}, move all such to {tmp_path}/masks, each under its image's name"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        open_dataset(tmp_path)


def test_images_of_equal_names_in_several_kinds_are_no_masks(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.jpeg", "b_c.jpg", "b.jpg"):
        write_image(tmp_path / "images" / name, np.zeros((9, 9, 3), dtype=np.uint8))
    with pytest.raises(FileNotFoundError, match=r"has no masks/ folder; put masks of a few images there"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_part_of_a_data_set(tmp_path: Path, part: str) -> None:
    make_folder(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=rf"data/{part} is no data set, but {tmp_path / 'data'} looks like one"):
        open_dataset(tmp_path / "data" / part)


def test_what_only_lies_beside_a_data_set_is_not_a_part_of_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    write_image(tmp_path / "data/more/a.png", open_dataset(tmp_path / "data").samples[0].mask.read())  # type: ignore[union-attr]
    with pytest.raises(FileNotFoundError, match=r"more has no images/ folder; put the images there"):
        open_dataset(tmp_path / "data/more")


def test_folders_without_pictures_and_evaluation_parts_are_not_proposed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    (root / "masks").rename(root / "gt")
    (root / "notes").mkdir()
    (root / "images").rename(root / "test")
    with pytest.raises(FileNotFoundError, match=r"has no images/ folder; if gt/ holds the images, rename it"):
        open_dataset(root)


def test_masks_beside_their_images_as_roboflow_writes_them(tmp_path: Path) -> None:
    for i, name in enumerate(("a.jpg", "a_mask.png", "b.jpg", "b_mask.png")):
        write_image(tmp_path / "train" / name, np.full((9, 9, 3), i, dtype=np.uint8))
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n")
    expected = (
        f"if {tmp_path}/train/a_mask.png is the mask of a.jpg (as Roboflow has them), move the images to {tmp_path}/images "
        f"and the masks to {tmp_path}/masks, each under its image's name, or export COCO Segmentation instead"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        open_dataset(tmp_path)
