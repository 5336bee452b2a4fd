"""A network that somebody else describes, built for a state: no memory is made before the two are known to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

_THROWN_AWAY = 1 << 28
"""Elements that an encoder may build and leave: the classifier of timm's VGG, twice, is the most that is known."""


def build_described(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    """Build a network and load a state into it.

    Names and shapes are compared on the meta device first, which has no memory. A network whose code looks at values while it
    is built cannot be built there; of such a one no more is built than the state has room for.

    Args:
        build: makes the network, the same each time.
        state: names to tensors.

    Raises:
        RuntimeError: the state does not fit the network.
        ValueError: it cannot be built, or is far larger than the state.
    """
    try:
        with torch.device("meta"), _SchedulesHaveValues():
            shell = build()
    except (ValueError, RuntimeError):  # the build below says why, if it is not for want of values
        # smp builds timm's encoders twice, once to look at them.
        with _at_most(2 * sum(tensor.numel() for tensor in state.values()) + _THROWN_AWAY):
            network = build()
    else:
        shell.load_state_dict(state, assign=True)  # without a copy
        network = build()
    network.load_state_dict(state)
    return network


class _SchedulesHaveValues(TorchFunctionMode):
    """Rates of stochastic depth are read off a `linspace` while a transformer is built."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **({"device": "cpu"} if func is torch.linspace else {}) | (kwargs or {}))


@contextmanager
def _at_most(elements: int) -> Iterator[None]:
    """Stop the building of modules once they have had more elements of parameters than that."""
    left = elements

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise ValueError("it has far more parameters than there are in the file")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
