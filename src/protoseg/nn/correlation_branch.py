"""The correlation branch of CorrMatch (Sun et al., CVPR 2024, arXiv 2306.04300): a prediction by likeness.

B images · C classes · D feature channels · h w feature map · N positions of the map · H W image
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.functional.correlation import correlation_map, nearest_cell, propagate
from protoseg.types import SegOutput


class Correlated(NamedTuple):
    """What `CorrelationBranch` returns."""

    logits: Tensor  # (B, C, H, W): the network's own, propagated along the map
    map: Tensor  # (B, N, N): row i is what position i gives to each
    cell: Tensor  # (H, W) int64 in [0, N): the position that a pixel belongs to


class CorrelationBranch(nn.Module):
    """Compare all positions of a feature map with each other by two 1x1 projections, and let the logits travel between them.

    Args:
        feature_channels: D.
        num_classes: C, which is also what the projections have as channels.
        side: most positions in each direction. The map holds side ** 4 numbers per image (21 MB at 48), so larger feature
            maps are read at fewer places; the paper's have 41 x 41 on crops of 321 px.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, feature_channels: int, num_classes: int, *, side: int = 48) -> None:
        super().__init__()
        if min(feature_channels, num_classes, side) < 1:
            raise ValueError(
                f"feature_channels, num_classes and side must be at least 1, got {feature_channels}, {num_classes} and {side}"
            )
        self.side = side
        self.query = nn.Conv2d(feature_channels, num_classes, 1)
        self.key = nn.Conv2d(feature_channels, num_classes, 1)

    def forward(self, out: SegOutput) -> Correlated:
        """Propagate the logits of a network. The gradient reaches projections, features and logits."""
        (height, width), (rows, columns) = out.logits.shape[-2:], out.features.shape[-2:]
        size, align = (min(rows, self.side), min(columns, self.side)), out.align_corners
        with torch.autocast(out.features.device.type, enabled=False):  # N shares of 1 / N are little for half precision
            features = F.interpolate(out.features.float(), size, mode="bilinear", align_corners=align)
            missing = (0, out.covers[1] - width, 0, out.covers[0] - height)  # where the network has padded
            logits = F.pad(out.logits.float(), missing, mode="replicate")
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=align)
            correlation = correlation_map(self.query(features).flatten(2), self.key(features).flatten(2))
            spread = propagate(logits.flatten(2), correlation).view(logits.shape)
            spread = F.interpolate(spread, out.covers, mode="bilinear", align_corners=align)[..., :height, :width]
        y, x = (
            nearest_cell(extent, covers, cells, align_corners=align, device=spread.device)
            for extent, covers, cells in zip((height, width), out.covers, size, strict=True)
        )
        return Correlated(spread, correlation, y[:, None] * size[1] + x)

    def extra_repr(self) -> str:
        return f"side={self.side}"
