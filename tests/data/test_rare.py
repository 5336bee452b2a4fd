"""Labelled crops around rare classes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from make_folder import write_image, write_index

from protoseg.data.index import Sample, table_from_values
from protoseg.data.loader import Geometry, LabeledCrops
from protoseg.data.masks import MaskFile
from protoseg.data.rare import TEMPERATURE, RareCrops, pixel_of
from protoseg.data.sampler import Draw

HELD = [{0: 900, 1: 95}, {0: 1000}, {0: 980, 2: 20}, {2: 5, 0: 995}]


def test_classes_are_drawn_by_their_rareness() -> None:
    rare = RareCrops(HELD, 4, probability=0.75)
    shares = [3875 / 3995, 95 / 3995, 25 / 3995]
    expected = [math.exp((1 - share) / TEMPERATURE) for share in shares]
    assert rare.chance.tolist() == pytest.approx([*(e / sum(expected) for e in expected), 0])  # the last one is absent
    found = Counter(rare.replace(Draw(1, seed))[1] for seed in range(4000))
    assert found[None] / 4000 == pytest.approx(0.25, abs=0.03)
    for c in (1, 2):
        assert found[c] / 3000 == pytest.approx(expected[c] / sum(expected), abs=0.04)


def test_images_hold_the_class_that_was_drawn() -> None:
    rare = RareCrops(HELD, 4, probability=1.0)
    draws = [rare.replace(Draw(1, seed)) for seed in range(300)]
    assert {image for image, c in draws if c == 1} == {0}
    assert {image for image, c in draws if c == 2} == {2, 3}
    assert draws == [rare.replace(Draw(1, seed)) for seed in range(300)]  # of the seed alone


def test_no_draw_is_replaced_by_chance_zero() -> None:
    rare = RareCrops(HELD, 4, probability=0.0)
    assert [rare.replace(Draw(i % 4, i)) for i in range(50)] == [(i % 4, None) for i in range(50)]


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="probability"):
        RareCrops(HELD, 3, probability=1.5)
    with pytest.raises(ValueError, match="no pixel is labelled"):
        RareCrops([{}], 3, probability=0.5)


def test_every_pixel_of_the_class_may_be_chosen() -> None:
    label = torch.zeros(5, 7, dtype=torch.uint8)
    label[1, 2] = label[4, 6] = 3
    assert {pixel_of(label, 3, seed=seed) for seed in range(40)} == {(1, 2), (4, 6)}
    assert pixel_of(label, 2, seed=0) is None


@pytest.mark.parametrize("spot", [(0, 0), (59, 79), (30, 5), (17, 60)])
def test_the_crop_contains_the_class(tmp_path: Path, spot: tuple[int, int]) -> None:
    mask = torch.zeros(60, 80, dtype=torch.uint8)
    mask[spot] = 1
    image = torch.full((60, 80, 3), 90, dtype=torch.uint8)
    files = write_image(tmp_path / "i.png", image.numpy()), MaskFile(write_index(tmp_path / "m.png", mask.numpy()))
    other = write_image(tmp_path / "o.png", image.numpy()), MaskFile(write_index(tmp_path / "n.png", 0 * mask.numpy()))
    samples = [Sample("other", *other, "train"), Sample("spot", *files, "train")]
    classes, geometry = table_from_values([0, 1]), Geometry(16, scale=(1.0, 1.0))
    plain = LabeledCrops(samples, classes, geometry)
    rare = LabeledCrops(samples, classes, geometry, rare=RareCrops([{0: 4800}, {0: 4799, 1: 1}], 2, probability=1.0))
    places = set()
    for seed in range(30):
        crop = rare[Draw(0, seed)]["mask"]
        assert (crop == 1).sum() == 1
        places.add(tuple((crop == 1).nonzero()[0].tolist()))
        assert (plain[Draw(0, seed)]["mask"] == 0).all()
    if spot == (30, 5):
        assert len(places) > 15  # anywhere in the crop, not always in its middle
