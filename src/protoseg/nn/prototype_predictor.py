"""The second predictor of a trained model: the nearest prototype instead of the linear classifier, or beside it.

B images · I image channels · C classes · H W image
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoseg.functional.points import read_features
from protoseg.functional.pseudo_label import mean_of_predictors
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.types import SegOutput

_ROWS = 64  # of pixels at a time: D channels for every pixel of an image would take gigabytes


class PrototypePredictor(nn.Module):
    """A network that answers by its prototypes. For scores and predictions, not for training.

    The features are read at every pixel as training reads them at some, so that both mean the same.

    Args:
        network: whose features the prototypes are of.
        head: the prototypes.
        mean: both predictors answer, by the mean of their probabilities.
    """

    def __init__(self, network: nn.Module, head: PrototypeHead, *, mean: bool = False) -> None:
        super().__init__()
        self.network, self.head, self.mean = network, head, mean
        self.num_classes = head.num_classes

    @torch.no_grad()
    def forward(self, image: Tensor) -> SegOutput:
        """Logits of the prototypes.

        Args:
            image: (B, I, H, W) float, normalised.

        Returns:
            SegOutput of the network with logits (B, C, H, W) of the prototypes, or of both predictors.
        """
        out: SegOutput = self.network(image)
        height, width = image.shape[-2:]
        rows = [
            self._answer(out, top, min(top + _ROWS, height), width)  # (B, C, rows, W)
            for top in range(0, height, _ROWS)
        ]
        logits = torch.cat(rows, dim=2)
        return out._replace(logits=mean_of_predictors(out.logits, logits) if self.mean else logits)

    def _answer(self, out: SegOutput, top: int, bottom: int, width: int) -> Tensor:
        device = out.features.device
        grid = torch.cartesian_prod(torch.arange(top, bottom, device=device), torch.arange(width, device=device))  # (P, 2)
        points = grid.expand(len(out.features), -1, -1)
        features = read_features(out.features, points, out.covers, align_corners=out.align_corners)  # (B, P, D)
        logits: Tensor = self.head(features.flatten(0, 1))  # (B * P, C)
        return logits.view(len(features), bottom - top, width, -1).permute(0, 3, 1, 2)
