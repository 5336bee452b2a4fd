"""Gradient checkpointing changes what is held, not what is learned."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from protoseg.config import build_network
from protoseg.settings import ModelConfig

SIDE = 56


def config_of(arch: str, encoder: str, **options: bool) -> ModelConfig:
    return ModelConfig(arch=arch, encoder=encoder, weights="none", grad_checkpointing=True, **options)


def step(network: nn.Module, image: Tensor) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and bytes that the forward pass holds for the backward pass."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(image).logits.square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, sum(held.values())


@pytest.mark.parametrize(
    ("arch", "encoder", "options"),
    [
        ("dino_dpt", "tu-vit_tiny_patch16_224", {}),
        ("dino_dpt", "tu-eva02_tiny_patch14_224", {}),
        ("unet", "tu-convnext_atto", {}),
        ("fpn", "tu-resnet18", {"freeze_bn": True}),
    ],
)
def test_gradients_are_the_same_and_less_is_held(arch: str, encoder: str, options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    network = build_network(config_of(arch, encoder, **options), 3).train()
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if hasattr(module, "grad_checkpointing"):
            module.grad_checkpointing = False
    image = torch.randn(2, 3, SIDE, SIDE)
    seeds = []
    for one in (network, plain):
        torch.manual_seed(1)  # FPN has dropout
        seeds.append(step(one, image))
    (loss, gradients, held), (plain_loss, plain_gradients, plain_held) = seeds
    assert torch.equal(loss, plain_loss)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], msg=name)
    assert held < 0.8 * plain_held


@pytest.mark.parametrize(
    ("arch", "encoder", "message"),
    [
        ("unet", "resnet18", "resnet18 is not; take tu-NAME"),
        ("small_unet", "resnet50", "small_unet is not"),
        ("fpn", "tu-resnet18", "BatchNorm layers of tu-resnet18 twice; give --model.freeze_bn"),
    ],
)
def test_what_cannot_is_refused(arch: str, encoder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(config_of(arch, encoder), 3)
