"""Reductions over processes that do nothing when there is only one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum_(*tensors: Tensor) -> None:
    """Sum each tensor over all processes, in place."""
    if is_distributed():
        for tensor in tensors:
            dist.all_reduce(tensor)


def all_reduce_max_(*tensors: Tensor) -> None:
    """The largest of all processes for each element, in place."""
    if is_distributed():
        for tensor in tensors:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of all processes for each element, without a gradient; the tensor itself where there is one process."""
    if not is_distributed():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def broadcast_(*tensors: Tensor) -> None:
    """Overwrite each tensor with the first process's, in place."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def all_gather_rows(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one below the other in the order of the processes. All have the same shape."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def average_buffers_(module: nn.Module) -> None:
    """Average the float buffers of a module (BatchNorm's running statistics) over all processes, in place.

    Each process normalises with what it saw; without this the copies drift apart, and the teacher with them.
    """
    if not is_distributed():
        return
    buffers = _float_tensors(module.buffers())
    if not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])  # one message instead of hundreds
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, part in zip(buffers, torch.split(flat, [buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def _float_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.is_floating_point()]
