"""Weights lie channels last on a GPU, and what an optimizer keeps of them lies as they do, whoever wrote the checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from protoseg.cli import main
from protoseg.engine import module
from protoseg.engine.module import TrainingModule, lay_out_like_parameters

MOST = {"momentum": 0.9, "fused": True}


@pytest.mark.parametrize("make", [lambda p: AdamW(p, 0.01, fused=True), lambda p: SGD(p, 0.01, **MOST)], ids=["adamw", "sgd"])
@pytest.mark.parametrize("theirs", [torch.channels_last, torch.contiguous_format], ids=["from a GPU", "from a CPU"])
def test_a_state_of_another_layout_goes_on_as_if_it_were_its_own(make: Any, theirs: torch.memory_format) -> None:
    ours = torch.contiguous_format if theirs == torch.channels_last else torch.channels_last
    torch.manual_seed(0)
    network, image = nn.Conv2d(4, 8, 3), torch.randn(2, 4, 6, 6)
    optimizer = make(network.to(memory_format=theirs).parameters())  # type: ignore[call-overload]
    _step(network, optimizer, image)
    moved = copy.deepcopy(network).to(memory_format=ours)
    resumed = make(moved.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    lay_out_like_parameters(resumed)
    assert all(
        value.stride() == parameter.stride()
        for parameter, state in resumed.state.items()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim == 4
    )
    _step(network, optimizer, image)
    _step(moved, resumed, image)
    torch.testing.assert_close(moved.weight, network.weight, rtol=0, atol=1e-6)


def _step(network: nn.Module, optimizer: Optimizer, image: torch.Tensor) -> None:
    optimizer.zero_grad()
    network(image).square().mean().backward()
    optimizer.step()


def test_a_run_looks_at_its_optimizer_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Optimizer]()
    monkeypatch.setattr(module, "lay_out_like_parameters", seen.append)
    make_folder(tmp_path / "data", train=4, labeled=2, test=1)
    assert main(["train", str(tmp_path / "data"), *TINY, "--out", str(tmp_path / "run")]) == 0
    assert [type(optimizer) for optimizer in seen] == [AdamW]


@pytest.mark.parametrize(("device", "last"), [("cuda", True), ("cpu", False)])
def test_weights_are_channels_last_on_a_gpu(device: str, *, last: bool) -> None:
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    method = nn.Conv2d(4, 8, 3)
    TrainingModule.setup(SimpleNamespace(trainer=trainer, method=method), "fit")  # type: ignore[arg-type]
    assert method.weight.is_contiguous(memory_format=torch.channels_last) == last
