"""Streams of crops: the same for any number of workers, whatever is broken among the unlabelled files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_folder import cut_short, make_folder, write_image, write_index

from protoseg.data.formats import open_dataset
from protoseg.data.index import Sample, table_from_values
from protoseg.data.io import UnreadableImageError
from protoseg.data.loader import Geometry, LabeledCrops, UnlabeledCrops, make_loader
from protoseg.data.masks import MaskFile
from protoseg.data.sampler import Draw, StreamSampler
from protoseg.data.splits import make_partition


def unlabeled(root: Path, *, broken: tuple[int, ...] = ()) -> UnlabeledCrops:
    make_folder(root, train=8, labeled=2, size=(24, 30))
    for i in broken:
        cut_short(root / f"images/img_{i:02d}.png")
    return UnlabeledCrops(make_partition(open_dataset(root)).unlabeled, Geometry(16))


def batches(
    crops: UnlabeledCrops, count: int, *, workers: int = 0, first_batch: int = 0, seed: int = 0
) -> list[dict[str, Any]]:
    sampler = StreamSampler(len(crops.samples), 4, seed=seed, stream="unlabeled", first_batch=first_batch)
    return list(islice(make_loader(crops, sampler, workers=workers), count))


def assert_equal(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["valid"], b["valid"])
        assert a["seed"] == b["seed"]
        assert a["skipped"] == b["skipped"]


def test_a_batch(tmp_path: Path) -> None:
    batch = batches(unlabeled(tmp_path), 1)[0]
    assert batch["image"].shape == (4, 3, 16, 16)
    assert batch["image"].dtype == torch.uint8
    assert batch["valid"].shape == (4, 16, 16)
    assert batch["valid"].dtype == torch.bool
    assert batch["skipped"] == [[], [], [], []]
    assert len(set(batch["seed"])) == 4


def test_workers_change_nothing_and_skipped_files_are_counted(tmp_path: Path) -> None:
    crops = unlabeled(tmp_path, broken=(3, 6))
    alone = batches(crops, 6)
    assert_equal(alone, batches(crops, 6, workers=2))
    skipped = {name for batch in alone for names in batch["skipped"] for name in names}
    assert skipped == {str(tmp_path / "images/img_03.png"), str(tmp_path / "images/img_06.png")}


def test_the_replacement_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    crops = unlabeled(tmp_path, broken=(3, 4, 5, 6))
    whole = batches(crops, 8)
    assert_equal(whole[5:], batches(crops, 3, first_batch=5))
    assert any(len(names) > 1 for batch in whole for names in batch["skipped"])  # the replacement was broken as well
    other = batches(crops, 8, seed=1)
    assert [b["skipped"] for b in other] != [b["skipped"] for b in whole]


def test_the_replacement_is_not_always_the_same_image(tmp_path: Path) -> None:
    crops = unlabeled(tmp_path, broken=(2,))  # the first of the list
    views = {crops[Draw(0, seed)]["image"].numpy().tobytes() for seed in range(5)}
    assert len(views) == 5
    assert crops[Draw(0, 3)]["skipped"] == [str(tmp_path / "images/img_02.png")]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_files_stops_and_names_one(tmp_path: Path, workers: int) -> None:
    crops = unlabeled(tmp_path, broken=tuple(range(2, 8)))
    with pytest.raises(UnreadableImageError) as caught:
        batches(crops, 1, workers=workers)
    message = str(caught.value)
    assert str(tmp_path / "images/img_") in message
    assert "Traceback" not in message  # one sentence, from a worker too


def test_a_mask_that_cannot_be_read_is_no_matter_here(tmp_path: Path) -> None:
    make_folder(tmp_path, train=3, labeled=None)
    samples = open_dataset(tmp_path).of("train")
    for sample in samples:
        assert sample.mask is not None
        Path(str(sample.mask)).write_text("no image")
    assert batches(UnlabeledCrops(samples, Geometry(16)), 2)[1]["skipped"] == [[]] * 4


def test_labeled_masks_become_class_ids(tmp_path: Path) -> None:
    mask = np.full((20, 20), 7, dtype=np.uint8)
    mask[:, 10:] = 40
    mask[15:] = 255
    image = np.repeat(mask[:, :, None], 3, axis=2)
    sample = Sample("x", write_image(tmp_path / "x.png", image), MaskFile(write_index(tmp_path / "m.png", mask)), "train")
    crops = LabeledCrops(
        [sample], table_from_values([3, 7, 40]), Geometry(24, scale=(1.0, 1.0), flip=False, fill=(1 / 255, 2 / 255, 3 / 255))
    )
    view = crops[Draw(0, 99)]
    assert view["seed"] == 99
    assert view["mask"][:15, :10].unique().tolist() == [1]
    assert view["mask"][:15, 10:20].unique().tolist() == [2]
    assert view["mask"][15:].unique().tolist() == [255]
    assert view["mask"][:, 20:].unique().tolist() == [255]
    assert view["image"][:, 23, 23].tolist() == [1, 2, 3]
    assert (view["image"][:, :15, :10] == 7).all()


def test_labeled_and_unlabeled_geometry_belong_to_the_seed(tmp_path: Path) -> None:
    make_folder(tmp_path, train=2, labeled=2)
    samples = open_dataset(tmp_path).of("train")
    labeled = LabeledCrops(samples, table_from_values([0, 1, 2]), Geometry(24))
    crops = UnlabeledCrops(samples, Geometry(24))
    assert torch.equal(labeled[Draw(1, 5)]["image"], crops[Draw(1, 5)]["image"])
    assert not torch.equal(crops[Draw(1, 5)]["image"], crops[Draw(1, 6)]["image"])
