"""Sliding windows, several sizes and mirror images, against slow loops."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.engine.inference import Inference, _Windows, starts
from protoseg.types import SegOutput


class Seen(nn.Module):
    """Logits that depend on where a pixel stands in what the network is shown; remembers the sizes of that."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, 5, padding=2)
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image: Tensor) -> SegOutput:
        size = (image.shape[-2], image.shape[-1])
        self.sizes += [size] * len(image)
        place = torch.linspace(0, 1, size[0])[:, None] + torch.linspace(0, 2, size[1])
        logits = self.convolution(image) * (1 + place)
        return SegOutput(logits, logits, size, align_corners=False)


@pytest.fixture
def network() -> Seen:
    torch.manual_seed(0)
    return Seen().eval()


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1)[0]


def test_cityscapes_needs_two_by_four_windows() -> None:
    assert starts(1024, 769, 513) == [0, 255]
    assert starts(2048, 769, 513) == [0, 513, 1026, 1279]


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (10, 10, 4, [0]),
        (3, 10, 4, [0]),
        (14, 10, 4, [0, 4]),
        (15, 10, 4, [0, 4, 5]),
        (11, 10, 10, [0, 1]),
        (20, 10, 10, [0, 10]),
    ],
)
def test_windows_end_at_the_border(size: int, window: int, stride: int, expected: list[int]) -> None:
    assert starts(size, window, stride) == expected


@pytest.mark.parametrize("size", [(13, 29), (8, 21), (5, 6), (8, 8), (40, 3)])
@pytest.mark.parametrize("stride", [None, 3, 8])
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_logits_of_windows_are_averaged(network: Seen, size: tuple[int, int], stride: int | None, batch: int | None) -> None:
    image = torch.randn(1, 3, *size)
    total, count = torch.zeros(1, 3, *size), torch.zeros(size)
    for top, left in product(starts(size[0], 8, stride or 6), starts(size[1], 8, stride or 6)):
        for y, x in product(range(min(8, size[0])), range(min(8, size[1]))):  # pixel by pixel
            logits = network(image[..., top : top + 8, left : left + 8]).logits
            total[..., top + y, left + x] += logits[..., y, x]
            count[top + y, left + x] += 1
    assert count.min() >= 1
    found = Inference(window=8, stride=stride, batch=batch)(network, image)
    assert found.shape == (3, *size)
    torch.testing.assert_close(found, probabilities(total / count))
    network.sizes.clear()
    Inference(window=8, stride=stride, batch=batch)(network, image)
    windows = len(starts(size[0], 8, stride or 6)) * len(starts(size[1], 8, stride or 6))
    assert network.sizes == [(min(8, size[0]), min(8, size[1]))] * windows  # each once, whatever the batch


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.6)])
@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("flip", [False, True])
def test_strips_are_those_of_the_whole(
    network: Seen, monkeypatch: pytest.MonkeyPatch, scales: tuple[float, ...], window: int | None, flip: bool
) -> None:
    image, inference = torch.randn(1, 3, 37, 22), Inference(window=window, scales=scales, flip=flip)
    whole = inference(network, image)
    monkeypatch.setattr("protoseg.engine.inference._STRIP", 3 * 22)
    strips = list(inference.strips(network, lambda top, bottom: image[..., top:bottom, :], (37, 22)))
    assert max(strip.shape[1] for strip in strips) == (37 if window is None and len(scales) + flip > 1 else 3)
    torch.testing.assert_close(torch.cat(strips, dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_no_more_rows_are_read_or_predicted_than_a_window_has(
    network: Seen, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Rows are asked for from above, and windows are seen when the first strip that needs them is due."""
    image, asked = torch.randn(1, 3, 100, 20), list[tuple[int, int]]()

    def rows(top: int, bottom: int) -> Tensor:
        asked.append((top, bottom))
        return image[..., top:bottom, :]

    monkeypatch.setattr("protoseg.engine.inference._STRIP", 2 * 20)
    strips = Inference(window=8, stride=6, scales=(scale,)).strips(network, rows, (100, 20))
    per_row = len(starts(round(20 * scale), 8, 6))
    for i, _ in enumerate(strips):
        last = min(2 * i + 2, 100) * scale  # the row of the scaled image where the strip ends
        assert len(network.sizes) <= per_row * (last // 6 + 2)
    assert asked == sorted(asked)
    assert max(bottom - top for top, bottom in asked) <= 8 / scale + 2


def test_logits_of_one_row_of_windows_are_held(network: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    image, held = torch.randn(1, 3, 100, 20), list[int]()
    see = _Windows._see

    def remember(self: _Windows, top: int) -> None:
        see(self, top)
        held.append(sum(block.shape[2] for block in self.blocks.values()))

    monkeypatch.setattr(_Windows, "_see", remember)
    monkeypatch.setattr("protoseg.engine.inference._STRIP", 5 * 20)
    Inference(window=12, stride=8)(network, image)
    assert held == [12] * len(starts(100, 12, 8))


def test_channels_lie_together_in_what_the_network_sees(network: Seen) -> None:
    layouts = []
    network.register_forward_pre_hook(
        lambda _, given: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    Inference(window=8, stride=6, flip=True)(network, torch.randn(1, 3, 12, 16))
    Inference()(network, torch.randn(1, 3, 12, 16))
    assert layouts == [True] * len(layouts)
    assert len(layouts) == 2 * 2 + 1


@pytest.mark.parametrize("classes", [2, 150])
def test_any_number_of_classes(classes: int) -> None:
    found = Inference(window=8, stride=5)(Seen(classes).eval(), torch.randn(1, 3, 9, 20))
    assert found.shape == (classes, 9, 20)
    torch.testing.assert_close(found.sum(0), torch.ones(9, 20))


def test_a_window_as_large_as_the_image_is_the_whole_image(network: Seen) -> None:
    image = torch.randn(1, 3, 7, 9)
    whole = Inference()(network, image)
    torch.testing.assert_close(whole, probabilities(network(image).logits))
    assert torch.equal(Inference(window=9)(network, image), whole)
    assert network.sizes == [(7, 9)] * 3


def test_mirror_images_and_sizes_are_averaged_as_probabilities(network: Seen) -> None:
    image = torch.randn(1, 3, 10, 14)
    views = []
    for scale, mirrored in product((0.5, 1.0, 1.5), (False, True)):
        seen = image.flip(-1) if mirrored else image
        seen = F.interpolate(seen, size=(round(10 * scale), round(14 * scale)), mode="bilinear", align_corners=False)
        logits = network(seen).logits
        back = F.interpolate(logits, size=(10, 14), mode="bilinear", align_corners=False)
        views.append(probabilities(back.flip(-1) if mirrored else back))
    found = Inference(scales=(0.5, 1.0, 1.5), flip=True)(network, image)
    torch.testing.assert_close(found, torch.stack(views).mean(0))
    assert network.sizes[-6:] == [(5, 7), (5, 7), (10, 14), (10, 14), (15, 21), (15, 21)]


def test_windows_slide_over_each_size(network: Seen) -> None:
    Inference(window=8, stride=6, scales=(0.5, 1.0))(network, torch.randn(1, 3, 12, 16))
    assert network.sizes == [(6, 8)] + [(8, 8)] * 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stride": 4}, "give a window too"),
        ({"window": 0}, "must be above 0"),
        ({"window": 8, "stride": 9}, "give 1 to 8"),
        ({"window": 8, "stride": 0}, "give 1 to 8"),
        ({"batch": 0}, "give 1 or more"),
        ({"window": 1.5}, "window is 1.5; give a whole number"),
        ({"window": 8, "stride": math.nan}, "stride is nan; give a whole number"),
        ({"scales": ()}, "numbers above 0"),
        ({"scales": (1.0, 0.0)}, "numbers above 0"),
        ({"scales": (1.0, math.nan)}, "at most 8"),
        ({"scales": (math.inf,)}, "at most 8"),
        ({"scales": (100.0,)}, "at most 8"),
        ({"scales": (1.0,) * 33}, "give 1 to 32"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Inference(**given)
