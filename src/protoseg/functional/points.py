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
    # Sizes stay Python numbers: a tensor made of them would be a copy to the device, which the host waits for.
    y = torch.arange(rows + 1, device=device) * size[0] // rows
    x = torch.arange(columns + 1, device=device) * size[1] // columns
    low = torch.cartesian_prod(y[:-1], x[:-1])  # (P, 2) first pixel of each cell
    high = torch.cartesian_prod(y[1:], x[1:])  # one past its last pixel
    offset = (uniform[:, : len(low)] * (high - low)).long()
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
    y, x = (_unit(points[..., axis], covers[axis], align_corners=align_corners) for axis in (0, 1))
    where = torch.stack([x, y], dim=-1)[:, None].float()  # (B, 1, P, 2), in the order that grid_sample wants
    read = F.grid_sample(features.float(), where, mode="bilinear", padding_mode="border", align_corners=align_corners)
    return read[:, :, 0].transpose(1, 2)  # (B, D, 1, P) -> (B, P, D)


def _unit(position: Tensor, extent: int, *, align_corners: bool) -> Tensor:
    """Pixel positions along an axis of `extent` pixels to [-1, 1]: the ends are the corner pixels' centres, or their edges."""
    return 2 * position / max(extent - 1, 1) - 1 if align_corners else (2 * position + 1) / extent - 1


def read_pixels(map: Tensor, points: Tensor) -> Tensor:
    """Read a per-pixel map (labels, weights, logits) at integer positions.

    Args:
        map: (B, H, W) or (B, C, H, W), any dtype.
        points: (B, P, 2) int64 (y, x).

    Returns:
        (B, P) or (B, P, C), dtype of `map`.
    """
    index = points[..., 0] * map.shape[-1] + points[..., 1]
    if map.ndim == 3:
        return map.flatten(1).gather(1, index)
    return map.flatten(2).gather(2, index[:, None].expand(-1, map.shape[1], -1)).transpose(1, 2)
