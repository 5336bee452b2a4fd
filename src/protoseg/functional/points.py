"""A few random pixels of each image, and what a feature map says at them, without ever up-sampling the map.

B images · D feature channels · H W image · h w feature map · G grid cells per side · P = G * G points
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.constants import constant
from protoseg.types import IGNORE_INDEX


def grid_shape(size: tuple[int, int], grid: int) -> tuple[int, int]:
    """Cells per side for an image of `size`: `grid`, or fewer where the image has fewer pixels."""
    return min(grid, size[0]), min(grid, size[1])


def sample_points(uniform: Tensor, size: tuple[int, int], *, grid: int = 32, per_cell: int = 1) -> Tensor:
    """Pick one pixel, or several, uniformly in each cell of a grid that covers the whole image.

    The paper's sub-sampling (its cells leave out the last rows and columns; these do not). Cells are disjoint, so with one
    of each all points of an image differ; further ones of a cell are drawn without regard to the first.

    Args:
        uniform: (B, per_cell * grid * grid, 2) numbers in [0, 1). Images smaller than the grid use the first of them.
        size: (H, W) in pixels.
        grid: cells per side.
        per_cell: points of each cell.

    Returns:
        (B, P, 2) int64 pixel positions (y, x): one of each cell, row by row, then the next of each; P = per_cell * grid *
        grid, less where H or W is below `grid`.
    """
    cells = _cells(size, grid, uniform.device)
    count = len(cells.first)
    drawn = uniform[:, : per_cell * count].reshape(len(uniform), per_cell, count, 2)
    offset = (drawn * cells.extent).long()
    return torch.minimum(cells.first + offset, cells.last).flatten(1, 2)  # float rounding may reach the next cell


class _Cells(NamedTuple):
    first: Tensor  # (P, 2) int64, first pixel of each cell
    last: Tensor  # (P, 2) int64
    extent: Tensor  # (P, 2) int64, pixels in each direction


@constant
def _cells(size: tuple[int, int], grid: int, device: torch.device) -> _Cells:
    rows, columns = grid_shape(size, grid)
    # Sizes stay Python numbers: a tensor made of them would be a copy to the device, which the host waits for.
    y = torch.arange(rows + 1, device=device) * size[0] // rows
    x = torch.arange(columns + 1, device=device) * size[1] // columns
    first, behind = torch.cartesian_prod(y[:-1], x[:-1]), torch.cartesian_prod(y[1:], x[1:])
    return _Cells(first, behind - 1, behind - first)


def read_features(features: Tensor, points: Tensor, covers: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Read a feature map at image pixels, bilinearly: equal to up-sampling the map to `covers` and indexing it.

    Args:
        features: (B, D, h, w).
        points: (B, P, 2) int pixel positions (y, x) in the input that the map covers.
        covers: (H, W) of that input in pixels, padding included.
        align_corners: as in the up-sampling this stands for.

    Returns:
        (B, P, D) float32.
    """
    return read_at(features, unit_positions(points, covers, align_corners=align_corners), align_corners=align_corners)


def unit_positions(points: Tensor, covers: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Where pixels lie in a map, as `F.grid_sample` wants it; for maps that are read with `read_at`.

    Args:
        points, covers, align_corners: as for `read_features`.

    Returns:
        (B, P, 2) float32 (x, y), -1 and 1 being the corner pixels' centres, or their edges.
    """
    position = points.flip(-1) if align_corners else points.flip(-1) + 0.5
    return position / _half_extent(covers, points.device, align_corners=align_corners) - 1


@constant
def _half_extent(covers: tuple[int, int], device: torch.device, *, align_corners: bool) -> Tensor:
    """(2,) float32 (half the width, half the height), to divide by."""
    sides = [max(side - 1, 1) if align_corners else side for side in reversed(covers)]
    return torch.stack([torch.full((), side / 2, dtype=torch.float32, device=device) for side in sides])


def read_at(features: Tensor, position: Tensor, *, align_corners: bool) -> Tensor:
    """As `read_features`, at the `unit_positions` of the pixels."""
    read = F.grid_sample(
        features.float(), position[:, None], mode="bilinear", padding_mode="border", align_corners=align_corners
    )
    return read.squeeze(2).transpose(1, 2)  # (B, D, 1, P) -> (B, P, D)


def read_pixels(map: Tensor, points: Tensor) -> Tensor:
    """Read a per-pixel map (labels, weights, logits) at integer positions.

    Args:
        map: (B, H, W) or (B, C, H, W), any dtype.
        points: (B, P, 2) int64 (y, x).

    Returns:
        (B, P) or (B, P, C), dtype of `map`.
    """
    return read_places(map, places(points, map.shape[-1]))


def places(points: Tensor, width: int) -> Tensor:
    """Where the pixels (B, P, 2) lie in a map of that width, row after row: (B, P) int64, for several maps of one size."""
    return torch.add(points[..., 1], points[..., 0], alpha=width)


def read_places(map: Tensor, index: Tensor) -> Tensor:
    """As `read_pixels`, at the `places` of the pixels."""
    if map.ndim == 3:
        return map.flatten(1).gather(1, index)
    return map.flatten(2).gather(2, index[:, None].expand(-1, map.shape[1], -1)).transpose(1, 2)


def near_boundary(label: Tensor, points: Tensor, *, distance: int) -> Tensor:
    """Whether a pixel lies near the boundary of two classes: one of the eight pixels that are so far away has another label.

    Args:
        label: (B, H, W) int64. Ignored pixels are no class of their own, and near no boundary.
        points: (B, P, 2) int64 (y, x).
        distance: to the eight, in pixels; those outside the image are replaced by the nearest one inside.

    Returns:
        (B, P) bool.
    """
    height, width = label.shape[-2:]
    own = read_pixels(label, points)
    near = torch.zeros_like(own, dtype=torch.bool)
    for dy, dx in product((-distance, 0, distance), repeat=2):
        y, x = (points[..., 0] + dy).clamp(0, height - 1), (points[..., 1] + dx).clamp(0, width - 1)
        other = read_places(label, y * width + x)
        near |= (other != own) & (other != IGNORE_INDEX)
    return near & (own != IGNORE_INDEX)
