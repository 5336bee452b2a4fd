"""What networks with BatchNorm share: frozen statistics, and words for a batch that is too small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze_statistics(module: nn.Module) -> None:
    """Put all BatchNorm layers (synchronised ones too) into eval mode: running statistics are used and stay as they are."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


@contextmanager
def explain_batch_of_one(name: str) -> Iterator[None]:
    """Say what to do where BatchNorm meets one value per channel in training.

    Args:
        name: of the network.

    Raises:
        ValueError: instead of torch's own.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{name} pools the image to one pixel, where BatchNorm cannot train on a batch of one: use a batch of at least 2, "
            "or an architecture and encoder without such pooling"
        ) from error
