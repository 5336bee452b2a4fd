"""What a run says about its device, and which optimizer fits its precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from protoseg.arguments import parse_train
from protoseg.config import build_method, build_network
from protoseg.settings import ModelConfig
from protoseg.stage import describe_device, optimizer_of


def config(*words: str) -> Any:
    resolved = parse_train(["data", "--workers", "2", "--optimizer.lr", "0.1", *words])
    resolved.steps = 10
    resolved.consistency.warmup_steps, resolved.consistency.ema_momentum = 2, 0.99
    return resolved


@pytest.mark.parametrize(
    ("cuda", "words", "expected"),
    [
        (False, "--trainer.accelerator cpu", "cpu, float32, 2 workers for images"),
        (False, "--trainer.accelerator cpu --trainer.precision bf16-mixed", "cpu, bfloat16, 2 workers for images"),
        (True, "", "GPU, bfloat16, channels last, 2 workers for images"),
        (True, "--trainer.precision 32-true", "GPU, float32, channels last, 2 workers for images"),
        (True, "--trainer.devices 4", "GPU, bfloat16, channels last, devices 4, 2 workers for images"),
        (True, "--trainer.accelerator cpu", "cpu, float32, 2 workers for images"),
    ],
)
def test_the_device_in_words(monkeypatch: pytest.MonkeyPatch, words: str, expected: str, *, cuda: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert describe_device(config(*words.split())) == expected


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", None)])
def test_scaled_gradients_take_an_optimizer_that_the_guard_can_look_into(precision: str, *, fused: bool | None) -> None:
    settings = config("--trainer.precision", precision, "--method", "supervised", "--prototypes.per_class", "0")
    method = build_method(settings, build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3))
    assert {group["fused"] for group in optimizer_of(settings)(method).param_groups} == {fused}
