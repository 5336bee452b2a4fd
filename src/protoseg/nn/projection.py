"""Features of their own for the prototypes: a small head beside the linear predictor's.

B images · D feature channels · E channels of the projection · h w feature map
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from protoseg.types import Perturb, SegmentationNetwork, SegOutput


class Projected(nn.Module):
    """A network whose features, as others see them, are a projection of those that its linear predictor reads.

    What pulls at the projection, as the prototype term does, reaches the linear predictor's features through two layers of its
    own, as in contrastive learning (Chen et al., ICML 2020, arXiv 2002.05709). Logits stay as they are.

    Args:
        network: any that a method takes.
        channels: E.

    Shape:
        forward: as of the network, with features (B, E, h, w).
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"a projection has at least 1 channel, got {channels}")
        inner = cast(SegmentationNetwork, network)
        self.network = network
        self.num_classes, self.in_channels, self.stride = inner.num_classes, inner.in_channels, inner.stride
        self.feature_channels = channels
        width = inner.feature_channels
        # Without BatchNorm: a batch of one trains, and a teacher needs no statistics for it.
        self.projection = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, channels, 1))

    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder  # type: ignore[return-value]

    def forward(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput:
        out: SegOutput = self.network(image, perturb=perturb)
        return out._replace(features=self.projection(out.features))

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the network."""
        return cast(SegmentationNetwork, self.network).encoder_parameters()
