"""Colour operations on a whole batch at once: on the input's device, for any number of channels.

Brightness, contrast, saturation, hue and greyscale are linear in the pixel, so each image's draw folds into one channel
matrix and one offset. That is an approximation of applying them one after the other with a clamp between (contrast is
about the mean of the original image), and many times faster.

B images · I channels · H W size
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision's and Pillow's greyscale
_FULL = 255  # levels above black: what "posterize" and "equalize" count in, whatever the images' type


def color_jitter(
    image: Tensor,
    uniform: Tensor,
    *,
    brightness: float = 0.5,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 0.25,
    probability: float = 0.8,
    gray_probability: float = 0.2,
    clamp: bool = True,
) -> Tensor:
    """Random brightness, contrast, saturation, hue and greyscale, drawn for each image.

    The ranges are those of UniMatch and its successors.

    Args:
        image: (B, I, H, W) float in [0, 1].
        uniform: (B, 6) numbers in [0, 1): jitter or not, four strengths, greyscale or not.
        brightness, contrast, saturation: the factor is uniform in [1 - s, 1 + s].
        hue: the rotation is uniform in [-hue, hue] of a full turn. Only for I = 3, there is no hue elsewhere.
        probability: chance of the four together.
        clamp: keep the result in [0, 1].
        gray_probability: chance that all channels become their (luma-weighted for I = 3) mean.

    Returns:
        (B, I, H, W) in [0, 1].
    """
    channels = image.shape[1]
    luma = _luma_rows(image, channels)
    eye = torch.eye(channels, dtype=image.dtype, device=image.device)
    uniform = uniform.to(image.dtype)
    jitter, gray = uniform[:, 0] < probability, uniform[:, 5] < gray_probability
    signed = (2 * uniform[:, 1:5] - 1) * jitter[:, None]  # (B, 4), zero changes nothing
    most = (brightness, contrast, saturation, hue)
    strength = torch.stack([signed[:, i] * most[i] for i in range(4)], dim=1)

    bright, contrasted, saturated = (1 + strength[:, :3]).unbind(1)  # (B,) each
    matrix = saturated[:, None, None] * eye + (1 - saturated)[:, None, None] * luma
    if channels == 3:
        matrix = _hue_rotation(strength[:, 3]) @ matrix
    matrix = torch.where(gray[:, None, None], luma @ matrix, matrix)
    matrix = (bright * contrasted)[:, None, None] * matrix

    # Contrast pulls towards the image's mean luma, the same number for every channel.
    mean = (image.mean(dim=(2, 3)) @ luma[0]) * bright  # (B,)
    offset = ((1 - contrasted) * mean)[:, None].expand(-1, channels)
    pixels = torch.baddbmm(offset[:, :, None], matrix, image.flatten(2))  # (B, I, H * W)
    return pixels.view_as(image).clamp(0, 1) if clamp else pixels.view_as(image)


def _luma_rows(image: Tensor, channels: int) -> Tensor:
    """(I, I) matrix each of whose rows averages the channels, with the weights of brightness for I = 3."""
    # Constants are filled in on the device: a tensor made from a list would be a copy that the host waits for.
    weights = _LUMA if channels == 3 else (1 / channels,) * channels
    return torch.stack([image.new_full((channels,), weight) for weight in weights], dim=1)


def _hue_rotation(turn: Tensor) -> Tensor:
    """Rotation of RGB about the grey axis. turn: (B,) in full turns -> (B, 3, 3)."""
    cos, sin = torch.cos(2 * math.pi * turn), torch.sin(2 * math.pi * turn)
    third, root = (1 - cos) / 3, sin * math.sqrt(1 / 3)
    same, ahead, behind = cos + third, third - root, third + root
    rows = [torch.stack(row, dim=-1) for row in ((same, ahead, behind), (behind, same, ahead), (ahead, behind, same))]
    return torch.stack(rows, dim=1)


def gaussian_blur(
    image: Tensor,
    uniform: Tensor,
    *,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float = 0.5,
) -> Tensor:
    """Blur each image with its own Gaussian, rows then columns.

    Args:
        image: (B, I, H, W) float.
        uniform: (B, 2) numbers in [0, 1): blur or not, strength.
        sigma: range of the standard deviation in pixels.
        probability: chance that an image is blurred.

    Returns:
        (B, I, H, W).
    """
    batch, channels, height, width = image.shape
    radius = min(math.ceil(3 * sigma[1]), height - 1, width - 1)  # reflection needs radius < size
    if radius < 1:
        return image
    offset = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    uniform = uniform.to(image.dtype)
    deviation = sigma[0] + uniform[:, 1] * (sigma[1] - sigma[0])
    kernel = torch.exp(-0.5 * (offset / deviation[:, None]) ** 2)  # (B, 2 r + 1)
    kernel = torch.where(uniform[:, :1] < probability, kernel, (offset == 0).to(kernel.dtype))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)  # (B * I, 2 r + 1)
    planes = image.reshape(1, batch * channels, height, width)  # one group for each plane
    planes = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=batch * channels)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=batch * channels)
    return planes.view_as(image)


def random_operations(image: Tensor, uniform: Tensor, *, most: int = 3, clamp: bool = True) -> Tensor:
    """One to `most` operations of random kind and strength, one after the other, drawn for each image.

    The intensity augmentation of AugSeg (Zhao et al., CVPR 2023, arXiv 2212.04976): a random number of operations, their
    strengths uniform in a continuous space, as its abstract says. `OPERATIONS` says where pool and ranges come from.

    Args:
        image: (B, I, H, W) float in [0, 1].
        uniform: (B, 1 + 2 * most) numbers in [0, 1): how many, then kind and strength of each. On the CPU, where it is
            decided what to run.
        most: operations on one image; 3 in the paper.
        clamp: keep the result in [0, 1].

    Returns:
        (B, I, H, W).
    """
    operations = list(OPERATIONS.values())
    result = []
    for pixels, draw in zip(image, uniform.tolist(), strict=True):
        for i in range(1 + int(draw[0] * most)):
            kind, strength = draw[1 + 2 * i : 3 + 2 * i]
            pixels = operations[int(kind * len(operations))](pixels, strength)
            pixels = pixels.clamp(0, 1) if clamp else pixels
        result.append(pixels)
    return torch.stack(result) if result else image


def _autocontrast(image: Tensor, strength: float) -> Tensor:
    """The darkest and the brightest pixel of each channel become 0 and 1."""
    low, high = image.amin(dim=(1, 2), keepdim=True), image.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (image - low) / torch.where(high > low, high - low, 1.0), image)


def _equalize(image: Tensor, strength: float) -> Tensor:
    """Each channel's levels become equally frequent."""
    level = (image.clamp(0, 1) * _FULL).round().long().flatten(1)  # (I, H * W)
    count = level.new_zeros(len(level), _FULL + 1).scatter_add_(1, level, torch.ones_like(level))
    up_to = count.cumsum(dim=1)
    darkest = up_to.gather(1, level.amin(dim=1, keepdim=True))  # (I, 1) pixels of the lowest level
    others = level.shape[1] - darkest
    flat = ((up_to - darkest) / others.clamp(min=1)).to(image.dtype).gather(1, level).view_as(image)
    return torch.where(others[:, :, None] > 0, flat, image)


def _blur(image: Tensor, strength: float) -> Tensor:
    return gaussian_blur(image[None], image.new_full((1, 2), strength), sigma=(0.1, 2.0), probability=1.0)[0]


def _contrast(image: Tensor, strength: float) -> Tensor:
    return _towards(image, _gray(image).mean(), strength)


def _sharpness(image: Tensor, strength: float) -> Tensor:
    """Towards Pillow's smooth filter, whose middle weighs 5 of 13."""
    around = F.avg_pool2d(F.pad(image[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
    return _towards(image, (9 * around + 4 * image) / 13, strength)


def _color(image: Tensor, strength: float) -> Tensor:
    return _towards(image, _gray(image), strength)


def _brightness(image: Tensor, strength: float) -> Tensor:
    return _towards(image, image.new_zeros(()), strength)


def _hue(image: Tensor, strength: float) -> Tensor:
    """Up to half a turn; there is no hue but in three channels."""
    if len(image) != 3:
        return image
    rotation = _hue_rotation(image.new_full((1,), 0.5 * strength))[0]
    return (rotation @ image.flatten(1)).view_as(image)


def _posterize(image: Tensor, strength: float) -> Tensor:
    """Keep the highest 4 to 8 of 8 bits."""
    step = 1 << (4 - int(5 * strength))
    return (image * _FULL / step + 1e-4).floor() * (step / _FULL)  # 1e-4: k / 255 * 255 may fall short of k


def _solarize(image: Tensor, strength: float) -> Tensor:
    """Invert what is at least as bright as a threshold between 1 and 256 of 255."""
    return torch.where(image >= (1 + _FULL * strength) / _FULL, 1 - image, image)


def _gray(image: Tensor) -> Tensor:
    return (_luma_rows(image, len(image)) @ image.flatten(1)).view_as(image)


def _towards(image: Tensor, other: Tensor, strength: float) -> Tensor:
    """Keep a share between 0.05 and 0.95 of the image."""
    kept = 0.05 + 0.9 * strength
    return kept * image + (1 - kept) * other


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda image, strength: image,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "blur": _blur,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "color": _color,
    "brightness": _brightness,
    "hue": _hue,
    "posterize": _posterize,
    "solarize": _solarize,
}
"""Each takes an image (I, H, W) and a strength in [0, 1), which it maps to its own range.

Pool and ranges are AugSeg's as others restate them: the paper's own table was not at hand, and its code has no licence to read
it by. Posterize's 4 to 8 bits, and a threshold of solarize up to 256, are also those of AutoAugment (Cubuk et al., CVPR 2019,
arXiv 1805.09501); the blur's deviation of 0.1 to 2 pixels is UniMatch's (arXiv 2208.09910).
"""
