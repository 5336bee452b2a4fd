"""Gradient checkpointing (Chen et al., arXiv 1604.06174): less memory for activations, more time in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute_activations(encoder: nn.Module, *, name: str, statistics_learn: bool = True) -> None:
    """Keep of a training pass what stands between the encoder's stages, and compute the rest again in the backward pass.

    The loss stays what it is, gradients to rounding. Where no gradient is asked for nothing changes.

    Args:
        encoder: timm's own, or smp's wrapper of it (`tu-NAME`).
        name: of it, for messages.
        statistics_learn: whether its BatchNorm layers, if it has any, see the batches: they would see each of them twice.

    Raises:
        ValueError: it cannot; the message says why.
    """
    model = getattr(encoder, "model", encoder)
    turn_on: Callable[[bool], Any] | None = getattr(model, "set_grad_checkpointing", None)
    if turn_on is None:
        raise ValueError(
            f"--model.grad_checkpointing is for encoders of timm, which {name} is not; take tu-NAME or a DINO, or leave it out"
        )
    if statistics_learn and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        raise ValueError(
            f"--model.grad_checkpointing would show each batch to the BatchNorm layers of {name} twice; give --model.freeze_bn "
            "too, or take an encoder without such layers, as tu-convnext_tiny or a DINO"
        )
    turn_on(True)
