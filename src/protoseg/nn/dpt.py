"""Vision Transformers for Dense Prediction, https://arxiv.org/abs/2103.13413: a thin DPT decoder on a plain ViT such as DINOv2.

Ranftl, Bochkovskiy, Koltun, ICCV 2021. Layers, widths and up-sampling are those of UniMatch V2 (arXiv 2410.10777).

B images · I image channels · C classes · E channels of the ViT · D feature channels · P pixels per side of a patch
H W image · H' W' the image padded to whole patches
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.types import Perturb, SegOutput

_LAYERS = {24: (4, 11, 17, 23)}
"""Number of blocks -> those whose outputs are read, where they are not the ends of four equal parts."""
_WIDTHS = {1024: (256, (256, 512, 1024, 1024)), 1536: (384, (1536, 1536, 1536, 1536))}
"""E -> D, and the channels of the four maps before they have D, where they are not E / 6 and E / 8, E / 4, E / 2, E."""


class DinoDPT(nn.Module):
    """A plain ViT (DINOv2, DINOv3, ...) with a DPT decoder. Interface as `Segmenter`.

    Images of any size are padded at the bottom and right to whole patches, and the logits cropped back. The class and register
    tokens take part in the attention and are not decoded.

    Args:
        encoder: a ViT as timm builds it, for images of any size (`dynamic_img_size=True`). `create_dino_dpt` makes one by name.
        num_classes: C.
        feature_channels: D; default by the width of the ViT, as in UniMatch V2.
        freeze_encoder: keep the ViT as it is: its parameters get no gradient.

    Attributes:
        stride: image pixels per feature-map pixel, P / 8: 1.75 for patches of 14 pixels.
    """

    def __init__(
        self, encoder: nn.Module, num_classes: int, *, feature_channels: int | None = None, freeze_encoder: bool = False
    ) -> None:
        super().__init__()
        vit: Any = encoder
        width, depth = int(vit.embed_dim), len(vit.blocks)
        usual, widths = _WIDTHS.get(width, (width // 6, (width // 8, width // 4, width // 2, width)))
        self.layers = _LAYERS.get(depth, tuple(depth * part // 4 - 1 for part in (1, 2, 3, 4)))
        self.num_classes, self.feature_channels = num_classes, usual if feature_channels is None else feature_channels
        self.in_channels = next(m.in_channels for m in encoder.modules() if isinstance(m, nn.Conv2d))
        self.divisor = int(vit.feature_info[-1]["reduction"])
        self.stride = self.divisor / 8
        self.freeze_encoder = freeze_encoder
        # With nothing that needs a gradient below the decoder, torch keeps no graph of the encoder's pass either.
        self.encoder: Any = encoder.requires_grad_(False) if freeze_encoder else encoder
        self.decoder = DPTDecoder(width, widths, out_channels=self.feature_channels)
        self.head = nn.Sequential(
            nn.Conv2d(self.feature_channels, self.feature_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.feature_channels, num_classes, 1),
        )
        self.train(self.training)

    def train(self, mode: bool = True) -> DinoDPT:
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput:
        """Predict every pixel.

        Args:
            image: (B, I, H, W) float, normalised.
            perturb: changes the ViT's four maps, all (B, E, H' / P, W' / P), shallow ones first; it may multiply the batch.

        Returns:
            SegOutput with logits (B, C, H, W) and features (B, D, 8 H' / P, 8 W' / P) that cover the padded image.
        """
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.divisor, 0, -height % self.divisor), mode="replicate")
        covers = (padded.shape[-2], padded.shape[-1])
        # The ViT's last norm on each of the four, as DINOv2's own `get_intermediate_layers` does.
        maps = self.encoder.forward_intermediates(padded, indices=list(self.layers), norm=True, intermediates_only=True)
        if perturb is not None:
            maps = perturb(maps)
        features = self.decoder(maps)
        logits = _resize(self.head(features), covers)
        return SegOutput(logits[..., :height, :width], features, covers, align_corners=True)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the ViT."""
        return self.encoder.parameters()  # type: ignore[no-any-return]


class DPTDecoder(nn.Module):
    """Four maps of one size become a pyramid, which is then fused from coarse to fine.

    Args:
        in_channels: E.
        widths: channels of the four levels, fine ones first, before all have `out_channels`.
        out_channels: D.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], *, out_channels: int) -> None:
        super().__init__()
        resize = (
            nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
            nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
        )
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, width, 1), scale, nn.Conv2d(width, out_channels, 3, padding=1, bias=False))
            for width, scale in zip(widths, resize, strict=True)
        )
        self.fuse = nn.ModuleList(Fusion(out_channels, coarsest=i == 3) for i in range(4))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Four maps (B, E, h, w), shallow ones first -> (B, D, 8 h, 8 w)."""
        levels = [level(x) for level, x in zip(self.reassemble, maps, strict=True)]  # 4 h, 2 h, h, h / 2
        x: Tensor = self.fuse[3](levels[3])
        for fuse, level in zip(reversed(self.fuse[:3]), reversed(levels[:3]), strict=True):
            x = fuse(level, _resize(x, level.shape[-2:]))
        return _resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))


class Fusion(nn.Module):
    """One level of the pyramid joins what comes from the coarser ones.

    Args:
        channels: D.
        coarsest: nothing comes from below.
    """

    def __init__(self, channels: int, *, coarsest: bool = False) -> None:
        super().__init__()
        self.beside = nn.Identity() if coarsest else Residual(channels)
        self.both = Residual(channels)
        # Before the up-sampling: behind it, as the paper has it, a 1x1 convolution gives the same at four times the cost.
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, level: Tensor, coarser: Tensor | None = None) -> Tensor:
        x = self.beside(level)
        return self.project(self.both(x if coarser is None else x + coarser))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two convolutions with a shortcut, activations first (He et al., ECCV 2016), without BatchNorm: a batch of one trains."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))  # type: ignore[no-any-return]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
