"""What the parts hand to each other.

B images · B_l labelled · B_u unlabelled · C classes · I image channels · D feature channels · S strong views
H W crop · h w feature map · K prototypes per class · P points per image
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

IGNORE_INDEX = 255
"""The mask value that means "not labelled": no loss, no prototype and no metric ever sees such a pixel."""


class LabeledBatch(NamedTuple):
    """Labelled crops, normalised, on the training device."""

    image: Tensor  # (B_l, I, H, W) float
    mask: Tensor  # (B_l, H, W) int64, IGNORE_INDEX where nothing is known (padding included)
    seed: Tensor  # (B_l,) int64 on the CPU: every random draw for an image comes from its own seed


class UnlabeledBatch(NamedTuple):
    """Unlabelled crops: one geometry per image, a weak view for the teacher and S strong views for the student."""

    weak: Tensor  # (B_u, I, H, W) float
    strong: Tensor  # (S, B_u, I, H, W) float
    valid: Tensor  # (B_u, H, W) bool, False on padding
    box: Tensor  # (S, B_u, H, W) bool, True where CutMix pastes the partner image
    seed: Tensor  # (B_u,) int64 on the CPU


LabeledPass = Callable[[], Iterator[LabeledBatch]]
"""Starts one pass over crops of the labelled images, the same ones whenever it is called at the same step."""


class SegOutput(NamedTuple):
    """What a segmentation network returns.

    `features` covers an input of `covers` pixels, which is larger than the image where the network needed padding (always
    at the bottom and right, so that pixel (0, 0) is the same in both).
    """

    logits: Tensor  # (B, C, H, W), at the size of the image
    features: Tensor  # (B, D, h, w), what the linear classifier saw, or a projection of it
    covers: tuple[int, int]  # (H', W') in pixels: the extent of `features`
    align_corners: bool  # how the network up-samples its own logits
    auxiliary: Tensor | None = None  # (B, C, H, W) logits of a second head for deep supervision, training only

    def split(self, sizes: Sequence[int]) -> list[SegOutput]:
        """Part along the batch, as `torch.split`."""
        auxiliary = [None] * len(sizes) if self.auxiliary is None else torch.split(self.auxiliary, list(sizes))
        parts = zip(torch.split(self.logits, list(sizes)), torch.split(self.features, list(sizes)), auxiliary, strict=True)
        return [self._replace(logits=logits, features=features, auxiliary=aux) for logits, features, aux in parts]


Perturb = Callable[[list[Tensor]], list[Tensor]]
"""Changes an encoder's feature maps, coarse ones last, before the decoder sees them; it may also multiply the batch."""


class SegmentationNetwork(Protocol):
    """What a method asks of a network: `Segmenter`, `DinoDPT`, `DeepLabV3Plus`, `SmallUNet`, or `Projected` around one."""

    num_classes: int
    in_channels: int
    feature_channels: int
    stride: float

    def __call__(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput: ...
    def encoder_parameters(self) -> Iterator[nn.Parameter]: ...


class PseudoLabel(NamedTuple):
    """What the teacher believes about unlabelled pixels."""

    label: Tensor  # (B_u, H, W) int64; IGNORE_INDEX where a rule other than the threshold dropped the pixel
    confidence: Tensor  # (B_u, H, W) float in [0, 1]
    valid: Tensor  # (B_u, H, W) bool, False on padding


class Vitals(NamedTuple):
    """What the health of a run is read from: counts of one batch, detached, on the device; of a part of its pixels."""

    pseudo: Tensor | None = None  # (C,) int64: pseudo-labels of each class, before mixing; None while there are none
    agreeing: Tensor | None = None  # scalar: pixels of the first taught view that the student calls what its target says
    compared: Tensor | None = None  # scalar: of so many
    prototype_use: Tensor | None = None  # (C, K) int64: pixels that chose each prototype of their class


@dataclass
class StepOutput:
    """What a method returns for one batch.

    Attributes:
        loss: scalar with a graph: what the optimizer minimises.
        terms: the named, unweighted parts of the loss, detached scalars on the device.
        monitors: further detached scalars worth a look (share of confident pixels, ...).
        carry: what `after_step` needs from this forward pass, detached. Explicit, so that nothing hidden links the two.
        vitals: what the health of the run is read from.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    monitors: dict[str, Tensor] = field(default_factory=dict)
    carry: Any = None
    vitals: Vitals | None = None
