"""Labels only: the loss, and a teacher that follows all the same."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from protoseg.functional.losses import ohem_cross_entropy
from protoseg.methods.base import StepCarry
from protoseg.methods.supervised import Supervised
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, SegOutput


class WithAuxiliary(SmallUNet):
    """A network with a second head in training."""

    def forward(self, image: Tensor) -> SegOutput:
        out = super().forward(image)
        return out._replace(auxiliary=0.5 * out.logits.flip(1) if self.training else None)


def network(kind: type[SmallUNet] = SmallUNet) -> SmallUNet:
    torch.manual_seed(0)
    return kind(3, width=4)


def batch(*, size: int = 2, ignored: float = 0.3) -> LabeledBatch:
    gen = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 3, (size, 32, 32), generator=gen)
    mask[torch.rand(mask.shape, generator=gen) < ignored] = IGNORE_INDEX
    return LabeledBatch(torch.randn(size, 3, 32, 32, generator=gen), mask, torch.arange(size))


def slow_cross_entropy(logits: Tensor, mask: Tensor) -> float:
    losses = []
    for b, y, x in (mask != IGNORE_INDEX).nonzero().tolist():
        scores = logits[b, :, y, x].tolist()
        losses.append(math.log(sum(math.exp(s) for s in scores)) - scores[int(mask[b, y, x])])
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("weight", [0.0, 0.4])
@pytest.mark.parametrize("kind", [SmallUNet, WithAuxiliary])
def test_loss(kind: type[SmallUNet], weight: float) -> None:
    student, labeled = network(kind), batch()
    seen = copy.deepcopy(student).train()(labeled.image)
    out = Supervised(student, auxiliary_weight=weight)(labeled, step=0)
    linear = slow_cross_entropy(seen.logits, labeled.mask)
    assert out.terms["labeled"].item() == pytest.approx(linear, rel=1e-5)
    if kind is SmallUNet:
        assert out.terms.keys() == {"labeled"}
        assert out.loss.item() == pytest.approx(linear, rel=1e-5)
    else:
        second = slow_cross_entropy(seen.auxiliary, labeled.mask)
        assert out.terms["auxiliary"].item() == pytest.approx(second, rel=1e-5)
        assert out.loss.item() == pytest.approx(linear + weight * second, rel=1e-5)
    assert not any(term.requires_grad for term in out.terms.values())
    assert out.carry == StepCarry()


def test_any_loss_can_be_given() -> None:
    student, labeled = network(), batch()
    hard = Supervised(copy.deepcopy(student), labeled_loss=lambda x, y: ohem_cross_entropy(x, y, threshold=0.3, min_kept=10))
    assert hard(labeled, step=0).loss > Supervised(student)(labeled, step=0).loss


def test_unlabelled_images_are_not_needed() -> None:
    assert Supervised.uses_unlabeled is False
    assert Supervised(network())(batch(), None, step=10**6).loss > 0


def test_all_ignored_is_zero_and_finite() -> None:
    method = Supervised(network())
    out = method(batch(ignored=1.0), step=0)
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.student.parameters())


def test_only_the_student_learns() -> None:
    method = Supervised(network()).train()
    method(batch(), step=0).loss.backward()
    assert all(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert method.student.training
    assert not method.teacher.network.training


def step_of(method: Supervised, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One step on an image whose mask says where its first channel is above its second."""
    labeled = batch(ignored=0.0)
    labeled = labeled._replace(mask=(labeled.image[:, 0] > labeled.image[:, 1]).long())
    out = method(labeled, step=step)
    optimizer.zero_grad()
    out.loss.backward()
    optimizer.step()
    method.after_step([out.carry], step=step)
    return out.loss.item()


def test_predictor_is_the_moving_average_of_the_student() -> None:
    """Copies until the warm-up is over, then the mean of all students so far, then a momentum of 0.6."""
    method = Supervised(network(), ema_momentum=0.6, warmup_steps=2)
    optimizer = torch.optim.SGD(method.student.parameters(), lr=0.5)
    assert method.predictor is method.teacher.network
    teacher: dict[str, Tensor] = {}
    for step, momentum in enumerate([0, 0, 0, 1 / 2, 0.6, 0.6]):
        step_of(method, optimizer, step)
        for name, value in method.student.state_dict().items():
            if value.is_floating_point():
                old = teacher.get(name, torch.zeros_like(value))
                teacher[name] = momentum * old + (1 - momentum) * value
            else:
                teacher[name] = value.clone()
        for name, value in method.predictor.state_dict().items():
            torch.testing.assert_close(value, teacher[name], atol=1e-5, rtol=1e-4, msg=f"{name} at step {step}")


def test_loss_falls() -> None:
    method = Supervised(network())
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=0.01)
    losses = [step_of(method, optimizer, step) for step in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_state_survives_a_round_trip() -> None:
    method, other = Supervised(network()), Supervised(SmallUNet(3, width=4))
    step_of(method, torch.optim.SGD(method.student.parameters(), lr=0.1), 0)
    other.load_state_dict(method.state_dict())
    image = batch().image
    assert torch.equal(other.predictor(image).logits, method.predictor(image).logits)
    assert torch.equal(other(batch(), step=1).loss, method(batch(), step=1).loss)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5])
def test_impossible_momentum_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="ema_momentum"):
        Supervised(network(), ema_momentum=momentum)


def test_teacher_is_not_part_of_the_student() -> None:
    method = Supervised(network())
    ours = {parameter.data_ptr() for parameter in method.student.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in method.teacher.parameters()}
    assert isinstance(method.network, nn.Module)
    assert method.network is method.student
