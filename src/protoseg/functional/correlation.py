"""How alike the positions of an image are, and labels that travel along it (CorrMatch, CVPR 2024, arXiv 2306.04300).

B images · C classes · K channels · N positions of the map · R regions · H W crop
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protoseg.functional.counts import histogram
from protoseg.types import IGNORE_INDEX, PseudoLabel


def correlation_map(query: Tensor, key: Tensor) -> Tensor:
    """What share of itself each position gives to each: M_ij = softmax over j of q_i . k_j / sqrt(K).

    Args:
        query, key: (B, K, N).

    Returns:
        (B, N, N), each row of which sums to 1.
    """
    return (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)


def propagate(logits: Tensor, correlation: Tensor) -> Tensor:
    """What each position receives, sum_i z_i M_ij: logits (B, C, N), map (B, N, N) -> (B, C, N)."""
    return logits @ correlation


def nearest_cell(extent: int, covers: int, cells: int, *, align_corners: bool, device: torch.device) -> Tensor:
    """The cell next to each pixel along one axis, where a map of `cells` covers `covers` pixels: (extent,) int64."""
    pixel = torch.arange(extent, device=device, dtype=torch.float64)
    if align_corners:
        return (pixel * (cells - 1) / max(covers - 1, 1)).round().long()
    return ((pixel + 0.5) * cells / covers).long()


@torch.no_grad()
def sample_regions(correlation: Tensor, uniform: Tensor) -> Tensor:
    """Rows of the map as regions: the positions above the middle between the row's smallest and largest value.

    Args:
        correlation: (B, N, N).
        uniform: (B, R) numbers in [0, 1): which rows.

    Returns:
        (B, R, N) bool. A row without differences is an empty region.
    """
    positions = correlation.shape[2]
    index = (uniform * positions).long().clamp(max=positions - 1)  # float rounding may reach N
    rows = correlation.gather(1, index[:, :, None].expand(-1, -1, positions))
    low, high = rows.amin(dim=2, keepdim=True), rows.amax(dim=2, keepdim=True)
    return rows - low > 0.5 * (high - low)


@torch.no_grad()
def relabel_regions(
    pseudo: PseudoLabel, confident: Tensor, region: Tensor, cell: Tensor, *, num_classes: int, share: float | Tensor
) -> PseudoLabel:
    """A region that is sure of itself and agrees gets its majority's label everywhere.

    That is one in which more than `share` of the pixels are confident, and more than `share` of them have the same label.
    Where such regions overlap, the one that agrees most decides.

    Args:
        pseudo: pseudo-labels, before mixing.
        confident: (B, H, W) bool, the pixels that would teach anyway.
        region: (B, R, N) bool, of positions.
        cell: (H, W) int64 in [0, N), the position that a pixel belongs to.
        num_classes: C.
        share: in [0, 1], also as a scalar tensor.

    Returns:
        PseudoLabel in which the pixels of such regions have the region's label, and at least `share` as confidence.
    """
    batch, _, positions = region.shape
    known = pseudo.valid & (pseudo.label != IGNORE_INDEX)
    image = torch.arange(batch, device=cell.device)[:, None, None]
    slots = batch * num_classes * positions
    slot = torch.where(known, (image * num_classes + pseudo.label) * positions + cell, slots)
    of_class = histogram(slot, slots).view(batch, num_classes, positions)
    slot = torch.where(known & confident, image * positions + cell, batch * positions)
    sure = histogram(slot, batch * positions).view(batch, 1, positions)

    with torch.autocast(region.device.type, enabled=False):  # half precision cannot count
        inside = region.float() @ torch.cat([of_class, sure], dim=1).float().transpose(1, 2)  # (B, R, C + 1)
    total = inside[..., :-1].sum(dim=2).clamp(min=1)
    most, label = inside[..., :-1].max(dim=2)  # (B, R)
    agreeing = most / total
    accepted = (inside[..., -1] / total > share) & (agreeing > share)
    best, winner = (torch.where(accepted, agreeing, 0.0)[:, :, None] * region).max(dim=1)  # (B, N)
    new = torch.where(best > 0, label.gather(1, winner), IGNORE_INDEX)[:, cell]  # (B, H, W)

    changed = known & (new != IGNORE_INDEX)
    return pseudo._replace(
        label=torch.where(changed, new, pseudo.label),
        confidence=torch.where(changed, pseudo.confidence.clamp(min=share), pseudo.confidence),
    )
