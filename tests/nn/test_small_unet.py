"""The demo's network: full-size logits at any size, features in the coordinates it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protoseg.functional.points import read_features, sample_points
from protoseg.nn.small_unet import SmallUNet


@pytest.mark.parametrize("size", [(64, 64), (37, 53), (33, 96), (1, 1)])
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_shapes(in_channels: int, size: tuple[int, int]) -> None:
    network = SmallUNet(5, in_channels=in_channels, width=4, feature_channels=6).eval()
    out = network(torch.randn(2, in_channels, *size))
    assert (network.num_classes, network.in_channels, network.feature_channels) == (5, in_channels, 6)
    assert out.logits.shape == (2, 5, *size)
    assert all(0 <= c - s < network.divisor and c % network.divisor == 0 for c, s in zip(out.covers, size, strict=True))
    assert out.features.shape == (2, 6, out.covers[0] // network.stride, out.covers[1] // network.stride)
    assert out.auxiliary is None


@pytest.mark.parametrize("size", [(64, 64), (37, 53)])
def test_logits_are_the_head_up_sampled_as_it_says(size: tuple[int, int]) -> None:
    network = SmallUNet(3, width=4)
    out = network(torch.randn(2, 3, *size))
    assert out.align_corners is False
    dense = F.interpolate(network.head(out.features), out.covers, mode="bilinear", align_corners=out.align_corners)
    torch.testing.assert_close(out.logits, dense[..., : size[0], : size[1]])


def test_features_at_points_agree_with_the_logits() -> None:
    """The head is linear, so reading features and then applying it is reading the logits."""
    network, size = SmallUNet(3, width=4).eval(), (37, 53)
    out = network(torch.randn(2, 3, *size))
    points = sample_points(torch.rand(2, 64, 2), size, grid=8)
    read = read_features(out.features, points, out.covers, align_corners=out.align_corners)
    dense = F.interpolate(out.features, out.covers, mode="bilinear", align_corners=out.align_corners)
    for b in range(2):
        y, x = points[b].T
        torch.testing.assert_close(read[b], dense[b, :, y, x].T, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            F.linear(read[b], network.head.weight[:, :, 0, 0], network.head.bias), out.logits[b, :, y, x].T
        )


def test_width_of_the_features_can_be_chosen() -> None:
    network = SmallUNet(3, width=4, feature_channels=7)
    out = network(torch.randn(2, 3, 32, 32))
    assert network.feature_channels == out.features.shape[1] == network.head.in_channels == 7
    assert network.encoder[0][0][0].out_channels == 4


def test_padding_is_at_the_bottom_and_right() -> None:
    network = SmallUNet(3, width=4).eval()
    image = torch.randn(1, 3, 41, 57)
    by_hand = F.pad(image, (0, -57 % network.divisor, 0, -41 % network.divisor), mode="replicate")
    torch.testing.assert_close(network(image).features, network(by_hand).features, atol=0, rtol=0)


def test_every_parameter_learns() -> None:
    network = SmallUNet(3, width=4)
    network(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    encoder = {id(parameter) for parameter in network.encoder_parameters()}
    assert encoder == {id(parameter) for parameter in network.encoder.parameters()}
    assert 0 < len(encoder) < len(list(network.parameters()))


def test_perturbing_the_encoder() -> None:
    network, image = SmallUNet(3, width=4).eval(), torch.randn(2, 3, 32, 48)
    plain = network(image)
    torch.testing.assert_close(network(image, perturb=lambda maps: maps).logits, plain.logits)
    both = network(image, perturb=lambda maps: [torch.cat([x, 0 * x]) for x in maps])
    torch.testing.assert_close(both.logits[:2], plain.logits)
    assert not torch.allclose(both.logits[2:], plain.logits)
