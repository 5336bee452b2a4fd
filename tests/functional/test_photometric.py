"""Each colour operation against a slow one from its definition, then all together."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.photometric import OPERATIONS, color_jitter, gaussian_blur, random_operations

CHANNELS = [1, 3, 4, 7]
NOTHING = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "gray_probability": 0.0, "probability": 1.0}
BRIGHTNESS, CONTRAST, SATURATION, HUE = 1, 2, 3, 4  # columns of the draw


def images(channels: int, *, batch: int = 3, low: float = 0.3, high: float = 0.6) -> Tensor:
    """Away from 0 and 1, so that nothing is clipped unless a test wants it."""
    unit = torch.rand(batch, channels, 9, 11, generator=torch.Generator().manual_seed(channels))
    return low + (high - low) * unit


def draw(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(batch, 6, generator=torch.Generator().manual_seed(seed))


def luma(pixel: list[float]) -> float:
    weights = [0.299, 0.587, 0.114] if len(pixel) == 3 else [1 / len(pixel)] * len(pixel)
    return sum(w * p for w, p in zip(weights, pixel, strict=True))


def strength(uniform: Tensor, spread: float) -> float:
    return (2 * float(uniform) - 1) * spread


def saturate(pixel: list[float], factor: float) -> list[float]:
    return [factor * p + (1 - factor) * luma(pixel) for p in pixel]


def rotate(pixel: list[float], turn: float) -> list[float]:
    """Rodrigues' formula about the grey axis."""
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    r, g, b = pixel
    k = 1 / math.sqrt(3)
    cross = [k * (b - g), k * (r - b), k * (g - r)]
    along = k * (r + g + b)
    return [p * cos + c * sin + k * along * (1 - cos) for p, c in zip(pixel, cross, strict=True)]


def slow_jitter(image: Tensor, uniform: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Pixel by pixel, one operation after the other; clamped once, contrast about the mean of the brightened original."""
    result = torch.empty_like(image)
    for i, (x, u) in enumerate(zip(image, uniform, strict=True)):
        bright = 1 + strength(u[BRIGHTNESS], brightness)
        contrasted = 1 + strength(u[CONTRAST], contrast)
        saturated = 1 + strength(u[SATURATION], saturation)
        pixels = x.flatten(1).T.tolist()
        mean = bright * sum(luma(p) for p in pixels) / len(pixels)
        out = []
        for pixel in pixels:
            value = saturate(pixel, saturated)
            if len(value) == 3:
                value = rotate(value, strength(u[HUE], hue))
            out.append([min(1.0, max(0.0, contrasted * bright * v + (1 - contrasted) * mean)) for v in value])
        result[i] = torch.tensor(out).T.view_as(x)
    return result


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation", "hue"])
def test_each_operation_alone(operation: str, channels: int) -> None:
    image, uniform = images(channels), draw()
    spread = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.25}[operation]
    expected = slow_jitter(image, uniform, **{k: v for k, v in (NOTHING | {operation: spread}).items() if "prob" not in k})
    result = color_jitter(image, uniform, **(NOTHING | {operation: spread}))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    if channels > 1 and not (operation == "hue" and channels != 3):
        assert not torch.allclose(result, image, atol=1e-3)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("wide", [False, True])  # True: values are clipped
def test_all_operations_together(channels: int, wide: bool) -> None:
    image = images(channels, low=0.0, high=1.0) if wide else images(channels)
    uniform = draw(seed=1)
    result = color_jitter(image, uniform, probability=1.0, gray_probability=0.0)
    torch.testing.assert_close(result, slow_jitter(image, uniform, 0.5, 0.5, 0.5, 0.25), atol=1e-5, rtol=1e-5)


def test_draws_span_the_whole_range() -> None:
    image = torch.full((2, 3, 2, 2), 0.4)
    uniform = torch.tensor([[0.0] * 6, [1.0] * 6])
    uniform[:, 0] = 0
    result = color_jitter(image, uniform, **(NOTHING | {"brightness": 0.5}))
    assert result[0].mean().item() == pytest.approx(0.2)
    assert result[1].mean().item() == pytest.approx(0.6)


@pytest.mark.parametrize("channels", CHANNELS)
def test_zero_probabilities_change_nothing(channels: int) -> None:
    image = images(channels, low=0.0, high=1.0)
    torch.testing.assert_close(color_jitter(image, draw(), probability=0.0, gray_probability=0.0), image, atol=1e-6, rtol=0)
    assert torch.equal(gaussian_blur(image, draw()[:, :2], probability=0.0), image)


@pytest.mark.parametrize(("probability", "column"), [("probability", 0), ("gray_probability", 5)])
def test_each_image_has_its_own_coin(probability: str, column: int) -> None:
    image, uniform = images(3, batch=4), draw(4)
    uniform[:, column] = torch.tensor([0.1, 0.29, 0.31, 0.9])
    chances = {"probability": 0.0, "gray_probability": 0.0} | {probability: 0.3}
    changed = (color_jitter(image, uniform, **chances) - image).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.tolist() == [True, True, False, False]


@pytest.mark.parametrize("channels", CHANNELS)
def test_greyscale_is_the_luma_in_every_channel(channels: int) -> None:
    image = images(channels)
    result = color_jitter(image, draw(), probability=0.0, gray_probability=1.0)
    for x, y in zip(image, result, strict=True):
        expected = torch.tensor([luma(pixel) for pixel in x.flatten(1).T.tolist()]).view(x.shape[1:])
        for channel in y:
            torch.testing.assert_close(channel, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("operation", ["saturation", "hue"])
def test_grey_images_stay_as_they_are(operation: str, channels: int) -> None:
    image = images(1).expand(-1, channels, -1, -1)
    torch.testing.assert_close(color_jitter(image, draw(), **(NOTHING | {operation: 0.5})), image, atol=1e-6, rtol=0)


def test_full_turn_of_hue_is_no_change() -> None:
    uniform = draw()
    uniform[:, HUE] = torch.tensor([0.0, 0.5, 1.0])  # -1, 0 and 1 turn
    torch.testing.assert_close(color_jitter(images(3), uniform, **(NOTHING | {"hue": 1.0})), images(3), atol=1e-5, rtol=0)


def test_a_third_of_a_turn_moves_red_to_green() -> None:
    red = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1)
    uniform = torch.full((1, 6), 0.0)
    uniform[0, HUE] = 1.0
    result = color_jitter(red, uniform, **(NOTHING | {"hue": 1 / 3}))
    torch.testing.assert_close(result.flatten(), torch.tensor([0.1, 0.9, 0.2]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", CHANNELS)
def test_results_stay_in_range(channels: int) -> None:
    image = (torch.rand(32, channels, 8, 8) > 0.5).float()
    result = color_jitter(image, draw(32), probability=1.0, brightness=1.0, contrast=1.0, saturation=1.0)
    assert result.min() >= 0
    assert result.max() <= 1
    assert result.shape == image.shape


@pytest.mark.parametrize("channels", CHANNELS)
def test_jitter_does_not_see_the_neighbours(channels: int) -> None:
    image, uniform = images(channels, batch=5), draw(5)
    batch = color_jitter(image, uniform)
    for i in range(5):
        torch.testing.assert_close(color_jitter(image[i : i + 1], uniform[i : i + 1])[0], batch[i], atol=1e-6, rtol=0)


def slow_blur(image: Tensor, sigma: float, largest: float) -> Tensor:
    """(I, H, W): a dense normalised Gaussian out to three of the largest deviations, as far as the image allows."""
    radius = min(math.ceil(3 * largest), image.shape[1] - 1, image.shape[2] - 1)
    offsets = range(-radius, radius + 1)
    kernel = torch.tensor([[math.exp(-(y * y + x * x) / (2 * sigma**2)) for x in offsets] for y in offsets])
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")[0]
    return torch.cat([F.conv2d(plane[None, None], kernel)[0] for plane in padded])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", [(16, 13), (4, 20), (40, 2)])
def test_blur_is_a_dense_gaussian_of_each_image(channels: int, size: tuple[int, int]) -> None:
    gen = torch.Generator().manual_seed(1)
    image = torch.rand(4, channels, *size, generator=gen)
    uniform = torch.tensor([[0.1, 0.0], [0.2, 0.5], [0.49, 0.999], [0.51, 0.5]])
    result = gaussian_blur(image, uniform, sigma=(0.1, 2.0), probability=0.5)
    for i in range(3):
        expected = slow_blur(image[i], 0.1 + 1.9 * float(uniform[i, 1]), 2.0)
        torch.testing.assert_close(result[i], expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(result[3], image[3]), "not drawn: exactly as it was"
    assert not torch.allclose(result[2], image[2], atol=0.01)


def test_blur_does_not_see_the_neighbours() -> None:
    image, uniform = images(3, batch=4), draw(4)[:, :2]
    batch = gaussian_blur(image, uniform)
    for i in range(4):
        alone = gaussian_blur(image[i : i + 1], uniform[i : i + 1])[0]
        torch.testing.assert_close(alone, batch[i], atol=1e-6, rtol=0)


def test_blur_keeps_a_constant_image() -> None:
    image = torch.full((2, 3, 20, 20), 0.7)
    torch.testing.assert_close(gaussian_blur(image, draw(2)[:, :2], probability=1.0), image, atol=1e-6, rtol=0)


def test_an_image_of_one_row_cannot_be_blurred() -> None:
    image = torch.rand(1, 3, 1, 20)
    assert torch.equal(gaussian_blur(image, torch.zeros(1, 2), probability=1.0), image)


def slow_operation(name: str, image: Tensor, strength: float) -> Tensor:
    """One operation pixel by pixel, as AugSeg's table defines it. image: (I, H, W) of whole levels of 255."""
    channels, height, width = image.shape
    pixels = image.flatten(1).T.tolist()
    kept = 0.05 + 0.9 * strength
    result = image.clone()
    mean = sum(luma(p) for p in pixels) / len(pixels)
    for i, pixel in enumerate(pixels):
        y, x = divmod(i, width)
        for c, value in enumerate(pixel):
            others = sorted(p[c] for p in pixels)
            if name == "autocontrast" and others[-1] > others[0]:
                value = (value - others[0]) / (others[-1] - others[0])
            if name == "equalize" and others[-1] > others[0]:
                darkest = others.count(others[0])
                value = (sum(o <= value for o in others) - darkest) / (len(others) - darkest)
            if name == "sharpness":
                rows = [min(max(y + d, 0), height - 1) for d in (-1, 0, 1)]
                columns = [min(max(x + d, 0), width - 1) for d in (-1, 0, 1)]
                smooth = (sum(float(image[c, r, k]) for r in rows for k in columns) + 4 * value) / 13
                value = kept * value + (1 - kept) * smooth
            if name == "contrast":
                value = kept * value + (1 - kept) * mean
            if name == "color":
                value = kept * value + (1 - kept) * luma(pixel)
            if name == "brightness":
                value = kept * value
            if name == "hue" and channels == 3:
                value = rotate(pixel, 0.5 * strength)[c]
            if name == "posterize":
                bits = 4 + int(5 * strength)
                value = (round(255 * value) >> (8 - bits) << (8 - bits)) / 255
            if name == "solarize" and round(255 * value) >= 1 + 255 * strength:
                value = 1 - value
            result[c, y, x] = min(1.0, max(0.0, value))
    return result


def whole_levels(channels: int) -> Tensor:
    return (images(channels, low=0.0, high=1.0) * 255).round() / 255


def one_operation(name: str, strength: float, batch: int) -> Tensor:
    """Draws that ask for it alone."""
    kind = (list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS)
    return torch.tensor([0.0, kind, strength, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64).expand(batch, -1)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"blur"}))
def test_each_random_operation_alone(name: str, channels: int) -> None:
    image = whole_levels(channels)
    for strength in (0.99, 0.37, 0.0):
        result = random_operations(image, one_operation(name, strength, len(image)))
        expected = torch.stack([slow_operation(name, x, strength) for x in image])
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)
    assert name in {"identity", "hue", "color"} or not torch.allclose(result, image, atol=1e-3)


def test_the_random_blur_is_the_gaussian_one() -> None:
    image = whole_levels(3)
    expected = gaussian_blur(image, torch.full((3, 2), 0.4), probability=1.0)
    torch.testing.assert_close(random_operations(image, one_operation("blur", 0.4, 3)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_random_operation_leaves_a_flat_image_finite_and_in_range(name: str) -> None:
    for level in (0.0, 0.4, 1.0):
        result = random_operations(torch.full((1, 3, 5, 6), level), one_operation(name, 0.3, 1))
        assert result.isfinite().all()
        assert 0 <= result.min() <= result.max() <= 1


def test_random_operations_follow_one_another() -> None:
    image, names = whole_levels(3)[:1], ["posterize", "solarize", "brightness"]
    kinds = [(list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS) for name in names]
    for count in (1, 2, 3):
        draw = torch.tensor([[(count - 0.5) / 3, kinds[0], 0.1, kinds[1], 0.5, kinds[2], 0.7]])
        expected = image
        for name, strength in list(zip(names, (0.1, 0.5, 0.7), strict=True))[:count]:
            expected = random_operations(expected, one_operation(name, strength, 1))
        torch.testing.assert_close(random_operations(image, draw), expected)


def test_random_operations_beyond_the_unit_range_stay_there_unless_clamped() -> None:
    image = 3 * whole_levels(2) - 1
    draw = one_operation("brightness", 0.9, len(image))
    torch.testing.assert_close(random_operations(image, draw, clamp=False), (0.05 + 0.9 * 0.9) * image)
    assert random_operations(image, draw).min() == 0
