"""AugSeg's labels in unlabelled images, against the formula of its certainty and pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.mixing import cutmix
from protoseg.methods.augseg import AugSeg, image_certainty, label_boxes, paste_labels
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, UnlabeledBatch

SIDE = 16


def slow_certainty(logits: Tensor, valid: Tensor) -> list[float]:
    result = []
    for image, counting in zip(logits.double(), valid, strict=True):
        values = []
        for y, x in counting.nonzero().tolist():
            p = image[:, y, x].softmax(dim=0).tolist()
            entropy = -sum(q * math.log(q) for q in p)
            values.append(max(p) * (1 - entropy / math.log(len(p))))
        result.append(sum(values) / len(values) if values else 1.0)
    return result


@pytest.mark.parametrize("classes", [2, 3, 150])
def test_certainty(classes: int) -> None:
    gen = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, classes, 5, 6, generator=gen)
    valid = torch.rand(4, 5, 6, generator=gen) < 0.7
    valid[3] = False
    assert image_certainty(logits, valid).tolist() == pytest.approx(slow_certainty(logits, valid), abs=1e-6)


def test_certainty_of_extremes() -> None:
    valid = torch.ones(2, 3, 3, dtype=torch.bool)
    logits = torch.zeros(2, 4, 3, 3)
    logits[0, 1] = 200.0
    assert image_certainty(logits, valid).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_the_chance_of_labels_is_the_doubt() -> None:
    seed, valid = torch.arange(2000), torch.ones(2000, 4, 4, dtype=torch.bool)
    for certainty in (0.0, 0.3, 1.0):
        chosen = label_boxes(seed, torch.full((2000,), certainty), valid).flatten(1).any(dim=1)
        assert chosen.float().mean().item() == pytest.approx(1 - certainty, abs=0.04)
    boxes = label_boxes(seed, torch.zeros(2000), valid)
    assert torch.equal(boxes[5:6], label_boxes(seed[5:6], torch.zeros(1), valid[5:6]))  # the image's own


@pytest.mark.parametrize("num_labeled", [1, 2, 5])
def test_image_label_confidence_and_validity_come_from_one_source(num_labeled: int) -> None:
    gen = torch.Generator().manual_seed(1)
    image, box = torch.rand(3, 2, 4, 5, generator=gen), torch.rand(3, 4, 5, generator=gen) < 0.5
    pseudo = PseudoLabel(
        torch.randint(0, 3, (3, 4, 5), generator=gen),
        torch.rand(3, 4, 5, generator=gen),
        torch.rand(3, 4, 5, generator=gen) < 0.8,
    )
    mask = torch.randint(3, 6, (num_labeled, 4, 5), generator=gen)
    mask[:, :2] = IGNORE_INDEX
    labeled = LabeledBatch(torch.rand(num_labeled, 2, 4, 5, generator=gen), mask, torch.arange(num_labeled))
    seen, told = paste_labels(image, pseudo, labeled, box)
    for i in range(3):
        crop = i % num_labeled
        for y in range(4):
            for x in range(5):
                if box[i, y, x]:
                    expected = (int(mask[crop, y, x]), 1.0, bool(mask[crop, y, x] != IGNORE_INDEX))
                    pixel = labeled.image[crop, :, y, x]
                else:
                    expected = tuple(part[i, y, x].item() for part in pseudo)
                    pixel = image[i, :, y, x]
                assert tuple(part[i, y, x].item() for part in told) == expected
                assert torch.equal(seen[i, :, y, x], pixel)


def test_one_step_is_the_formula() -> None:
    """L = CE(x_l) + sum of CE over confident pixels / valid pixels, after labels and partner were pasted."""
    torch.manual_seed(0)
    method = AugSeg(SmallUNet(3, width=4), threshold=0.4).eval()
    gen = torch.Generator().manual_seed(2)
    mask = torch.randint(0, 3, (2, SIDE, SIDE), generator=gen)
    mask[0, :5] = IGNORE_INDEX
    labeled = LabeledBatch(torch.randn(2, 3, SIDE, SIDE, generator=gen), mask, torch.tensor([1, 2]))
    valid, box = torch.ones(2, SIDE, SIDE, dtype=torch.bool), torch.zeros(1, 2, SIDE, SIDE, dtype=torch.bool)
    valid[1, 12:], box[0, 0, 2:9, 3:12] = False, True
    weak = torch.randn(2, 3, SIDE, SIDE, generator=gen)
    unlabeled = UnlabeledBatch(weak, weak[None] + 0.1, valid, box, torch.tensor([3, 4]))

    probability = method.teacher(weak).logits.softmax(dim=1)
    pseudo = PseudoLabel(probability.argmax(dim=1), probability.amax(dim=1), valid)
    places = label_boxes(unlabeled.seed, torch.zeros(2), valid)  # this teacher is sure of nothing
    assert places.flatten(1).any(dim=1).all()
    image, target = cutmix(*paste_labels(unlabeled.strong[0], pseudo, labeled, places), box[0])
    log_probability = method.student(image).logits.log_softmax(dim=1).detach()
    total, count = 0.0, 0
    for i in range(2):
        for y in range(SIDE):
            for x in range(SIDE):
                if target.valid[i, y, x]:
                    count += 1
                    if target.confidence[i, y, x] >= 0.4:
                        total -= float(log_probability[i, target.label[i, y, x], y, x])
    supervised = F.cross_entropy(method.student(labeled.image).logits, mask, ignore_index=IGNORE_INDEX).item()
    out = method(labeled, unlabeled, step=0)
    assert out.loss.item() == pytest.approx(supervised + total / count, abs=1e-5)
    assert (target.confidence == 1).any()
