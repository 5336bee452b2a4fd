"""The exponential-moving-average teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from protoseg.types import SegOutput


class Teacher(nn.Module):
    """A slow copy of the student: no gradient, always in eval mode, moved only by `update`.

    torch's `AveragedModel` does the same arithmetic, but reads its step counter back from the device at every update;
    here the momentum is a plain number that the caller computes (docs/decisions/0003-own-ema.md).

    Args:
        student: the network to follow. Its current weights are the teacher's start.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode whatever the surrounding module does: dropout off, BatchNorm on its running statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> SegOutput:
        return self.network(image)  # type: ignore[no-any-return]

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """Move towards the student: t <- momentum * t + (1 - momentum) * s.

        Float buffers (BatchNorm statistics) move like parameters, integer buffers are copied.

        Args:
            student: a module of the same structure.
            momentum: in [0, 1]; 0 copies the student.
        """
        pairs = list(zip(_tensors(self.network), _tensors(student), strict=True))
        floats = [(t, s) for t, s in pairs if t.is_floating_point()]
        if floats:
            ours, theirs = (list(side) for side in zip(*floats, strict=True))
            if momentum == 0:
                torch._foreach_copy_(ours, theirs)  # exactly, where a lerp would round
            else:
                torch._foreach_lerp_(ours, theirs, 1 - momentum)
        for t, s in pairs:
            if not t.is_floating_point():
                t.copy_(s)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
