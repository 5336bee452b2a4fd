"""Vectors of length one, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protoseg.functional.unit_length import unit_length


@pytest.mark.parametrize("shape", [(7, 5), (4, 1), (0, 3), (2, 3, 4)])
def test_value_and_gradient_are_those_of_normalize(shape: tuple[int, ...]) -> None:
    """Of long vectors, those that are as good as none, and none at all."""
    gen = torch.Generator().manual_seed(0)
    x, out = torch.randn(2, *shape, generator=gen).double()
    if len(x) > 3:
        x[0], x[1], x[2] = 0.0, x[1] * 1e-20, x[2] * 1e6
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    unit, expected = unit_length(ours), F.normalize(theirs, dim=-1)
    unit.backward(out)
    expected.backward(out)
    torch.testing.assert_close(unit, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_second_derivative_is_an_error() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    (first,) = torch.autograd.grad(unit_length(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
