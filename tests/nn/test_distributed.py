"""Two gloo processes on one machine do what one process does with all the pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from protoseg.functional.losses import cross_entropy, global_means
from protoseg.functional.processes import all_reduce_sum_, average_buffers_, broadcast_, is_distributed
from protoseg.functional.pseudo_label import (
    consistency_loss,
    kept_consistency_loss,
    soft_consistency_loss,
    squared_consistency_loss,
)
from protoseg.methods.supervised import Supervised
from protoseg.nn.global_threshold import GlobalThreshold
from protoseg.nn.memory_contrast import MemoryContrast
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, PseudoLabel

WORLD, D, C, K = 2, 6, 4, 2
COUNT = (9, 30)  # pixels of each process


def pixels(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Class 1 is seen by the second process only, class 3 by none."""
    gen = torch.Generator().manual_seed(10 + rank)
    features = torch.randn(COUNT[rank], D, generator=gen)
    label = torch.tensor([0, 2, 2, IGNORE_INDEX, 0] if rank == 0 else [0, 1, 2, 1, IGNORE_INDEX])
    label = label.repeat(COUNT[rank])[: COUNT[rank]]
    return features, label, torch.rand(COUNT[rank], generator=gen) < 0.8


def keys(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Class 1 gets keys from the second process only, class 3 from none."""
    gen = torch.Generator().manual_seed(20 + 2 * step + rank)
    return torch.randn(9, D, generator=gen), torch.rand(9, C, generator=gen) < torch.tensor([0.7, 0.5 * rank, 0.9, 0.0])


def beliefs(rank: int) -> PseudoLabel:
    """Class 1 is named by the second process only, class 3 by none."""
    label = pixels(rank)[1]
    return PseudoLabel(label, torch.rand(label.shape, generator=torch.Generator().manual_seed(rank)), label == label)


def crops(rank: int) -> tuple[Tensor, Tensor, PseudoLabel]:
    """Logits, other logits and labels, of one image and of two; the second process has most of the padding."""
    gen = torch.Generator().manual_seed(30 + rank)
    logits, other = torch.randn(2, 1 + rank, C, 5, 6, generator=gen)
    label = torch.randint(0, C, (1 + rank, 5, 6), generator=gen)
    label[torch.rand(label.shape, generator=gen) < 0.3] = IGNORE_INDEX
    valid = torch.rand(label.shape, generator=gen) < 0.9 - 0.5 * rank
    return logits, other, PseudoLabel(label, torch.rand(label.shape, generator=gen), valid)


def prototype_loss(logits: Tensor, other: Tensor, target: PseudoLabel) -> Tensor:
    rows, label = logits.permute(0, 2, 3, 1).flatten(0, 2), target.label.flatten()
    return started().loss(rows, label, target.confidence.flatten() > 0.4, denominator=target.valid.sum())


def prototype_loss_of_parts(logits: Tensor, other: Tensor, target: PseudoLabel) -> Tensor:
    """As the term has them: whole crops averaged over what counts, and half of each over what is valid."""
    rows = [x.permute(0, 2, 3, 1).flatten(0, 2) for x in (logits, other[:, :, :3])]
    label, weight = (torch.cat([x.flatten(), x[:, :3].flatten()]) for x in (target.label, target.confidence))
    values, known = started().pixel_losses(torch.cat(rows), label)
    first, second = global_means(values, known * weight, [*map(len, rows)], [None, target.valid[:, :3].sum()])
    return first + 2 * second


LOSSES: dict[str, Callable[[Tensor, Tensor, PseudoLabel], Tensor]] = {
    "labels": lambda logits, other, target: cross_entropy(logits, target.label),
    "balanced labels": lambda logits, other, target: cross_entropy(logits, target.label, torch.tensor([1.0, 2.0, 0.5, 3.0])),
    "valid": lambda logits, other, target: consistency_loss(logits, target, threshold=0.4),
    "selected": lambda logits, other, target: consistency_loss(logits, target, threshold=0.4, normalizer="selected"),
    "kept": lambda logits, other, target: kept_consistency_loss(logits, target, threshold=0.4),
    "squared": lambda logits, other, target: squared_consistency_loss(logits, other.softmax(dim=1), target, threshold=0.4),
    "soft": lambda logits, other, target: soft_consistency_loss(logits, other, target, threshold=0.4),
    "prototypes": prototype_loss,
    "prototypes, two parts": prototype_loss_of_parts,
}


def loss_and_gradient(loss: Callable[..., Tensor], logits: Tensor, other: Tensor, target: PseudoLabel) -> tuple[Tensor, Tensor]:
    logits.requires_grad_().grad = None
    value = loss(logits, other, target)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad.clone()


def started(**options: Any) -> PrototypeHead:
    """Prototypes of classes 0, 2 and 3."""
    head = PrototypeHead(D, C, per_class=K, momentum=0.7, **options)
    gen = torch.Generator().manual_seed(1)
    head.fit(torch.randn(60, D, generator=gen), torch.tensor([0, 2, 3]).repeat(20))
    return head


def normalized(rank: int) -> nn.Module:
    """A network whose BatchNorm has seen what this process saw."""
    torch.manual_seed(0)
    network = SmallUNet(2, width=2)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(rank)) * (rank + 1)
    for _ in range(rank + 1):
        network(image)
    return network


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=WORLD)
    result: dict[str, Any] = {"is_distributed": is_distributed()}
    for unit in (False, True):
        head = started(unit_features=unit)
        features, label, weight = pixels(rank)
        for _ in range(2):
            head.update(features, label, weight=weight)
        result[f"update {unit}"] = head.state_dict()

    contrast = MemoryContrast(D, C, queue_size=15)
    for step in range(2):
        contrast.update(*keys(rank, step))
    result["contrast"] = contrast.state_dict()

    threshold = GlobalThreshold(C, momentum=0.5)
    threshold.update(threshold.highest(beliefs(rank)))
    result["threshold"] = threshold()

    result["losses"] = {name: loss_and_gradient(loss, *crops(rank)) for name, loss in LOSSES.items()}

    head = PrototypeHead(D, C, per_class=K)
    head.fit(*pixels(rank)[:2])
    result["fit"] = head.state_dict()

    method = Supervised(normalized(rank))
    method.after_step([], step=0)
    result["student"], result["teacher"] = method.student.state_dict(), method.teacher.network.state_dict()

    network = normalized(rank)
    result["before"] = {name: value.clone() for name, value in network.state_dict().items()}
    average_buffers_(network)
    result["after"] = network.state_dict()
    average_buffers_(nn.Linear(2, 2))  # no buffers

    summed, sent = [torch.full((2,), rank + 1.0), torch.tensor(rank + 5)], [torch.tensor([rank == 0]), torch.tensor(rank + 7.0)]
    all_reduce_sum_(*summed)
    broadcast_(*sent)
    result["summed"], result["sent"] = summed, sent
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("unit", [False, True])
def test_update_is_that_of_one_process_on_all_pixels(results: list[dict[str, Any]], unit: bool) -> None:
    head = started(unit_features=unit)
    before = head.prototype.clone()
    features, label, weight = (torch.cat(parts) for parts in zip(*(pixels(r) for r in range(WORLD)), strict=True))
    for _ in range(2):
        head.update(features, label, weight=weight)
    first, second = (result[f"update {unit}"] for result in results)
    assert torch.equal(first["prototype"], second["prototype"]), "prototypes drifted apart"
    torch.testing.assert_close(first["prototype"], head.prototype, atol=1e-6, rtol=1e-5)
    assert first["ready"].tolist() == second["ready"].tolist() == head.ready.tolist() == [True, True, True, True]
    assert not torch.allclose(head.prototype[:3], before[:3], atol=1e-2)
    torch.testing.assert_close(first["prototype"][3], before[3])
    alone = started(unit_features=unit)
    for _ in range(2):
        alone.update(*pixels(0)[:2], weight=pixels(0)[2])
    assert not torch.allclose(alone.prototype, head.prototype, atol=1e-2), "the other process's pixels must matter"


def test_every_process_remembers_the_keys_of_all(results: list[dict[str, Any]]) -> None:
    contrast = MemoryContrast(D, C, queue_size=15)
    for step in range(2):
        contrast.update(*(torch.cat(parts) for parts in zip(*(keys(rank, step) for rank in range(WORLD)), strict=True)))
    assert contrast.arrived[1] > 0 == contrast.arrived[3]
    assert contrast.arrived[0] > 15
    for result in results:
        assert all(torch.equal(result["contrast"][name], value) for name, value in contrast.state_dict().items())


def test_the_threshold_follows_the_surest_pixels_of_all(results: list[dict[str, Any]]) -> None:
    threshold = GlobalThreshold(C, momentum=0.5)
    threshold.update(threshold.highest(PseudoLabel(*(torch.cat(p) for p in zip(*map(beliefs, range(WORLD)), strict=True)))))
    assert torch.equal(results[0]["threshold"], results[1]["threshold"])
    torch.testing.assert_close(results[0]["threshold"], threshold())
    alone = GlobalThreshold(C, momentum=0.5)
    alone.update(alone.highest(beliefs(0)))
    assert not torch.allclose(alone(), threshold(), atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_all_losses_is_that_of_one_process_on_all_pixels(results: list[dict[str, Any]], name: str) -> None:
    """And so is that of the gradients, which is what DDP takes."""
    logits, other, targets = zip(*map(crops, range(WORLD)), strict=True)
    target = PseudoLabel(*(torch.cat(parts) for parts in zip(*targets, strict=True)))
    expected, gradient = loss_and_gradient(LOSSES[name], torch.cat(logits), torch.cat(other), target)
    losses, gradients = zip(*(result["losses"][name] for result in results), strict=True)
    torch.testing.assert_close(sum(losses) / WORLD, expected)
    torch.testing.assert_close(torch.cat(gradients) / WORLD, gradient)
    alone = [LOSSES[name](*crops(rank)) for rank in range(WORLD)]
    assert not torch.allclose(sum(alone) / WORLD, expected, atol=1e-3), "the denominators of both must matter"


def test_fit_is_the_first_process(results: list[dict[str, Any]]) -> None:
    head = PrototypeHead(D, C, per_class=K)
    head.fit(*pixels(0)[:2])
    for result in results:
        assert torch.equal(result["fit"]["prototype"], head.prototype)
        assert result["fit"]["ready"].tolist() == [True, False, True, False]


def test_buffers_are_averaged_and_nothing_else(results: list[dict[str, Any]]) -> None:
    first, second = (result["before"] for result in results)
    averaged = 0
    for name in first:
        for rank, result in enumerate(results):
            if name.endswith(("running_mean", "running_var")):
                torch.testing.assert_close(result["after"][name], (first[name] + second[name]) / 2)
                averaged += not torch.allclose(first[name], second[name], atol=1e-4)
            else:
                assert torch.equal(result["after"][name], result["before"][name]), (rank, name)
    assert averaged > 0
    assert all(torch.equal(results[0]["after"][n], results[1]["after"][n]) for n in first if "running" in n)


def test_teachers_stay_equal(results: list[dict[str, Any]]) -> None:
    first, second = (result["teacher"] for result in results)
    for name in first:
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(first[name], second[name]), name
            assert torch.equal(first[name], results[0]["student"][name]), name


def test_sum_and_broadcast(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["is_distributed"]
        assert [value.tolist() for value in result["summed"]] == [[3.0, 3.0], 11]
        assert [value.tolist() for value in result["sent"]] == [[True], 7.0]


def test_one_process_alone_changes_nothing() -> None:
    assert not is_distributed()
    tensor, network = torch.tensor([1.0, 2.0]), normalized(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    all_reduce_sum_(tensor)
    broadcast_(tensor)
    average_buffers_(network)
    assert tensor.tolist() == [1.0, 2.0]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
