"""The teacher follows by its formula, buffers included, and nothing else changes it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from protoseg.nn.teacher import Teacher


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("flag", torch.tensor(False))

    def forward(self, image: Tensor) -> Tensor:
        return self.drop(self.bn(self.conv(image)))


def stir(student: nn.Module) -> None:
    """Change every parameter and buffer, as some training would."""
    gen = torch.Generator().manual_seed(1)
    for tensor in [*student.parameters(), *student.buffers()]:
        if tensor.is_floating_point():
            tensor.data.add_(torch.randn(tensor.shape, generator=gen))
        elif tensor.dtype == torch.bool:
            tensor.fill_(True)
        else:
            tensor.add_(3)


def test_starts_as_a_copy_of_its_own() -> None:
    student = Student()
    teacher = Teacher(student)
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[name])
        assert tensor.data_ptr() != student.state_dict()[name].data_ptr()
    before = copy.deepcopy(teacher.network.state_dict())
    stir(student)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.network.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_update_is_the_formula(momentum: float) -> None:
    student = Student()
    teacher = Teacher(student)
    old = copy.deepcopy(teacher.network.state_dict())
    stir(student)
    new = copy.deepcopy(student.state_dict())
    teacher.update(student, momentum)
    for name, tensor in teacher.network.state_dict().items():
        if tensor.is_floating_point():
            expected = [
                momentum * t + (1 - momentum) * s for t, s in zip(old[name].flatten(), new[name].flatten(), strict=True)
            ]
            assert tensor.flatten().tolist() == pytest.approx([float(e) for e in expected], rel=1e-5, abs=1e-6)
        else:
            assert torch.equal(tensor, new[name]), "counters and flags are copied"
        assert torch.equal(student.state_dict()[name], new[name]), "the student is only read"


def test_momentum_zero_copies_to_the_bit() -> None:
    student = Student()
    teacher = Teacher(student)
    stir(student)
    teacher.update(student, 0.0)
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[name])


def test_stays_in_eval_mode_inside_a_training_module() -> None:
    student = Student()
    parent = nn.ModuleDict({"student": student, "teacher": Teacher(student)})
    parent.train()
    assert student.training
    assert not any(module.training for module in parent["teacher"].modules())
    image, statistics = torch.randn(2, 3, 4, 4), parent["teacher"].network.bn.running_mean.clone()
    first, second = (parent["teacher"](image) for _ in range(2))
    assert torch.equal(first, second), "no dropout"
    assert torch.equal(parent["teacher"].network.bn.running_mean, statistics)
    assert parent["teacher"].train() is parent["teacher"]


def test_no_gradient() -> None:
    teacher = Teacher(Student())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    image = torch.randn(2, 3, 4, 4, requires_grad=True)
    assert not teacher(image).requires_grad


def test_student_keeps_its_gradient_and_mode() -> None:
    student = Student().train()
    teacher = Teacher(student)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.training
    teacher.update(student, 0.5)
    student(torch.randn(2, 3, 4, 4)).sum().backward()
    assert student.conv.weight.grad is not None


def test_another_structure_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Teacher(Student()).update(nn.Conv2d(3, 4, 1), 0.5)
