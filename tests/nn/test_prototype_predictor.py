"""The nearest prototype as the answer for every pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.prototype_predictor import PrototypePredictor
from protoseg.nn.segmenter import create_segmenter
from protoseg.nn.small_unet import SmallUNet


@pytest.mark.parametrize("arch", ["small_unet", "unet", "pspnet"])
@pytest.mark.parametrize("size", [(64, 96), (70, 33), (150, 20)])
def test_equal_to_up_sampling_the_features(arch: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    if arch == "small_unet":
        network: torch.nn.Module = SmallUNet(5, width=4)
    else:
        network = create_segmenter(arch, "resnet18", num_classes=5)
    network.eval()
    head = PrototypeHead(int(network.feature_channels), 5, per_class=3)  # type: ignore[arg-type]
    head.assign(torch.randn(head.prototype.shape))
    image = torch.randn(2, 3, *size)
    out = PrototypePredictor(network, head).eval()(image)
    seen = network(image)
    dense = F.interpolate(seen.features, seen.covers, mode="bilinear", align_corners=seen.align_corners)
    expected = head(dense[..., : size[0], : size[1]])
    assert out.logits.shape == (2, 5, *size)
    torch.testing.assert_close(out.logits, expected, atol=1e-3, rtol=1e-4)
    assert torch.equal(out.features, seen.features)
    both = PrototypePredictor(network, head, mean=True).eval()(image).logits.softmax(dim=1)
    torch.testing.assert_close(both, (seen.logits.softmax(dim=1) + expected.softmax(dim=1)) / 2, atol=1e-4, rtol=1e-3)
