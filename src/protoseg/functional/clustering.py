"""Spherical k-means: clusters by direction, centres that keep their length.

N vectors · D channels · K centres
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Clusters(NamedTuple):
    center: Tensor  # (K, D) mean of the raw vectors of each cluster; for an empty cluster the mean of all
    size: Tensor  # (K,) int64 vectors in each cluster; 0 marks an empty one


@torch.no_grad()
def spherical_kmeans(
    features: Tensor, num_clusters: int, *, iterations: int = 25, generator: torch.Generator | None = None
) -> Clusters:
    """Lloyd's algorithm on the unit sphere (Dhillon and Modha, 2001) with a k-means++ start.

    Vectors are assigned by cosine similarity, because that is how prototypes are matched; centres are means of the raw
    vectors, because that is what prototypes are moved by.

    Args:
        features: (N, D) float, N >= 1.
        num_clusters: K >= 1. With fewer than K distinct vectors some clusters stay empty.
        iterations: at most this many rounds; stops earlier when nothing moves.
        generator: CPU generator of the start.

    Returns:
        Clusters, largest first.

    Raises:
        ValueError: there is no vector to cluster, or fewer than one cluster or iteration.
    """
    if len(features) == 0:
        raise ValueError("k-means needs at least one vector, got none")
    if num_clusters < 1 or iterations < 1:
        raise ValueError(f"k-means needs at least one cluster and one iteration, got {num_clusters} and {iterations}")
    features = features.float()
    unit = F.normalize(features, dim=1)
    center = _spread_start(unit, num_clusters, generator)  # (k, D), k <= K where vectors coincide
    assignment = torch.full((len(unit),), -1, device=unit.device)
    for _ in range(iterations):
        nearest = (unit @ center.T).argmax(dim=1)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        total = torch.zeros_like(center).index_add_(0, assignment, unit)
        # An emptied cluster keeps its old centre.
        center = torch.where(total.norm(dim=1, keepdim=True) > 0, F.normalize(total, dim=1), center)
    count = torch.bincount(assignment, minlength=num_clusters)
    total = features.new_zeros(num_clusters, features.shape[1]).index_add_(0, assignment, features)
    mean = torch.where(count[:, None] > 0, total / count[:, None].clamp(min=1), features.mean(dim=0))
    order = count.argsort(descending=True, stable=True)
    return Clusters(mean[order], count[order])


def _spread_start(unit: Tensor, num_clusters: int, generator: torch.Generator | None) -> Tensor:
    """k-means++: each next centre is drawn with a chance that grows with its distance to the chosen ones."""
    first = int(torch.randint(len(unit), (1,), generator=generator))
    chosen = [first]
    distance = 1 - unit @ unit[first]  # (N,) cosine distance to the nearest chosen centre
    for _ in range(num_clusters - 1):
        # Rounding leaves ~1e-7 at a chosen vector and its copies; a centre there would be a duplicate.
        weight = torch.where(distance > 1e-6, distance, 0.0).double().cpu()
        if weight.sum() == 0:
            break
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, 1 - unit @ unit[chosen[-1]])
    return unit[chosen]
