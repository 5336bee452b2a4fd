"""From uint8 crops to the batches that methods see, on the training device: normalisation, strong views, CutMix boxes.

B images · I channels · H W crop · S strong views
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from protoseg.functional.mixing import sample_boxes, sample_sized_boxes
from protoseg.functional.photometric import color_jitter, gaussian_blur, random_operations
from protoseg.functional.random import generator, uniform
from protoseg.types import LabeledBatch, UnlabeledBatch

_MOST_OPERATIONS = 3  # AugSeg, arXiv 2212.04976


class BatchViews(nn.Module):
    """Make LabeledBatch and UnlabeledBatch out of what the loaders bring.

    Args:
        mean, std: of the channels, in units of the full scale (so 0.485, not 123.7).
        clamp: colour changes stay in [0, 1], as in 8-bit images. Without, they work in the range of three standard deviations
            about the mean, which is where the pixels of other images are.
        num_strong: S, strong views of each unlabelled image.
        color: change colours and blur in the strong views; the paper's only strong view is CutMix.
        color_style: "jitter", all at once as in UniMatch, or "random": one to three operations, as in AugSeg.
        color_labeled: do the same to labelled crops.
        cutmix_probability: chance of mixing.
        cutmix_area: range of the boxes' share of the crop, as UniMatch draws them; the paper's half of it when left out.
        cutmix_per: one coin for the whole batch (the paper's code base) or one for each image.
        seed: of the run, for the coin of a batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        clamp: bool = True,
        num_strong: int = 1,
        color: bool = True,
        color_style: Literal["jitter", "random"] = "jitter",
        color_labeled: bool = False,
        cutmix_probability: float = 0.5,
        cutmix_area: tuple[float, float] | None = None,
        cutmix_per: Literal["batch", "image"] = "batch",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one number for each channel, std above 0; got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.clamp = clamp
        self.num_strong, self.color, self.color_labeled = num_strong, color, color_labeled
        self.color_style: Literal["jitter", "random"] = color_style
        self.cutmix_area = cutmix_area
        self.cutmix_probability, self.cutmix_per, self.seed = cutmix_probability, cutmix_per, seed

    def normalize(self, image: Tensor) -> Tensor:
        """(B, I, H, W) in units of the full scale -> normalised."""
        return (image - self.mean) / self.std

    def labeled(self, raw: dict[str, Any]) -> LabeledBatch:
        """Normalise labelled crops. raw: image (B, I, H, W) uint8 or float, mask (B, H, W) uint8, seed list of B."""
        seed = torch.tensor(raw["seed"])
        image = _unit(raw["image"])
        if self.color_labeled:
            image = self._strong(image, seed, "labeled color")
        return LabeledBatch(self.normalize(image), raw["mask"].long(), seed)

    def unlabeled(self, raw: dict[str, Any], *, step: int) -> UnlabeledBatch:
        """Make the weak and strong views. raw: image (B, I, H, W) uint8 or float, valid (B, H, W) bool, seed list of B."""
        seed = torch.tensor(raw["seed"])
        image = _unit(raw["image"])
        weak = self.normalize(image)
        strong, box = [], []
        for view in range(self.num_strong):
            strong.append(self.normalize(self._strong(image, seed, f"color {view}")) if self.color else weak)
            box.append(self._boxes(seed, image, step, view))
        return UnlabeledBatch(weak, torch.stack(strong), raw["valid"], torch.stack(box), seed)

    def _strong(self, image: Tensor, seed: Tensor, stream: str) -> Tensor:
        if self.color_style == "random":
            draw = uniform(seed, f"{stream} operations", 1 + 2 * _MOST_OPERATIONS)  # stays on the CPU
            low, extent = (0.0, 1.0) if self.clamp else (self.mean - 3 * self.std, 6 * self.std)
            unit = (image - low) / extent
            return random_operations(unit, draw, most=_MOST_OPERATIONS, clamp=self.clamp) * extent + low
        draw = uniform(seed, stream, 8, device=image.device)
        if self.clamp:
            return gaussian_blur(color_jitter(image, draw[:, :6]), draw[:, 6:])
        low, extent = self.mean - 3 * self.std, 6 * self.std
        jittered = color_jitter((image - low) / extent, draw[:, :6], clamp=False)
        return gaussian_blur(jittered * extent + low, draw[:, 6:])

    def _boxes(self, seed: Tensor, image: Tensor, step: int, view: int) -> Tensor:
        draw = uniform(seed, f"cutmix {view}", 4, device=image.device)  # (B, 4)
        size = (image.shape[-2], image.shape[-1])
        if self.cutmix_area is None:
            boxes = sample_boxes(draw[:, :3], size)
        else:
            shape = uniform(seed, f"cutmix shape {view}", 1, device=image.device)
            boxes = sample_sized_boxes(torch.cat([shape, draw[:, :3]], dim=1), size, area=self.cutmix_area)
        if self.cutmix_per == "image":
            mixed = draw[:, 3] < self.cutmix_probability
            return boxes & mixed[:, None, None]
        coin = float(torch.rand((), generator=generator(self.seed, "cutmix", step, view)))
        return boxes if coin < self.cutmix_probability else torch.zeros_like(boxes)


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image
