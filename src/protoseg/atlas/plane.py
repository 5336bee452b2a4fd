"""The plane in which points of many dimensions spread most: principal components.

N points · D dimensions
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plane(NamedTuple):
    mean: Tensor  # (D,)
    axes: Tensor  # (2, D) of unit length; zeros where the points do not spread any further
    explained: tuple[float, float]  # shares of the variance along each


def fit_plane(points: Tensor) -> Plane:
    """Find the plane.

    Args:
        points: (N, D) float, at least one.

    Returns:
        Plane whose axes point to where their largest number is positive, so that the same points give the same picture.
    """
    points = points.double()
    mean = points.mean(dim=0)
    centred = points - mean
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = spread.square()
    total = float(centred.square().sum())
    axes, shares = torch.zeros(2, points.shape[1], dtype=torch.float64), [0.0, 0.0]
    for i in range(min(2, len(variance))):
        share = float(variance[i]) / total if total > 0 else 0.0
        if share > 1e-12:  # below it is rounding
            axis = directions[i]
            axes[i], shares[i] = axis * axis[axis.abs().argmax()].sign(), share
    return Plane(mean, axes, (shares[0], shares[1]))


def project(plane: Plane, points: Tensor) -> Tensor:
    """(N, D) to (N, 2) float64."""
    return (points.double() - plane.mean) @ plane.axes.T
