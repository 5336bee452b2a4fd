"""A few random pixels of each image, and what a feature map says at them, without ever up-sampling the map.

B images · D feature channels · H W image · h w feature map · G grid cells per side · P = G * G points
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_shape(size: tuple[int, int], grid: int) -> tuple[int, int]:
    """Cells per side for an image of `size`: `grid`, or fewer where the image has fewer pixels."""
    return min(grid, size[0]), min(grid, size[1])


def sample_points(uniform: Tensor, size: tuple[int, int], *, grid: int = 32) -> Tensor:
    """Pick one pixel, uniformly, in each cell of a grid that covers the whole image.

    The paper's sub-sampling (its cells leave out the last rows and columns; these do not). Cells are disjoint, so all
    points of an image differ.

    Args:
        uniform: (B, grid * grid, 2) numbers in [0, 1). Images smaller than the grid use the first of them.
        size: (H, W) in pixels.
        grid: cells per side.

    Returns:
        (B, P, 2) int64 pixel positions (y, x), row by row; P = grid * grid, less where H or W is below `grid`.
    """
    rows, columns = grid_shape(size, grid)
    device = uniform.device
    cell = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))  # (P, 2)
    cells = torch.tensor([rows, columns], device=device)
    extent = torch.tensor(size, device=device)
    low = cell * extent // cells  # (P, 2) first pixel of the cell
    high = (cell + 1) * extent // cells  # one past its last pixel
    offset = (uniform[:, : len(cell)] * (high - low)).long()
    return torch.minimum(low + offset, high - 1)  # float rounding may reach `high`


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
    extent = torch.tensor(covers, device=points.device)
    if align_corners:
        unit = 2 * points / (extent - 1).clamp(min=1) - 1  # (B, P, 2) in [-1, 1], corner pixels at the ends
    else:
        unit = (2 * points + 1) / extent - 1  # pixel centres
    where = unit.flip(-1)[:, None].float()  # (B, 1, P, 2) as (x, y), which is what grid_sample wants
    read = F.grid_sample(features.float(), where, mode="bilinear", padding_mode="border", align_corners=align_corners)
    return read[:, :, 0].transpose(1, 2)  # (B, D, 1, P) -> (B, P, D)


def read_pixels(map: Tensor, points: Tensor) -> Tensor:
    """Read a per-pixel map (labels, weights) at integer positions.

    Args:
        map: (B, H, W), any dtype.
        points: (B, P, 2) int64 (y, x).

    Returns:
        (B, P), dtype of `map`.
    """
    index = points[..., 0] * map.shape[-1] + points[..., 1]
    return map.flatten(1).gather(1, index)
