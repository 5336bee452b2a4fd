"""One pixel per cell; a feature map read at pixels equals up-sampling and indexing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from protoseg.functional.points import grid_shape, near_boundary, read_features, read_pixels, sample_points
from protoseg.types import IGNORE_INDEX


def draw(batch: int, count: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(seed))


def cells(length: int, count: int) -> list[range]:
    """Split [0, length) into `count` runs whose ends are at i * length / count, rounded down."""
    return [range(i * length // count, (i + 1) * length // count) for i in range(count)]


@pytest.mark.parametrize("grid", [1, 4, 32])
@pytest.mark.parametrize("size", [(513, 513), (64, 96), (33, 47), (32, 32), (5, 40), (40, 5), (3, 2), (1, 1)])
def test_one_pixel_in_each_cell(size: tuple[int, int], grid: int) -> None:
    points = sample_points(draw(3, grid * grid), size, grid=grid)
    rows, columns = cells(size[0], min(grid, size[0])), cells(size[1], min(grid, size[1]))
    assert grid_shape(size, grid) == (len(rows), len(columns))
    assert points.shape == (3, len(rows) * len(columns), 2)
    assert points.dtype == torch.int64
    for image in points.tolist():
        boxes = [(row, column) for row in rows for column in columns]
        assert all(y in row and x in column for (y, x), (row, column) in zip(image, boxes, strict=True))
        assert len({(y, x) for y, x in image}) == len(image)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (5, 40), (1, 1)])
def test_several_pixels_in_each_cell(size: tuple[int, int]) -> None:
    """Each round is a draw of its own, from numbers of its own."""
    grid, times = 4, 3
    uniform = draw(2, times * grid * grid)
    points = sample_points(uniform, size, grid=grid, per_cell=times)
    cells = len(points[0]) // times
    assert cells == math.prod(grid_shape(size, grid))
    for i in range(times):
        own = sample_points(uniform[:, i * cells : (i + 1) * cells], size, grid=grid)
        assert torch.equal(points[:, i * cells : (i + 1) * cells], own)


@pytest.mark.parametrize("distance", [1, 3])
def test_pixels_near_another_class(distance: int) -> None:
    """Against a loop over the eight pixels so far away."""
    gen = torch.Generator().manual_seed(4)
    label = torch.randint(0, 2, (2, 5, 4), generator=gen).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)  # (2, 20, 16)
    label[:, 9:12, 4:9] = IGNORE_INDEX
    points = torch.cartesian_prod(torch.arange(20), torch.arange(16)).expand(2, -1, -1)
    found = near_boundary(label, points, distance=distance).view(2, 20, 16)
    for b in range(2):
        for y in range(20):
            for x in range(16):
                others = set()
                for dy in (-distance, 0, distance):
                    for dx in (-distance, 0, distance):
                        others.add(int(label[b, min(max(y + dy, 0), 19), min(max(x + dx, 0), 15)]))
                own = int(label[b, y, x])
                assert bool(found[b, y, x]) == (own != IGNORE_INDEX and bool(others - {own, IGNORE_INDEX}))
    assert 0 < int(found.sum()) < found.numel() / 1.2


def test_every_pixel_of_a_cell_is_equally_likely() -> None:
    size = (7, 5)  # cells of 3 or 4 rows and 2 or 3 columns
    points = sample_points(draw(6000, 4), size, grid=2)
    counts = torch.zeros(size).index_put_((points[..., 0], points[..., 1]), torch.tensor(1.0), accumulate=True)
    for row in cells(7, 2):
        for column in cells(5, 2):
            expected = 6000 / (len(row) * len(column))
            found = counts[row.start : row.stop, column.start : column.stop]
            assert (found - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("size", [(513, 769), (40, 97), (20, 50)])
def test_the_whole_extent_is_reached(size: tuple[int, int]) -> None:
    points = sample_points(draw(400, 32 * 32), size, grid=32)
    assert points.amin(dim=(0, 1)).tolist() == [0, 0]
    assert points.amax(dim=(0, 1)).tolist() == [size[0] - 1, size[1] - 1]


def test_largest_draw_stays_in_its_cell() -> None:
    points = sample_points(torch.full((1, 9, 2), 1 - 2**-24), (513, 100), grid=3)
    assert sorted({y for y, _ in points[0].tolist()}) == [170, 341, 512]
    assert sorted({x for _, x in points[0].tolist()}) == [32, 65, 99]


def test_images_are_independent() -> None:
    uniform = draw(5, 16)
    points = sample_points(uniform, (50, 60), grid=4)
    assert torch.equal(points[2:3], sample_points(uniform[2:3], (50, 60), grid=4))
    assert not torch.equal(points[2], points[3])


READS = [  # (feature map, pixels it covers)
    ((129, 129), (513, 513)),
    ((65, 97), (513, 769)),
    ((7, 11), (37, 53)),
    ((11, 7), (44, 28)),
    ((20, 24), (80, 96)),
    ((16, 16), (16, 16)),
    ((12, 12), (5, 7)),
    ((1, 3), (4, 9)),
    ((2, 2), (1, 9)),
]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("shape", "covers"), READS)
def test_reading_equals_upsampling_then_indexing(shape: tuple[int, int], covers: tuple[int, int], align_corners: bool) -> None:
    features = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(5)).requires_grad_()
    points = sample_points(draw(2, 1024), covers)
    corners = torch.tensor([[0, 0], [0, covers[1] - 1], [covers[0] - 1, 0], [covers[0] - 1, covers[1] - 1]])
    points = torch.cat([points, corners.expand(2, -1, -1)], dim=1)
    read = read_features(features, points, covers, align_corners=align_corners)

    dense = F.interpolate(features, covers, mode="bilinear", align_corners=align_corners)
    expected = torch.stack([dense[b, :, points[b, :, 0], points[b, :, 1]].T for b in range(2)])
    # Without aligned corners F.interpolate itself is up to 3e-5 off its own float64 result at 513 px.
    torch.testing.assert_close(read, expected, atol=1e-5 if align_corners else 1e-4, rtol=0)

    direction = torch.randn(read.shape, generator=torch.Generator().manual_seed(6))
    fast = torch.autograd.grad((read * direction).sum(), features)[0]
    slow = torch.autograd.grad((expected * direction).sum(), features)[0]
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_half_precision_features_are_read_in_float32() -> None:
    features = torch.randn(1, 3, 9, 9).bfloat16()
    points = sample_points(draw(1, 16), (33, 33), grid=4)
    read = read_features(features, points, (33, 33), align_corners=True)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, read_features(features.float(), points, (33, 33), align_corners=True), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_read_pixels(dtype: torch.dtype) -> None:
    maps = (torch.rand(2, 6, 9) * 3).to(dtype)
    points = sample_points(draw(2, 16), (6, 9), grid=4)
    read = read_pixels(maps, points)
    assert read.dtype == dtype
    assert read.tolist() == [[maps[b, y, x].item() for y, x in points[b].tolist()] for b in range(2)]


def test_read_pixels_of_several_channels() -> None:
    maps, points = torch.rand(2, 5, 6, 9), sample_points(draw(2, 16), (6, 9), grid=4)
    expected = torch.stack([read_pixels(channel, points) for channel in maps.unbind(1)], dim=-1)
    assert torch.equal(read_pixels(maps, points), expected)


def test_the_map_is_never_up_sampled() -> None:
    """No tensor on the way is even a twentieth of the up-sampled map."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))])
            return result

    features, points = torch.randn(2, 64, 16, 16), sample_points(torch.rand(2, 1024, 2), (256, 256))
    with Watch():
        read_features(features, points, (256, 256), align_corners=True)
    assert 2 * 64 * 1024 <= largest < 2 * 64 * 256 * 256 / 20
