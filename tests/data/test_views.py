"""One geometry for image, mask and validity. The test image is a ramp: its colours tell where a pixel came from."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from protoseg.data.views import CropView, crop_view

FILL = torch.tensor([200, 201, 202], dtype=torch.uint8)


def ramp(height: int = 90, width: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """An image with red = 2 x and green = 2 y, and masks that hold x and y."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([2 * x, 2 * y, torch.zeros_like(x)]).to(torch.uint8)
    return image, x.to(torch.uint8), y.to(torch.uint8)


def crop(image: Tensor, mask: Tensor | None, seed: int, **options) -> CropView:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    return crop_view(image, mask, **{"size": 32, "fill": FILL, "generator": generator, **options})


@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
@pytest.mark.parametrize("shape", [(90, 100), (20, 100), (90, 20), (11, 13)], ids=str)
def test_mask_and_image_stay_aligned(shape: tuple[int, int], axis: int) -> None:
    image, *masks = ramp(*shape)
    for seed in range(60):
        view = crop(image, masks[axis], seed)
        shift = (view.image[axis].float() / 2 - view.mask.float())[view.valid]
        assert shift.abs().max() <= 1  # nearest against bilinear, at most half a pixel of the source each
        assert abs(float(shift.mean())) <= 0.5
        assert (view.mask[~view.valid] == 255).all()
        assert (view.mask[view.valid] != 255).all()
        assert (view.image[:, ~view.valid] == FILL[:, None]).all()


def test_scale_one_is_a_plain_crop() -> None:
    image, x, _ = ramp()
    for seed in range(20):
        view = crop(image, x, seed, scale=(1.0, 1.0), flip=False)
        left, top = int(view.image[0, 0, 0]) // 2, int(view.image[1, 0, 0]) // 2
        assert torch.equal(view.image, image[:, top : top + 32, left : left + 32])
        assert torch.equal(view.mask, x[top : top + 32, left : left + 32])
        assert view.valid.all()


def test_equals_resize_then_crop() -> None:
    image, x, _ = ramp()
    whole = V.resize(image, [180, 200], antialias=True)
    for seed in range(20):
        view = crop(image, x, seed, scale=(2.0, 2.0), flip=False)  # a window of 16 x 16, twice as large
        top, left = int(view.image[1, 0, 0]), int(view.image[0, 0, 0])  # red = 2 x is the place in the doubled image
        expected = whole[:, top : top + 32, left : left + 32]
        inside = (slice(None), slice(1, -1), slice(1, -1))  # at its edge the window has no neighbours
        assert (view.image[inside].int() - expected[inside].int()).abs().max() <= 1
        assert torch.equal(view.mask, x.repeat_interleave(2, 0).repeat_interleave(2, 1)[top : top + 32, left : left + 32])


def test_shrinking_averages() -> None:
    """A fine checkerboard becomes grey; without anti-aliasing its squares would turn into noise."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    board = (255 * ((x + y) % 2)).to(torch.uint8).expand(3, -1, -1)
    view = crop(board, None, 0, scale=(1 / 3, 1 / 3))
    assert (view.image.float() - 127.5).abs().max() < 50


@pytest.mark.parametrize(("scale", "rows", "columns"), [(1.0, 20, 32), (0.5, 10, 25), (1.5, 30, 32), (2.0, 32, 32)])
def test_small_images_are_padded_at_the_bottom_and_right(scale: float, rows: int, columns: int) -> None:
    image, x, _ = ramp(20, 50)
    view = crop(image, x, 0, scale=(scale, scale), flip=False)
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[:rows, :columns] = True
    assert torch.equal(view.valid, expected)
    assert torch.equal(view.mask == 255, ~expected)


def test_padding_may_be_called_class_0() -> None:
    image, x, _ = ramp(20, 50)
    plain = crop(image, x, 0, scale=(1.0, 1.0))
    view = crop(image, x, 0, scale=(1.0, 1.0), label_padding=True)
    assert view.valid.all()
    assert torch.equal(view.mask, torch.where(plain.valid, plain.mask, 0))
    assert torch.equal(view.image, plain.image)


def test_padding_is_flipped_with_the_image() -> None:
    image, x, _ = ramp(20, 20)
    seen = set()
    for seed in range(20):
        view = crop(image, x, seed, scale=(1.0, 1.0))
        flipped = not view.valid[0, 0]
        seen.add(flipped)
        row = x[0].flip(0) if flipped else x[0]
        assert torch.equal(view.mask[0][view.valid[0]], row)
        assert torch.equal(view.image[0, 0][view.valid[0]], 2 * row)
    assert seen == {True, False}


def test_flip_is_a_fair_coin_and_can_be_switched_off() -> None:
    image, x, _ = ramp()
    flipped = [bool(crop(image, x, seed).mask[0, 0] > crop(image, x, seed).mask[0, -1]) for seed in range(300)]
    assert 100 < sum(flipped) < 200
    assert not any(
        crop(image, x, seed, flip=False).mask[0, 0] > crop(image, x, seed, flip=False).mask[0, -1] for seed in range(50)
    )


def test_scale_stays_in_its_range_and_is_as_often_below_one_as_above() -> None:
    image, x, _ = ramp(100, 100)
    factors = []
    for seed in range(400):
        row = crop(image, x, seed, size=24, flip=False).image[0, 0].float() / 2
        factors.append(23 / float(row[-1] - row[0]))
    assert min(factors) > 0.5 * 0.9
    assert max(factors) < 2.0 * 1.1
    assert min(factors) < 0.6
    assert max(factors) > 1.8
    assert 150 < sum(factor < 1 for factor in factors) < 250


def test_windows_are_drawn_evenly_up_to_the_edges() -> None:
    image, x, _ = ramp(20, 20)
    draws = 2000
    places = Counter()
    for seed in range(draws):
        view = crop(image, x, seed, size=16, scale=(1.0, 1.0), flip=False)
        places[int(view.image[1, 0, 0]) // 2, int(view.image[0, 0, 0]) // 2] += 1
    assert set(places) == {(y, x) for y in range(5) for x in range(5)}
    expected = draws / 25
    assert sum((count - expected) ** 2 / expected for count in places.values()) < 52  # chi-squared, 24 degrees: p = 0.001


def test_a_seed_is_a_crop() -> None:
    image, x, _ = ramp()
    first = crop(image, x, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, crop(image, x, 5), strict=True))
    assert not torch.equal(first.image, crop(image, x, 6).image)
    unlabeled = crop(image, None, 5)
    assert torch.equal(unlabeled.image, first.image)
    assert torch.equal(unlabeled.valid, first.valid)
    assert unlabeled.mask.numel() == 0


def test_nothing_is_written_into_the_source() -> None:
    image, x, _ = ramp(20, 20)
    before = image.clone(), x.clone()
    view = crop(image, x, 0)
    view.image.fill_(9)
    view.mask.fill_(9)
    assert torch.equal(image, before[0])
    assert torch.equal(x, before[1])
