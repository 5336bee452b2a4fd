"""What is kept of many images while they pass by, each seen once: counts, the nearest pixels, a few features.

N pixels · D feature channels · C classes · P prototypes of all classes
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from protoseg.functional.counts import histogram
from protoseg.functional.random import generator
from protoseg.types import IGNORE_INDEX


class Found(NamedTuple):
    """A pixel near a prototype. Attributes: number of its image; position; cosine."""

    image: int
    y: int
    x: int
    cosine: float


class Nearest:
    """For each prototype the nearest pixels that follow it, at most one of each image.

    Args:
        num_prototypes: P.
        most: pixels of each.
    """

    def __init__(self, num_prototypes: int, *, most: int) -> None:
        self.most = most
        self.found: list[list[Found]] = [[] for _ in range(num_prototypes)]
        """Nearest first; of equally near ones, that of the earlier image, and in it the upper left one."""

    def add(self, image: int, points: Tensor, followed: Tensor, cosine: Tensor) -> None:
        """Look at one image; images come in order.

        Args:
            image: its number.
            points: (N, 2) int64 (y, x).
            followed: (N,) int64 in [0, P), or negative for none.
            cosine: (N,).
        """
        place, prototype, near = points.cpu().numpy(), followed.cpu().numpy(), cosine.cpu().numpy()
        order = np.lexsort((np.arange(len(near)), -near, prototype))
        present, first = np.unique(prototype[order], return_index=True)
        for p, i in zip(present.tolist(), order[first].tolist(), strict=True):
            if p >= 0:
                mine = [*self.found[p], Found(image, int(place[i, 0]), int(place[i, 1]), float(near[i]))]
                self.found[p] = sorted(mine, key=lambda found: -found.cosine)[: self.most]  # stable: earlier images stay first


class Sampled:
    """Features of a few pixels of each class, each pixel that has passed by as likely as every other of its class.

    Args:
        num_classes: C.
        most: pixels of each class.
        seed: of the draw.
    """

    def __init__(self, num_classes: int, *, most: int, seed: int = 0) -> None:
        self.num_classes, self.most, self.seed = num_classes, most, seed
        self._label, self._rank = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        self._features: Tensor | None = None

    def add(self, image: int, label: Tensor, features: Tensor) -> None:
        """Look at one image.

        Args:
            image: its number, which the draw depends on.
            label: (N,) int64 class ids or IGNORE_INDEX.
            features: (N, D).
        """
        label = label.cpu()
        # Each pixel draws a number, and the lowest of a class stay: no need to know how many there will be.
        rank = torch.rand(len(label), dtype=torch.float64, generator=generator(self.seed, "atlas", image))
        mine = self._lowest(label, rank)
        kept = features[mine.to(features.device)].float().cpu()
        both = kept if self._features is None else torch.cat([self._features, kept])
        label, rank = torch.cat([self._label, label[mine]]), torch.cat([self._rank, rank[mine]])
        lowest = self._lowest(label, rank)
        self._label, self._rank, self._features = label[lowest], rank[lowest], both[lowest]

    def _lowest(self, label: Tensor, rank: Tensor) -> Tensor:
        chosen = [torch.zeros(0, dtype=torch.int64)]
        for c in torch.unique(label[label != IGNORE_INDEX]).tolist():
            members = torch.nonzero(label == c)[:, 0]
            chosen.append(members[rank[members].argsort()[: self.most]])
        return torch.cat(chosen)

    @property
    def label(self) -> Tensor:
        """(M,) int64, in the order of the classes."""
        return self._label

    @property
    def features(self) -> Tensor:
        """(M, D) float32."""
        return torch.zeros(len(self._label), 0) if self._features is None else self._features


def count(followed: Tensor, num_prototypes: int) -> Tensor:
    """Pixels that follow each prototype: (P,) int64 of (N,) in [0, P), or negative for none."""
    return histogram(torch.where(followed < 0, num_prototypes, followed), num_prototypes)
