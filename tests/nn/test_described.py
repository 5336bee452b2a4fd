"""A network that a file describes is compared with the file's tensors before memory is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from protoseg.nn import described
from protoseg.nn.described import build_described
from protoseg.nn.small_unet import SmallUNet


class LooksAtValues(nn.Module):
    """Cannot be built on the meta device."""

    def __init__(self, width: int = 3, depth: int = 4) -> None:
        super().__init__()
        assert torch.ones(2).sum().item() == 2
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


class ReadsASchedule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        self.layer = nn.Linear(3, 3)
        self.register_buffer("table", torch.arange(3.0), persistent=False)


@pytest.mark.parametrize("build", [lambda: SmallUNet(2, width=2), LooksAtValues, ReadsASchedule])
def test_the_state_arrives(build: Callable[[], nn.Module]) -> None:
    state = {name: value.clone() for name, value in build().state_dict().items()}
    network = build_described(build, state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} == {"cpu"}
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert not torch.equal(next(network.parameters()), next(iter(state.values())))  # memory of its own


def test_a_state_that_does_not_fit_makes_no_memory() -> None:
    built = []

    def build() -> nn.Module:
        network = nn.Linear(1 << 20, 1 << 20)  # 4 TB
        built.append(network.weight.device.type)
        return network

    with pytest.raises(RuntimeError, match="size mismatch"):
        build_described(build, {"weight": torch.zeros(3, 3), "bias": torch.zeros(3)})
    assert built == ["meta"]


def test_where_values_are_needed_no_more_is_built_than_the_state_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "_THROWN_AWAY", 5)
    state = LooksAtValues().state_dict()
    build_described(lambda: LooksAtValues(depth=4), state)
    built = []

    def build() -> nn.Module:
        network = LooksAtValues(depth=100)
        built.append(network)
        return network

    with pytest.raises(ValueError, match="far more parameters"):
        build_described(build, state)
    assert not built
    LooksAtValues(depth=100)  # the limit is gone


def test_names_that_are_none() -> None:
    def build() -> nn.Module:
        raise ValueError("there is no such encoder")

    with pytest.raises(ValueError, match="no such encoder"):
        build_described(build, {})
