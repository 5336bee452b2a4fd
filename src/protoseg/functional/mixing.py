"""CutMix for segmentation (Yun et al., ICCV 2019; French et al., BMVC 2020): image and pseudo-label travel together.

B images · I channels · H W crop
"""

from __future__ import annotations

import torch
from torch import Tensor

from protoseg.functional.constants import constant
from protoseg.types import PseudoLabel


def sample_boxes(uniform: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw one rectangle of half the crop's area for each image.

    The paper's boxes: width uniform in (W / 2, W], height = H W / (2 width), position uniform.

    Args:
        uniform: (B, 3) numbers in [0, 1): width, top and left of each box.
        size: (H, W) of the crop in pixels.

    Returns:
        (B, H, W) bool, True inside the box.
    """
    height, width = size
    box_width = width // 2 + 1 + (uniform[:, 0] * (width - width // 2)).long()  # W/2 + 1 .. W
    box_width = box_width.clamp(max=width)
    box_height = (height * width / 2 / box_width).round().long().clamp(max=height)
    return _boxes(uniform[:, 1:], size, box_height, box_width)


def sample_sized_boxes(uniform: Tensor, size: tuple[int, int], *, area: tuple[float, float], aspect: float = 0.3) -> Tensor:
    """Draw one rectangle of random area and shape for each image.

    UniMatch's boxes have `area=(0.02, 0.4)`. Its code draws shape and place until the box fits; here the sides are cut to the
    crop and the place is uniform among those that fit.

    Args:
        uniform: (B, 4) numbers in [0, 1): area, shape, top and left of each box.
        size: (H, W) of the crop in pixels.
        area: range of the share of the crop.
        aspect: height over width lies between this and its inverse.

    Returns:
        (B, H, W) bool, True inside the box.

    Raises:
        ValueError: the range of areas is not within [0, 1].
    """
    if not 0 <= area[0] <= area[1] <= 1:
        raise ValueError(f"area takes two shares of the crop in [0, 1], the smaller first, got {area}")
    height, width = size
    pixels = (area[0] + uniform[:, 0] * (area[1] - area[0])) * height * width
    shape = aspect + uniform[:, 1] * (1 / aspect - aspect)
    box_width = (pixels / shape).sqrt().round().long().clamp(max=width)
    box_height = (pixels * shape).sqrt().round().long().clamp(max=height)
    return _boxes(uniform[:, 2:], (height, width), box_height, box_width)


def _boxes(uniform: Tensor, size: tuple[int, int], box_height: Tensor, box_width: Tensor) -> Tensor:
    """Rectangles (B, H, W) of given sides (B,), their place drawn by uniform (B, 2)."""
    height, width = size
    top = (uniform[:, 0] * (height - box_height + 1)).long()
    left = (uniform[:, 1] * (width - box_width + 1)).long()
    y = torch.arange(height, device=uniform.device)
    x = torch.arange(width, device=uniform.device)
    in_rows = (y >= top[:, None]) & (y < (top + box_height)[:, None])  # (B, H)
    in_columns = (x >= left[:, None]) & (x < (left + box_width)[:, None])  # (B, W)
    return in_rows[:, :, None] & in_columns[:, None, :]


@constant
def partner(batch: int, *, device: torch.device) -> Tensor:
    """The image each one is mixed with: neighbours swap (0 and 1, 2 and 3, ...), the last of an odd batch borrows.

    As long as every process has an even share of the global batch, pairs do not depend on how many processes there are. A
    batch of one has only itself.

    Returns:
        (batch,) int64.
    """
    image = torch.arange(batch, device=device)  # made on the device: an index from the host would be waited for
    neighbour = image ^ 1
    return torch.where(neighbour < batch, neighbour, (image - 1).clamp(min=0))


def paste(values: Tensor, box: Tensor) -> Tensor:
    """Show each image's partner inside its box.

    Args:
        values: (B, H, W) or (B, N, H, W) of any type.
        box: (B, H, W) bool, True where the partner shows. All False leaves an image as it is.

    Returns:
        As `values`.
    """
    other = values[partner(len(values), device=values.device)]
    return torch.where(box if values.ndim == 3 else box[:, None], other, values)


def mix_labels(pseudo: PseudoLabel, box: Tensor) -> PseudoLabel:
    """Show the partner's pseudo-label inside the box: label, confidence and validity come from the same source."""
    return PseudoLabel(*(paste(part, box) for part in pseudo))


def cutmix(image: Tensor, pseudo: PseudoLabel, box: Tensor) -> tuple[Tensor, PseudoLabel]:
    """Paste each image's partner into its box, and the partner's pseudo-label with it.

    Args:
        image: (B, I, H, W).
        pseudo: pseudo-labels of the same images.
        box: (B, H, W) bool, True where the partner shows.

    Returns:
        The mixed image and its pseudo-label, in which label, confidence and validity come from the same source as the pixel.
    """
    return paste(image, box), mix_labels(pseudo, box)
