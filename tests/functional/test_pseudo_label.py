"""Pseudo-labels, selection rules and the consistency loss, against loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protoseg.functional.pseudo_label import (
    consistency_loss,
    entropy_drop,
    kept_consistency_loss,
    pseudo_label,
    selected,
    soft_consistency_loss,
    squared_consistency_loss,
)
from protoseg.types import IGNORE_INDEX, PseudoLabel

SHAPE = (2, 5, 7)


def probabilities(scores: list[float]) -> list[float]:
    top = max(scores)
    exponentials = [math.exp(s - top) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def positions(shape: tuple[int, ...] = SHAPE) -> list[tuple[int, int, int]]:
    return [(b, y, x) for b in range(shape[0]) for y in range(shape[1]) for x in range(shape[2])]


@pytest.fixture
def teacher_logits() -> Tensor:
    return 2 * torch.randn(SHAPE[0], 4, *SHAPE[1:], generator=torch.Generator().manual_seed(2))


@pytest.fixture
def student_logits() -> Tensor:
    return torch.randn(SHAPE[0], 4, *SHAPE[1:], generator=torch.Generator().manual_seed(3)).requires_grad_()


@pytest.fixture
def valid() -> Tensor:
    valid = torch.ones(SHAPE, dtype=torch.bool)
    valid[0, 3:], valid[1, :, 5:] = False, False
    return valid


def test_label_and_confidence(teacher_logits: Tensor, valid: Tensor) -> None:
    pseudo = pseudo_label(teacher_logits.requires_grad_(), valid)
    for b, y, x in positions():
        p = probabilities(teacher_logits[b, :, y, x].tolist())
        assert pseudo.label[b, y, x] == p.index(max(p))
        assert pseudo.confidence[b, y, x].item() == pytest.approx(max(p), rel=1e-5)
    assert pseudo.valid is valid
    assert not pseudo.confidence.requires_grad
    assert pseudo.label.dtype == torch.int64


@pytest.mark.parametrize("normalizer", ["valid", "selected"])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8])
def test_consistency_loss(
    teacher_logits: Tensor, student_logits: Tensor, valid: Tensor, threshold: float, normalizer: str
) -> None:
    pseudo = pseudo_label(teacher_logits, valid)
    pseudo.label[1, 2] = IGNORE_INDEX
    total, kept, real = 0.0, 0, 0
    for b, y, x in positions():
        real += bool(valid[b, y, x])
        label = int(pseudo.label[b, y, x])
        if valid[b, y, x] and label != IGNORE_INDEX and pseudo.confidence[b, y, x] >= threshold:
            total -= math.log(probabilities(student_logits[b, :, y, x].tolist())[label])
            kept += 1
    assert 0 < kept < real
    loss = consistency_loss(student_logits, pseudo, threshold=threshold, normalizer=normalizer)
    assert loss.item() == pytest.approx(total / (real if normalizer == "valid" else kept), rel=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_kept_consistency_loss(teacher_logits: Tensor, student_logits: Tensor, valid: Tensor, threshold: float) -> None:
    """valid / kept * (the sum over kept and confident pixels / kept)."""
    pseudo = entropy_drop(pseudo_label(teacher_logits, valid), teacher_logits, percent=30)
    total, kept = 0.0, 0
    for b, y, x in positions():
        label = int(pseudo.label[b, y, x])
        if valid[b, y, x] and label != IGNORE_INDEX:
            kept += 1
            if pseudo.confidence[b, y, x] >= threshold:
                total -= math.log(probabilities(student_logits[b, :, y, x].tolist())[label])
    expected = int(valid.sum()) / kept * total / kept
    assert kept_consistency_loss(student_logits, pseudo, threshold=threshold).item() == pytest.approx(expected, rel=1e-5)
    nothing = pseudo._replace(label=torch.full_like(pseudo.label, IGNORE_INDEX))
    loss = kept_consistency_loss(student_logits, nothing)
    loss.backward()
    assert loss.item() == 0
    assert not student_logits.grad.any()


def test_threshold_is_inclusive() -> None:
    pseudo = PseudoLabel(torch.zeros(1, 1, 3).long(), torch.tensor([[[0.75, 0.5, 0.8]]]), torch.tensor([[[True, True, False]]]))
    assert selected(pseudo, 0.75).tolist() == [[[True, False, False]]]


def test_only_selected_pixels_get_a_gradient(teacher_logits: Tensor, student_logits: Tensor, valid: Tensor) -> None:
    pseudo = pseudo_label(teacher_logits, valid)
    consistency_loss(student_logits, pseudo, threshold=0.7).backward()
    assert torch.equal(student_logits.grad.abs().sum(dim=1) > 0, selected(pseudo, 0.7))


@pytest.mark.parametrize("normalizer", ["valid", "selected"])
@pytest.mark.parametrize("reason", ["padding", "dropped", "unsure"])
def test_nothing_selected_is_zero_with_a_finite_gradient(
    teacher_logits: Tensor, student_logits: Tensor, valid: Tensor, reason: str, normalizer: str
) -> None:
    pseudo = pseudo_label(teacher_logits, valid)
    if reason == "padding":
        pseudo.valid.zero_()
    elif reason == "dropped":
        pseudo.label.fill_(IGNORE_INDEX)
    threshold = 1.1 if reason == "unsure" else 0.0
    loss = consistency_loss(student_logits, pseudo, threshold=threshold, normalizer=normalizer)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student_logits.grad, torch.zeros_like(student_logits))


def test_one_pixel() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    pseudo = pseudo_label(logits, torch.ones(1, 1, 1, dtype=torch.bool))
    assert (pseudo.label.item(), pseudo.confidence.item()) == (1, pytest.approx(0.75))
    assert consistency_loss(logits, pseudo, threshold=0.7).item() == pytest.approx(-math.log(0.75))


@pytest.mark.parametrize("percent", [0.0, 12.5, 20.0, 50.0, 90.0, 99.9, 100.0])
def test_entropy_drop(teacher_logits: Tensor, valid: Tensor, percent: float) -> None:
    pseudo = pseudo_label(teacher_logits, valid)
    entropy = {
        place: -sum(p * math.log(p) for p in probabilities(teacher_logits[place[0], :, place[1], place[2]].tolist()))
        for place in positions()
        if valid[place]
    }
    kept = set(sorted(entropy, key=entropy.get)[: math.ceil(len(entropy) * (100 - percent) / 100)])
    result = entropy_drop(pseudo, teacher_logits, percent=percent)
    for place in positions():
        assert result.label[place] == (pseudo.label[place] if place in kept else IGNORE_INDEX), place
    assert torch.equal(result.confidence, pseudo.confidence)
    assert torch.equal(result.valid, pseudo.valid)


def test_entropy_drop_of_padding_only(teacher_logits: Tensor) -> None:
    nothing = torch.zeros(SHAPE, dtype=torch.bool)
    result = entropy_drop(pseudo_label(teacher_logits, nothing), teacher_logits, percent=20)
    assert (result.label == IGNORE_INDEX).all()


def test_entropy_drop_of_one_pixel() -> None:
    logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    pseudo = pseudo_label(logits, torch.ones(1, 1, 1, dtype=torch.bool))
    assert entropy_drop(pseudo, logits, percent=20).label.item() == 0


def test_entropy_drop_is_the_same_on_padded_images(teacher_logits: Tensor) -> None:
    """More padding changes nothing for the real pixels."""
    real = torch.ones(SHAPE, dtype=torch.bool)
    bare = entropy_drop(pseudo_label(teacher_logits, real), teacher_logits, percent=30)
    pad = (0, 4, 0, 3)
    padded_logits = torch.nn.functional.pad(teacher_logits, pad, value=1.0)
    padded_valid = torch.nn.functional.pad(real, pad, value=False)
    padded = entropy_drop(pseudo_label(padded_logits, padded_valid), padded_logits, percent=30)
    assert torch.equal(padded.label[:, : SHAPE[1], : SHAPE[2]], bare.label)


@pytest.mark.parametrize("percent", [0.0, 1e-7, 20.0])
def test_entropy_drop_of_many_pixels(percent: float) -> None:
    """3 x 513 x 513 pixels times 100 is not a float32: a count must not be rounded up past the last pixel."""
    shape = (3, 513, 513)
    logits = torch.randn(3, 2, *shape[1:], generator=torch.Generator().manual_seed(0))
    result = entropy_drop(pseudo_label(logits, torch.ones(shape, dtype=torch.bool)), logits, percent=percent)
    kept, total = int((result.label != IGNORE_INDEX).sum()), math.prod(shape)
    assert kept == pytest.approx(total * (100 - percent) / 100, abs=10)


@pytest.mark.parametrize("percent", [-0.1, 100.1])
def test_entropy_drop_refuses_other_shares(teacher_logits: Tensor, valid: Tensor, percent: float) -> None:
    with pytest.raises(ValueError, match="share of pixels"):
        entropy_drop(pseudo_label(teacher_logits, valid), teacher_logits, percent=percent)


def test_squared_consistency_loss(teacher_logits: Tensor, student_logits: Tensor, valid: Tensor) -> None:
    """Mean over valid pixels of sum_c (p_c - q_c)^2, times the share of valid pixels above the threshold."""
    pseudo, probability = pseudo_label(teacher_logits, valid), teacher_logits.softmax(dim=1)
    student, total, sure, count = student_logits.softmax(dim=1), 0.0, 0, 0
    for b, y, x in valid.nonzero().tolist():
        total += sum((p - q) ** 2 for p, q in zip(student[b, :, y, x].tolist(), probability[b, :, y, x].tolist(), strict=True))
        sure += max(probability[b, :, y, x].tolist()) >= 0.5
        count += 1
    loss = squared_consistency_loss(student_logits, probability, pseudo, threshold=0.5)
    assert loss.item() == pytest.approx(total / count * sure / count, rel=1e-5)
    assert 0 < sure < count
    nothing = pseudo._replace(valid=torch.zeros_like(valid))
    assert squared_consistency_loss(student_logits, probability, nothing, threshold=0.5).item() == 0.0


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_soft_labels(student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, threshold: float) -> None:
    """sum over confident pixels of KL(q || p), divided by the number of valid ones; the teacher gets no gradient."""
    target = pseudo_label(teacher_logits, valid)
    total = 0.0
    for b, y, x in positions():
        if valid[b, y, x] and target.confidence[b, y, x] >= threshold:
            q, p = (probabilities(logits[b, :, y, x].tolist()) for logits in (teacher_logits, student_logits))
            total += sum(wanted * math.log(wanted / said) for wanted, said in zip(q, p, strict=True))
    teacher_logits.requires_grad_()
    loss = soft_consistency_loss(student_logits, teacher_logits, target, threshold=threshold)
    assert loss.item() == pytest.approx(total / int(valid.sum()), rel=1e-5)
    loss.backward()
    assert teacher_logits.grad is None
    assert student_logits.grad is not None
    assert not student_logits.grad.movedim(1, -1)[~valid].any()
    assert (threshold < 1) is bool(student_logits.grad.any())
    none = soft_consistency_loss(student_logits, teacher_logits, target._replace(valid=~valid & valid), threshold=0.0)
    assert none.item() == 0
