"""A constant is made once for each set of arguments, and serves training whoever asked first."""

from __future__ import annotations

import torch
from torch import Tensor

from protoseg.functional.constants import constant


def test_made_once_for_each_set_of_arguments() -> None:
    asked = []

    @constant
    def ramp(length: int, *, device: torch.device) -> Tensor:
        asked.append(length)
        return torch.arange(length, device=device)

    first, again, other = (ramp(length, device=torch.device("cpu")) for length in (3, 3, 4))
    assert first is again
    assert (first.tolist(), other.tolist()) == ([0, 1, 2], [0, 1, 2, 3])
    assert asked == [3, 4]


def test_what_a_prediction_has_made_serves_training() -> None:
    @constant
    def weight(length: int) -> Tensor:
        return torch.full((length,), 2.0)

    with torch.inference_mode():
        weight(3)
    features = torch.ones(3, requires_grad=True)
    (features * weight(3)).sum().backward()
    assert features.grad.tolist() == [2, 2, 2]  # type: ignore[union-attr]
