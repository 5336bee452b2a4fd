"""Random numbers that belong to an image, not to a process.

Every draw in protoseg is a function of (run seed, step, position in the global batch). No generator lives longer than one
call, so a resumed run, another number of workers or another number of processes sees the same numbers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def fold(*keys: int | str) -> int:
    """Fold keys into one 63-bit seed; the same keys give the same seed on every machine.

    Args:
        keys: any integers and strings. Their order and number matter.

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by `fold(*keys)`."""
    return torch.Generator().manual_seed(fold(*keys))


def uniform(seed: Tensor, stream: str, *shape: int, device: torch.device | None = None) -> Tensor:
    """Draw uniform numbers for each image from the image's own seed.

    Args:
        seed: (B,) int64 on the CPU, one seed for each image.
        stream: what the numbers are for; two streams of one image are independent.
        shape: shape of the draw for one image.
        device: where the result goes (drawn on the CPU, so that every device sees the same numbers).

    Returns:
        (B, *shape) float32 in [0, 1).
    """
    draws = [torch.rand(shape, generator=generator(s, stream)) for s in seed.tolist()]
    result = torch.stack(draws) if draws else torch.empty(0, *shape)
    return result if device is None else to_device(result, device)


def to_device(drawn: Tensor, device: torch.device) -> Tensor:
    """Send what was drawn on the CPU, without a wait."""
    return drawn if device.type == "cpu" else drawn.pin_memory().to(device, non_blocking=True)
