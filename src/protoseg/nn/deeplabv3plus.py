"""The paper's own network: DeepLabv3+ on a deep-stem, dilated, multi-grid ResNet-101, as laid out in U2PL and its relatives.

Features are 256 low-level + 256 ASPP = 512 channels at stride 4; the "linear" predictor is three convolutions.

B images · I image channels · C classes · H W image · h w = (H + 1) // 4 + 1, (W + 1) // 4 + 1
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.nn.batchnorm import explain_batch_of_one, freeze_statistics
from protoseg.types import Perturb, SegOutput


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided or dilated), 1x1, plus the shortcut (He et al., CVPR 2016, stride in the 3x3)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)  # type: ignore[no-any-return]


class DilatedResNet(nn.Module):
    """ResNet with a deep stem (three 3x3, 64-64-128) at output stride 8, dilation 2 in layer3, multi-grid (2, 2, 4) in layer4.

    Parameter names are those of timm's `resnet101s` (conv1.0, conv1.1, conv1.3, ...), so its ImageNet weights load.

    Args:
        layers: blocks per stage, (3, 4, 23, 3) for ResNet-101.
        in_channels: I.
    """

    def __init__(self, layers: tuple[int, int, int, int] = (3, 4, 23, 3), *, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(128)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = _stage(128, 64, stride=1, dilations=[1] * layers[0])
        self.layer2 = _stage(256, 128, stride=2, dilations=[1] * layers[1])
        # The first block of a stage keeps the dilation of the stage before.
        self.layer3 = _stage(512, 256, stride=1, dilations=[1] + [2] * (layers[2] - 1))
        self.layer4 = _stage(1024, 512, stride=1, dilations=_multi_grid(layers[3]))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)  # every block starts as its shortcut

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of layer1 (256 channels, stride 4), layer3 (1024, stride 8) and layer4 (2048, stride 8)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        low = self.layer1(x)
        middle = self.layer3(self.layer2(low))
        return low, middle, self.layer4(middle)


def _stage(in_channels: int, width: int, *, stride: int, dilations: list[int]) -> nn.Sequential:
    blocks = [Bottleneck(in_channels, width, stride=stride, dilation=dilations[0])]
    blocks += [Bottleneck(width * Bottleneck.expansion, width, dilation=d) for d in dilations[1:]]
    return nn.Sequential(*blocks)


def _multi_grid(blocks: int) -> list[int]:
    """Dilations of layer4: the grid (2, 2, 4) times 2 for the first block (the dilation before), times 4 for the rest."""
    grid = [2, 2, 4] if blocks >= 3 else [2] * blocks
    grid += [4] * (blocks - len(grid))
    return [unit * (2 if i == 0 else 4) for i, unit in enumerate(grid)]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017): image pooling, 1x1 and three dilated 3x3, concatenated."""

    def __init__(self, in_channels: int, *, width: int = 256, dilations: tuple[int, ...] = (12, 24, 36)) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv_bn_relu(in_channels, width, 1, bias=False))
        self.branches = nn.ModuleList([nn.Sequential(*_conv_bn_relu(in_channels, width, 1, bias=False))])
        self.branches += [nn.Sequential(*_conv_bn_relu(in_channels, width, 3, dilation=d, bias=False)) for d in dilations]
        self.out_channels = width * (2 + len(dilations))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x).expand(-1, -1, *x.shape[-2:])
        return torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1)


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ with the paper's 512-channel features. Interface as `Segmenter`.

    Logits and the auxiliary head are up-sampled with align_corners=True; on crops of 4n + 1 pixels (513, 769) the feature
    map's stride is then exactly 4. No size needs padding.

    Args:
        num_classes: C.
        in_channels: I.
        layers: blocks per encoder stage; the default is ResNet-101.
        auxiliary: add the head on layer3 that the paper uses on Cityscapes.
        freeze_bn: keep the encoder's BatchNorm layers on their running statistics.
        freeze_encoder: keep the whole encoder as it is: its parameters get no gradient.
        dropout: of the decoder's Dropout2d layers.
    """

    feature_channels = 512
    stride = 4

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        layers: tuple[int, int, int, int] = (3, 4, 23, 3),
        auxiliary: bool = False,
        freeze_bn: bool = False,
        freeze_encoder: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.freeze_bn, self.freeze_encoder = freeze_bn, freeze_encoder
        self.encoder = DilatedResNet(layers, in_channels=in_channels).requires_grad_(not freeze_encoder)
        self.aspp = ASPP(2048)
        self.project = nn.Sequential(*_conv_bn_relu(self.aspp.out_channels, 256, 3, bias=False), nn.Dropout2d(dropout))
        self.low = nn.Sequential(*_conv_bn_relu(256, 256, 1))
        self.head = nn.Sequential(
            *_conv_bn_relu(512, 256, 3),
            nn.Dropout2d(dropout),
            *_conv_bn_relu(256, 256, 3),
            nn.Dropout2d(dropout),
            nn.Conv2d(256, num_classes, 1),
        )
        self.auxiliary = (
            nn.Sequential(*_conv_bn_relu(1024, 256, 3), nn.Dropout2d(dropout), nn.Conv2d(256, num_classes, 1))
            if auxiliary
            else None
        )

    def train(self, mode: bool = True) -> DeepLabV3Plus:
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        elif self.freeze_bn:
            freeze_statistics(self.encoder)
        return self

    def forward(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput:
        """Predict every pixel.

        Args:
            image: (B, I, H, W) float, normalised.
            perturb: changes the two feature maps that the decoder sees (layer1 and layer4); it may multiply the batch.

        Returns:
            SegOutput with logits (B, C, H, W) and features (B, 512, h, w); in training also the auxiliary head's logits.
        """
        size = (image.shape[-2], image.shape[-1])
        low, middle, high = self.encoder(image)  # strides 4, 8, 8
        if perturb is not None:
            low, high = perturb([low, high])
        with explain_batch_of_one(type(self).__name__):
            context = self.project(self.aspp(high))
        context = F.interpolate(context, low.shape[-2:], mode="bilinear", align_corners=True)
        features = torch.cat([self.low(low), context], dim=1)  # (B, 512, h, w)
        auxiliary = None
        if self.auxiliary is not None and self.training:
            auxiliary = _upsample(self.auxiliary(middle), size)
            auxiliary = auxiliary.repeat(len(low) // len(middle), 1, 1, 1)
        return SegOutput(_upsample(self.head(features), size), features, size, True, auxiliary)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that start from pre-trained weights."""
        return self.encoder.parameters()


def _conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1, bias: bool = True
) -> tuple[nn.Module, nn.Module, nn.Module]:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)
