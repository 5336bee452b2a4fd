"""CutMix: boxes of half the area, and everything about a pixel from the same source."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protoseg.functional.mixing import cutmix, partner, paste, sample_boxes, sample_sized_boxes
from protoseg.types import PseudoLabel

CPU = torch.device("cpu")
SIZES = [(64, 64), (33, 47), (47, 33), (5, 9), (2, 2), (8, 1), (1, 8)]


def draws(count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_rectangles_of_half_the_area(size: tuple[int, int]) -> None:
    height, width = size
    boxes = sample_boxes(draws(300), size)
    assert boxes.shape == (300, height, width)
    assert boxes.dtype == torch.bool
    for box in boxes:
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns[None])
        for side in (rows, columns):
            inside = side.nonzero().flatten()
            assert len(inside) == 0 or len(inside) == inside[-1] - inside[0] + 1
        box_width = int(columns.sum())
        if box_width:
            assert box_width > width // 2 or width == 1
        # The height is a whole number of rows: the area is off by half a row of the box at most.
        assert abs(int(box.sum()) - height * width / 2) <= max(box_width, width) / 2


def test_box_width_and_place_are_uniform() -> None:
    boxes = sample_boxes(draws(4000), (12, 10))
    width = boxes.any(dim=1).sum(dim=1)
    counts = torch.bincount(width, minlength=11)
    assert counts[:6].sum() == 0
    assert counts[6:].min() > 700  # 800 expected of each of 6 .. 10
    top, left = boxes.any(dim=2).float().argmax(dim=1), boxes.any(dim=1).float().argmax(dim=1)
    six = width == 6  # five places from 0 to 4
    assert torch.bincount(left[six], minlength=5).min() > 0.15 * int(six.sum())
    ten = width == 10  # six rows high: seven places
    assert torch.bincount(top[ten], minlength=7).min() > 0.09 * int(ten.sum())


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("size", SIZES)
def test_extreme_draws_stay_inside(size: tuple[int, int], edge: float) -> None:
    box = sample_boxes(torch.full((1, 3), edge), size)[0]
    assert abs(int(box.sum()) - size[0] * size[1] / 2) <= size[1] / 2


def test_boxes_belong_to_the_image() -> None:
    uniform = draws(6)
    assert torch.equal(sample_boxes(uniform, (20, 30))[3:4], sample_boxes(uniform[3:4], (20, 30)))


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, [0]), (2, [1, 0]), (3, [1, 0, 1]), (4, [1, 0, 3, 2]), (5, [1, 0, 3, 2, 3]), (0, [])]
)
def test_partners(batch: int, expected: list[int]) -> None:
    assert partner(batch, device=CPU).tolist() == expected


def test_partners_of_even_shares_do_not_depend_on_the_number_of_processes() -> None:
    eight, four, two = (partner(batch, device=CPU).tolist() for batch in (8, 4, 2))
    assert eight == four + [4 + i for i in four] == [2 * r + i for r in range(4) for i in two]


def coded(batch: int, size: tuple[int, int]) -> tuple[Tensor, PseudoLabel]:
    """Every value of every map tells its image and its pixel."""
    height, width = size
    code = torch.arange(batch * height * width).view(batch, height, width)
    image = torch.stack([code, code + 0.5], dim=1)
    return image, PseudoLabel(code, code / 1e4, code % 3 > 0)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_everything_of_a_pixel_has_the_same_source(batch: int) -> None:
    image, pseudo = coded(batch, (6, 7))
    box = sample_boxes(draws(batch), (6, 7))
    mixed, result = cutmix(image, pseudo, box)
    other = {1: [0], 2: [1, 0], 3: [1, 0, 1], 4: [1, 0, 3, 2]}[batch]
    for b in range(batch):
        for y in range(6):
            for x in range(7):
                source = other[b] if box[b, y, x] else b
                assert torch.equal(mixed[b, :, y, x], image[source, :, y, x])
                for part, origin in zip(result, pseudo, strict=True):
                    assert part[b, y, x] == origin[source, y, x]
    assert [part.dtype for part in result] == [torch.int64, torch.float32, torch.bool]


def test_no_box_changes_nothing() -> None:
    image, pseudo = coded(4, (6, 7))
    box = torch.zeros(4, 6, 7, dtype=torch.bool)
    mixed, result = cutmix(image, pseudo, box)
    assert torch.equal(mixed, image)
    assert all(torch.equal(a, b) for a, b in zip(result, pseudo, strict=True))


def test_batch_of_one_stays_itself() -> None:
    image, pseudo = coded(1, (6, 7))
    mixed, _ = cutmix(image, pseudo, torch.ones(1, 6, 7, dtype=torch.bool))
    assert torch.equal(mixed, image)


def sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes.any(dim=2).sum(dim=1), boxes.any(dim=1).sum(dim=1)


def test_sized_boxes_have_the_area_and_shape_that_were_drawn() -> None:
    uniform = torch.rand(500, 4, generator=torch.Generator().manual_seed(5))
    height, width = sides(sample_sized_boxes(uniform, (100, 200), area=(0.02, 0.4)))
    for row, h, w in zip(uniform.tolist(), height.tolist(), width.tolist(), strict=True):
        pixels, shape = (0.02 + 0.38 * row[0]) * 100 * 200, 0.3 + row[1] * (1 / 0.3 - 0.3)
        assert h == min(100, round((pixels * shape) ** 0.5))
        assert w == min(200, round((pixels / shape) ** 0.5))


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("area", [(0.0, 0.0), (1.0, 1.0), (0.02, 0.4)])
def test_sized_boxes_stay_inside(size: tuple[int, int], edge: float, area: tuple[float, float]) -> None:
    height, width = sides(sample_sized_boxes(torch.full((1, 4), edge), size, area=area))
    assert height <= size[0]
    assert width <= size[1]
    assert area != (0.0, 0.0) or height * width == 0


def test_sized_boxes_reach_every_place() -> None:
    uniform = torch.rand(4000, 4, generator=torch.Generator().manual_seed(6))
    share = sample_sized_boxes(uniform, (12, 10), area=(0.1, 0.1)).float().mean(dim=0)
    assert share.min() > 0.005
    torch.testing.assert_close(share, share.flip(0, 1), atol=0.03, rtol=0)


@pytest.mark.parametrize("area", [(0.5, 0.2), (-0.1, 0.2), (0.5, 1.1)])
def test_impossible_areas_are_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two shares of the crop"):
        sample_sized_boxes(torch.zeros(1, 4), (8, 8), area=area)


def test_paste_takes_channels_too() -> None:
    values, box = torch.randn(3, 5, 6, 7), torch.rand(3, 6, 7) < 0.5
    pasted = paste(values, box)
    for b, other in enumerate(partner(3, device=CPU).tolist()):
        for y in range(6):
            for x in range(7):
                source = other if box[b, y, x] else b
                assert torch.equal(pasted[b, :, y, x], values[source, :, y, x])
