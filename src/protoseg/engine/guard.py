"""Steps whose loss or gradient is no number leave nothing behind. All of it happens on the device: nobody waits for it.

On a CPU there is nothing to wait for, and a step that is well goes on at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def poisoned(loss: Tensor) -> Tensor:
    """A loss whose gradient is no number where it is none itself: gradients are what all processes share."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


class Guard:
    """Take back the update of a step whose gradient holds anything but numbers: parameters, and statistics of BatchNorm.

    Costs the memory of the trained parameters once more. Optimizers see a gradient of zero in such a step.

    Args:
        networks: that are trained.
        parameters: all that the optimizer moves, of the networks and beside them; those of the networks when left out.

    Attributes:
        bad: scalar bool, whether the last step was such a step; the same on all processes.
        in_a_row: scalar int64, how many steps up to the last one were.
    """

    def __init__(self, networks: Sequence[nn.Module], parameters: Iterable[nn.Parameter] | None = None) -> None:
        self.networks = tuple(networks)
        if parameters is None:
            parameters = chain.from_iterable(network.parameters() for network in self.networks)
        self.parameters = tuple(parameters)
        self.bad = torch.tensor(False)
        self.in_a_row = torch.tensor(0)
        self._parameters: list[Tensor] = []
        self._buffers: list[Tensor] = []

    @torch.no_grad()
    def before_forward(self) -> None:
        """Remember what a forward pass in training writes."""
        self._buffers = _copies([b for network in self.networks for b in network.buffers()], self._buffers)

    @torch.no_grad()
    def before_update(self) -> None:
        """Look at the gradients, and remember what they are going to change."""
        trained = [p for p in self.parameters if p.requires_grad]
        gradients = [p.grad for p in trained if p.grad is not None]
        # Nor is one of any use whose length is no number any more.
        self.bad = ~torch.isfinite(get_total_norm(gradients))
        self.in_a_row = torch.where(self.bad, self.in_a_row.to(self.bad.device) + 1, 0)
        if not self._is_well():
            for gradient in gradients:
                gradient.masked_fill_(self.bad, 0)
        self._parameters = _copies(trained, self._parameters)

    @torch.no_grad()
    def after_update(self) -> None:
        """Put back what was remembered, where the step was bad."""
        if self._is_well():
            return
        trained = [p for p in self.parameters if p.requires_grad]
        buffers = [b for network in self.networks for b in network.buffers()]
        for before, now in zip([*self._parameters, *self._buffers], [*trained, *buffers], strict=True):
            now.copy_(torch.where(self.bad, before, now))

    def _is_well(self) -> bool:
        """Whether the step is known to be well; on other devices than a CPU asking would make the host wait."""
        return self.bad.device.type == "cpu" and not self.bad


def voided(carry: Any, bad: Tensor) -> Any:
    """What `Method.after_step` gets of a batch: where the step was bad, zeros in place of all numbers, which change nothing."""
    if isinstance(carry, Tensor):
        return carry.masked_fill(bad, 0)
    if isinstance(carry, tuple | list):
        parts = [voided(part, bad) for part in carry]
        return type(carry)(*parts) if hasattr(carry, "_fields") else type(carry)(parts)
    return carry


def _copies(tensors: Sequence[Tensor], kept: list[Tensor]) -> list[Tensor]:
    """Copies, in the memory of earlier ones where there are some."""
    if not kept or kept[0].device != tensors[0].device:
        return [tensor.detach().clone() for tensor in tensors]
    torch._foreach_copy_(kept, [tensor.detach() for tensor in tensors])
    return kept
