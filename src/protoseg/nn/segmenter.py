"""Any segmentation-models-pytorch network as `image -> SegOutput(logits, features)`. The only file that knows smp.

B images · I image channels · C classes · D feature channels · H W image · h w feature map
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.modules import Activation
from torch import Tensor, nn

from protoseg.nn.batchnorm import explain_batch_of_one, freeze_statistics
from protoseg.nn.vit import check_encoder_name, is_plain_vit, no_such_tag, timm_config, timm_name
from protoseg.nn.weights import (
    adapt_first_layer,
    first_line,
    is_download_error,
    is_file_name,
    is_unpublished,
    load_encoder,
    quiet_hub,
    read_state,
    unpublished,
    unreachable,
)
from protoseg.types import Perturb, SegOutput


class Segmenter(nn.Module):
    """Wrap an smp model so that it also returns the features that its linear head sees.

    Images of any size are padded at the bottom and right to what the encoder needs, and the logits cropped back.

    Args:
        network: a model of segmentation-models-pytorch without activation and without `aux_params`. It is taken over: its
            `segmentation_head` moves to `self.head`.
        freeze_bn: keep the encoder's BatchNorm layers on their running statistics (their scale and shift still learn).
        freeze_encoder: keep the whole encoder as it is: its parameters get no gradient.

    Attributes:
        num_classes, in_channels: C and I.
        feature_channels, stride: D, and image pixels per feature-map pixel; found by a dry forward pass.

    Raises:
        ValueError: the model is not of a kind that can be tapped; the message says why.
    """

    def __init__(self, network: SegmentationModel, *, freeze_bn: bool = False, freeze_encoder: bool = False) -> None:
        super().__init__()
        if not isinstance(network, SegmentationModel):
            raise ValueError(f"Segmenter wraps a segmentation_models_pytorch model, got {type(network).__name__}")
        if network.classification_head is not None:
            raise ValueError("build the model with aux_params=None: a classification head has no use here")
        if any(
            isinstance(m, Activation) and not isinstance(m.activation, nn.Identity) for m in network.segmentation_head.modules()
        ):
            raise ValueError("build the model with activation=None: the losses expect logits, not probabilities")
        self.head: nn.Module = network.segmentation_head
        network.segmentation_head = nn.Identity()
        self.network = network
        self.freeze_bn, self.freeze_encoder = freeze_bn, freeze_encoder
        # With nothing that needs a gradient below the decoder, torch keeps no graph of the encoder's pass either.
        if freeze_encoder:
            network.encoder.requires_grad_(False)
        self.in_channels, self.divisor = _input_channels(network.encoder), int(network.encoder.output_stride)
        if isinstance(network, smp.DPT):
            self.divisor *= 2  # its coarsest map is halved once more, and doubled again
        self.smallest, self.feature_channels, self.stride, self.num_classes = self._dry_run()
        self.train(self.training)

    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Segmenter:
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
            perturb: changes the encoder's feature maps, fine ones first, before the decoder sees them; the image itself, which
                smp counts as the finest map, is not among them. It may multiply the batch.

        Returns:
            SegOutput with logits (B, C, H, W) and features (B, D, h, w) that cover the padded image.

        Raises:
            ValueError: a batch of one in training mode, on a network whose BatchNorm needs two.
        """
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, self._missing(width), 0, self._missing(height)), mode="replicate")
        with explain_batch_of_one(type(self.network).__name__):
            features = self.network(padded) if perturb is None else self._decode_perturbed(padded, perturb)
        logits = self.head(features)[..., :height, :width]
        covers = (padded.shape[-2], padded.shape[-1])
        return SegOutput(logits, features, covers, align_corners=True)  # as smp's heads up-sample

    def _decode_perturbed(self, image: Tensor, perturb: Perturb) -> Tensor:
        encoded = self.encoder(image)
        if isinstance(self.network, smp.DPT):  # whose encoder also returns the tokens that are no patch
            maps, tokens = perturb(list(encoded[0])), encoded[1]
            times = len(maps[0]) // len(image)
            return self.network.decoder(maps, [t if t is None else t.repeat(times, 1, 1) for t in tokens])  # type: ignore[no-any-return]
        finest, *maps = encoded
        maps = perturb(maps)
        return self.network.decoder([finest.repeat(len(maps[0]) // len(image), 1, 1, 1), *maps])  # type: ignore[no-any-return]

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that start from pre-trained weights and usually get the lower learning rate."""
        return self.encoder.parameters()

    def _missing(self, side: int) -> int:
        """Pixels to add to a side of the image."""
        return max(self.smallest, side + -side % self.divisor) - side

    @torch.no_grad()
    def _dry_run(self) -> tuple[int, int, int, int]:
        """Smallest side, feature channels, stride and classes, read off forward passes in eval mode (BatchNorm stays as it is).

        The first side that works counts: some decoders pool further than the encoder and need a larger image. If that is not
        the first one, the next larger side has to work too: some encoders take images of one size alone.
        """
        training, parameter = self.training, next(self.parameters())
        self.eval()
        sides = [self.divisor * factor for factor in (1, 2, 4, 8, 16)]
        try:
            for side in sides:
                try:
                    features = self.network(parameter.new_zeros(1, self.in_channels, side, side))
                    logits = self.head(features)
                    break
                except (RuntimeError, AssertionError, ValueError) as error:
                    if side == sides[-1]:
                        raise ValueError(f"it fails on images of {sides[0]} to {side} px ({first_line(error)})") from error
            if side > sides[0]:
                larger = side + self.divisor
                try:
                    self.network(parameter.new_zeros(1, self.in_channels, larger, larger))
                except (RuntimeError, AssertionError, ValueError) as error:
                    raise ValueError(f"it fails on images of {larger} px, not of {side} px ({first_line(error)})") from error
        finally:
            super().train(training)
        if logits.shape[-1] != side:
            raise ValueError(
                f"the logits of a {side} px image are {logits.shape[-1]} px wide; Segmenter needs full-size logits"
            )
        return side, features.shape[1], side // features.shape[-1], logits.shape[1]


def create_segmenter(
    arch: str,
    encoder: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    weights: str | Path | None = None,
    freeze_bn: bool = False,
    freeze_encoder: bool = False,
    **options: Any,
) -> Segmenter:
    """Build any architecture and encoder of segmentation-models-pytorch by name.

    Args:
        arch: an smp architecture, `unet` ... `dpt`.
        encoder: an smp encoder, or `tu-NAME` for one of timm's.
        num_classes: C.
        in_channels: I. For another number than 3, pre-trained first-layer filters are repeated over the channels and scaled.
        weights: `imagenet` or another name that smp or timm knows, the path of a local file, or None for a random start.
        freeze_bn, freeze_encoder: see Segmenter.
        options: handed to the smp architecture.

    Returns:
        Segmenter in training mode.

    Raises:
        ValueError: the names do not exist or do not fit together, or the weights fit neither.
        FileNotFoundError: the weights file is not there.
        ConnectionError: named weights could not be downloaded.
    """
    check_encoder_name(encoder)
    architectures = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if arch not in architectures:
        raise ValueError(
            f"there is no architecture {arch!r}; choose one of {', '.join(architectures)}, or protoseg's own "
            "dino_dpt, paper_deeplabv3plus or small_unet"
        )
    state = None if weights is None or not is_file_name(weights) else read_state(Path(weights))
    name = None if state is not None or weights is None else str(weights)
    tagged = encoder
    pretrained: str | bool | None = name
    if name is not None and encoder.startswith("tu-"):  # where smp would take any name for timm's usual weights
        tagged = encoder if name == "imagenet" else f"{encoder.partition('.')[0]}.{name}"
        pretrained = True
    if arch == "dpt":
        options.setdefault("dynamic_img_size", True)  # or a ViT takes one image size only
    try:
        with quiet_hub():
            network = smp.create_model(
                arch, encoder_name=tagged, encoder_weights=pretrained, in_channels=in_channels, classes=num_classes, **options
            )
        segmenter = Segmenter(network, freeze_bn=freeze_bn, freeze_encoder=freeze_encoder)
    except Exception as error:  # smp and timm raise anything from KeyError to AssertionError for a pair that does not fit
        if name is not None and is_download_error(error):
            raise unreachable(encoder, name, error) from error
        if "pretrained tag" in str(error):
            raise no_such_tag(encoder, name) from error
        if is_unpublished(error):
            raise unpublished(encoder) from error
        if "Unknown model" in str(error) or ("Wrong encoder name" in str(error) and not is_plain_vit(encoder)):
            of_timm = [f"tu-{model}" for model in timm.list_models()]
            known = of_timm if encoder.startswith("tu-") else list(smp.encoders.encoders)
            near = difflib.get_close_matches(encoder.lower(), known, n=3, cutoff=0.5)
            raise ValueError(
                f"there is no encoder {encoder!r}; "
                + (f"near it are {', '.join(near)}; " if near else "")
                + "give one of segmentation-models-pytorch to --model.encoder, or tu-NAME for any of timm"
            ) from error
        if "Wrong pretrained weights" in str(error):
            names = ", ".join(smp.encoders.encoders[encoder]["pretrained_settings"]) if encoder in smp.encoders.encoders else ""
            raise ValueError(
                f"{encoder} has no weights named {name!r}; give --model.weights {names or 'imagenet'}, a FILE, or none"
            ) from error
        raise ValueError(_misfit(arch, encoder, error)) from error
    if state is not None:
        load_encoder(segmenter.encoder, adapt_first_layer(state, segmenter.encoder), source=str(weights))
    return segmenter


def _misfit(arch: str, encoder: str, error: Exception) -> str:
    """Why an architecture and an encoder do not go together, and what to choose instead."""
    known = timm_config(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    if is_plain_vit(encoder) and arch == "dpt":
        return f"dpt cannot be built on {encoder}: {first_line(error)}. Use --model.arch dino_dpt, which is for every plain ViT"
    if is_plain_vit(encoder):
        return f"{encoder} is a plain ViT, which has no feature pyramid for {arch}; use --model.arch dino_dpt"
    other = "another --model.encoder, e.g. resnet50 or tu-convnext_tiny"
    if arch == "dpt" and ("dynamic_img_size" in str(error) or "Only Timm encoders" in str(error)):
        return f"dpt is for plain ViTs, and {encoder} is none; choose --model.arch unet or fpn for it, or dino_dpt on a ViT"
    if "output_stride" in str(error) or "dilated mode" in str(error):
        return f"{encoder} cannot keep its maps as fine as {arch} needs them; choose --model.arch unet or fpn, or {other}"
    if "downsampling pattern" in str(error):
        return f"{encoder} has no feature pyramid, which {arch} needs, and dino_dpt is not for it either; choose {other}"
    if known is not None and known.fixed_input_size and "it fails on images" in str(error):
        return (
            f"{encoder} takes images of {known.input_size[-1]} px alone, and protoseg predicts images of any size; "
            f"choose {other}"
        )
    return (
        f"{arch} cannot be built on {encoder}: {first_line(error)}. Choose another --model.arch or --model.encoder, "
        "e.g. deeplabv3plus on resnet50"
    )


def _input_channels(encoder: nn.Module) -> int:
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("the encoder has no convolution, so its number of input channels is unknown")


_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_OWN_STATISTICS = {"inceptionv4": _HALF, "inceptionresnetv2": _HALF, "xception": _HALF, "dpn": _DPN}
"""smp keeps these beside the weights, on the hub; the numbers are those of github.com/Cadene/pretrained-models.pytorch."""


def encoder_statistics(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the pixels, in [0, 1], that an encoder's ImageNet weights were trained on.

    Args:
        encoder: of smp, `tu-NAME` of timm, or the short name of a DINO.

    Returns:
        None where they are ImageNet's own, or unknown.
    """
    name = timm_name(encoder)
    if name is not None:
        known = timm_config(name)
        return None if known is None else (tuple(known.mean), tuple(known.std))
    return next((own for name, own in _OWN_STATISTICS.items() if encoder.startswith(name)), None)


def named_state(timm_name: str) -> dict[str, Tensor]:
    """ImageNet weights of a timm network, by its name.

    Raises:
        ConnectionError: they could not be downloaded.
    """
    try:
        with quiet_hub():
            return timm.create_model(timm_name, pretrained=True).state_dict()
    except Exception as error:
        if not is_download_error(error):
            raise
        raise unreachable(timm_name, "imagenet", error) from error
