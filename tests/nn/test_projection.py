"""Features of their own for the prototypes; the logits are left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from protoseg.functional.points import read_features
from protoseg.nn.projection import Projected
from protoseg.nn.segmenter import create_segmenter
from protoseg.nn.small_unet import SmallUNet


def network(arch: str) -> nn.Module:
    torch.manual_seed(0)
    return SmallUNet(3, width=4) if arch == "small_unet" else create_segmenter(arch, "resnet18", num_classes=3)


@pytest.mark.parametrize("arch", ["small_unet", "fpn"])
def test_logits_stay_and_features_are_two_layers_further(arch: str) -> None:
    plain = network(arch).eval()
    projected = Projected(plain, 7).eval()
    first, second = projected.projection[0], projected.projection[2]
    image = torch.randn(2, 3, 50, 70)
    before, after = plain(image), projected(image)
    assert torch.equal(after.logits, before.logits)
    assert (after.covers, after.align_corners) == (before.covers, before.align_corners)
    assert projected.feature_channels == after.features.shape[1] == 7
    assert after.features.shape[-2:] == before.features.shape[-2:]
    pixels = before.features.permute(0, 2, 3, 1)  # (B, h, w, D)
    hidden = (pixels @ first.weight[:, :, 0, 0].T + first.bias).clamp(min=0)
    by_hand = hidden @ second.weight[:, :, 0, 0].T + second.bias
    torch.testing.assert_close(after.features.permute(0, 2, 3, 1), by_hand, atol=1e-5, rtol=1e-4)
    for name in ("num_classes", "in_channels", "stride"):
        assert getattr(projected, name) == getattr(plain, name)


def test_what_pulls_at_the_projection_reaches_the_network() -> None:
    projected = Projected(network("small_unet"), 5).train()
    out = projected(torch.randn(2, 3, 32, 32))
    read_features(out.features, torch.tensor([[[3, 4]], [[20, 9]]]), out.covers, align_corners=True).pow(2).sum().backward()
    assert isinstance(projected.network, SmallUNet)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projected.projection.parameters())
    assert next(projected.network.encoder.parameters()).grad is not None
    assert projected.network.head.weight.grad is None


def test_the_encoder_is_that_of_the_network() -> None:
    """The projection learns at the rate of the rest; a copy, as a teacher is one, has one of its own."""
    projected = Projected(network("fpn"), 5)
    encoder = {id(p) for p in projected.encoder_parameters()}
    assert encoder == {id(p) for p in projected.network.encoder.parameters()}  # type: ignore[union-attr]
    assert encoder.isdisjoint({id(p) for p in projected.projection.parameters()})
    assert projected.encoder is projected.network.encoder  # type: ignore[union-attr]
    assert copy.deepcopy(projected).projection[0].weight is not projected.projection[0].weight


def test_an_encoder_may_be_perturbed() -> None:
    projected = Projected(network("fpn"), 5).eval()
    doubled = projected(torch.randn(1, 3, 64, 64), perturb=lambda maps: [torch.cat([x, 0 * x]) for x in maps])
    assert doubled.features.shape[:2] == (2, 5)


def test_no_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1 channel"):
        Projected(network("small_unet"), 0)
