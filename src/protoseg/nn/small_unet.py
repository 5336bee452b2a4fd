"""A small U-Net (Ronneberger et al., MICCAI 2015) that trains from scratch on a CPU in minutes: the demo's network.

B images · I image channels · C classes · D feature channels · H W image
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.types import Perturb, SegOutput


class SmallUNet(nn.Module):
    """Four levels of two convolutions each, the first at half resolution, which is also that of the features.

    Interface as `Segmenter`.

    Args:
        num_classes: C.
        in_channels: I.
        width: channels of the first level; they double at each further one.
        feature_channels: D; default `width`.
    """

    stride = 2
    divisor = 16

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 24, feature_channels: int | None = None) -> None:
        super().__init__()
        feature_channels = width if feature_channels is None else feature_channels
        self.num_classes, self.in_channels, self.feature_channels = num_classes, in_channels, feature_channels
        channels = [in_channels, width, 2 * width, 4 * width, 8 * width]
        down = [nn.Sequential(_conv(i, o, stride=2), _conv(o, o)) for i, o in pairwise(channels)]
        self.encoder = nn.ModuleList(down)  # strides 2, 4, 8, 16
        up = [(8 * width, 4 * width, 4 * width), (4 * width, 2 * width, 2 * width), (2 * width, width, feature_channels)]
        self.reduce = nn.ModuleList([nn.Conv2d(below, beside, 1) for below, beside, _ in up])
        self.merge = nn.ModuleList([_conv(2 * beside, out) for _, beside, out in up])
        self.head = nn.Conv2d(feature_channels, num_classes, 1)
        # Channels last makes a step of the demo about a fifth faster on a CPU (64 px crops, one and two threads).
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput:
        """Predict every pixel: (B, I, H, W) -> logits (B, C, H, W), features (B, D, H / 2, W / 2) of the padded image.

        `perturb` as in `Segmenter.forward`.
        """
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.divisor, 0, -height % self.divisor), mode="replicate")
        covers = (x.shape[-2], x.shape[-1])
        x = x.contiguous(memory_format=torch.channels_last)
        levels = [x := level(x) for level in self.encoder]
        if perturb is not None:
            levels = perturb(levels)
            x = levels[-1]
        for reduce, merge, beside in zip(self.reduce, self.merge, reversed(levels[:-1]), strict=True):
            x = merge(torch.cat([F.interpolate(reduce(x), scale_factor=2, mode="nearest"), beside], dim=1))
        logits = F.interpolate(self.head(x), covers, mode="bilinear", align_corners=False)
        return SegOutput(logits[..., :height, :width], x, covers, align_corners=False)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the contracting path."""
        return self.encoder.parameters()


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
