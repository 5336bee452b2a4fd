"""IoU against a loop over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protoseg.engine.metrics import ConfusionMatrix, iou


def slow_iou(prediction: Tensor, mask: Tensor, num_classes: int) -> list[float]:
    """Intersection over union of each class, pixel by pixel."""
    result = []
    for c in range(num_classes):
        both = either = 0
        for p, m in zip(prediction.flatten().tolist(), mask.flatten().tolist(), strict=True):
            if m == 255:
                continue
            both += p == c and m == c
            either += p == c or m == c
        result.append(both / either if either else math.nan)
    return result


def score(prediction: Tensor, mask: Tensor, num_classes: int):  # type: ignore[no-untyped-def]
    metric = ConfusionMatrix(num_classes)
    metric.update(prediction, mask)
    return metric.compute()


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, 5, (3, 12, 11), generator=generator)
    mask = torch.randint(0, 5, (3, 12, 11), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    mask[0, 0, :3], prediction[0, 0, :3] = 4, 4
    found, expected = score(prediction, mask, 5), slow_iou(prediction, mask, 5)
    assert found.per_class == pytest.approx(expected)
    assert found.mean == pytest.approx(sum(expected) / 5)


def test_one_matrix_for_all_images_not_a_mean_over_images() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))  # 3/4 and 0
    metric.update(torch.tensor([1, 1]), torch.tensor([1, 0]))  # 0 and 1/2
    assert metric.confusion.tolist() == [[3, 1], [1, 1]]
    assert metric.compute().per_class == pytest.approx((3 / 5, 1 / 3))


def test_rows_are_the_truth() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.tensor([2, 2, 1]), torch.tensor([0, 0, 1]))
    assert metric.confusion.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_ignored_pixels_do_not_count_whatever_is_predicted_there() -> None:
    mask = torch.tensor([[0, 1, 255, 255]])
    right = score(torch.tensor([[0, 1, 0, 1]]), mask, 3)
    assert right.per_class[:2] == (1, 1)
    assert math.isnan(right.per_class[2])  # a prediction on ignored pixels alone is no prediction
    assert score(torch.tensor([[0, 1, 2, 2]]), mask, 3).mean == 1


def test_an_absent_class_is_nan_and_left_out_of_the_mean() -> None:
    found = score(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 3)
    assert math.isnan(found.per_class[2])
    assert found.mean == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_a_class_that_is_predicted_but_absent_counts_zero() -> None:
    found = score(torch.tensor([0, 2, 1]), torch.tensor([0, 0, 1]), 3)
    assert found.per_class == pytest.approx((1 / 2, 1, 0))
    assert found.mean == pytest.approx(0.5)


def test_a_missed_class_counts_zero() -> None:
    assert score(torch.tensor([0, 0]), torch.tensor([0, 1]), 2).per_class == (0.5, 0)


def test_nothing_to_score() -> None:
    found = score(torch.tensor([0, 1]), torch.tensor([255, 255]), 2)
    assert math.isnan(found.mean)
    assert all(math.isnan(value) for value in found.per_class)


def test_masks_of_8_bits() -> None:
    """200 * 201 does not fit into the mask's own type."""
    mask = torch.tensor([200, 199, 255], dtype=torch.uint8)
    found = score(torch.tensor([200, 0, 3]), mask, 201)
    assert found.per_class[200] == 1
    assert found.per_class[199] == 0


def test_large_counts_are_exact() -> None:
    found = iou(torch.tensor([[2**40, 1], [0, 3]]))
    assert found.per_class == (2**40 / (2**40 + 1), 3 / 4)


def test_reset() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([0]), torch.tensor([1]))
    metric.reset()
    assert metric.confusion.sum() == 0
