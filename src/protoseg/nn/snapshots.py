"""Earlier states of a network, whose randomly weighted answers label for it (PrevMatch, Shin et al., arXiv 2405.20610)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from protoseg.nn.teacher import Teacher


class Snapshots(nn.Module):
    """The last few of the states that were taken: no gradient, always in eval mode.

    Args:
        network: the network. Its current weights are what every place holds until it is taken.
        size: places; 8 in the authors' settings for Pascal VOC and Cityscapes, 5 for COCO and ADE20K. Each is a copy of the
            network on the device and in the checkpoint.

    Raises:
        ValueError: `size` is below 1.
    """

    def __init__(self, network: nn.Module, *, size: int = 8) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.kept = nn.ModuleList(Teacher(network) for _ in range(size))

    def __len__(self) -> int:
        return len(self.kept)

    @torch.no_grad()
    def forward(self, image: Tensor, share: Mapping[int, float]) -> Tensor:
        """Logits (B, C, H, W): the sum of those of some places, each times its share."""
        return torch.stack([weight * self.kept[place](image).logits for place, weight in share.items()]).sum(dim=0)

    def take(self, number: int, network: nn.Module) -> None:
        """Keep a state of the network as the `number`-th, from 0 on; it overwrites the oldest."""
        kept = self.kept[number % len(self.kept)]
        assert isinstance(kept, Teacher)
        kept.update(network, 0.0)


def draw_ensemble(held: int, *, most: int, gen: torch.Generator) -> dict[int, float]:
    """Which snapshots answer together, and with what share: one to `most` of them, any shares that add up to 1 alike likely.

    Args:
        held: snapshots to choose from, at least 1.
        most: of them at once.
        gen: on the CPU, where it is decided what to run.

    Returns:
        Place of the snapshot -> share, by a Dirichlet distribution with all parameters 1.
    """
    count = int(torch.randint(1, most + 1, (), generator=gen))
    chosen = torch.randperm(held, generator=gen)[:count].tolist()
    raw = torch.empty(len(chosen), dtype=torch.float64).exponential_(generator=gen)
    return dict(zip(chosen, (raw / raw.sum()).tolist(), strict=True))
