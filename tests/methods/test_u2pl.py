"""U2PL's step against its formula, and what its memory takes in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.mixing import cutmix
from protoseg.functional.random import uniform
from protoseg.methods.u2pl import U2PL, told_by_mask
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, UnlabeledBatch

SIDE, WIDTH = 16, 4  # fewer pixels than the grid has cells: every pixel is a point
CLASSES = 3


def build(classes: int = CLASSES, **options: Any) -> U2PL:
    """In eval mode, with a teacher of its own opinions that names every class."""
    torch.manual_seed(0)
    method = U2PL(SmallUNet(classes, width=WIDTH), **options).eval()
    network = method.teacher.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
        network.head.bias -= network(batches()[1].weak).logits.mean(dim=(0, 2, 3))
    return method


def batches(classes: int = CLASSES) -> tuple[LabeledBatch, UnlabeledBatch]:
    gen = torch.Generator().manual_seed(2)
    mask = torch.randint(0, classes, (2, SIDE, SIDE), generator=gen)
    mask[0, :5] = IGNORE_INDEX
    valid, box = torch.ones(2, SIDE, SIDE, dtype=torch.bool), torch.zeros(1, 2, SIDE, SIDE, dtype=torch.bool)
    valid[1, 12:], box[0, 0, 2:9, 3:12] = False, True
    weak = torch.randn(2, 3, SIDE, SIDE, generator=gen)
    labeled = LabeledBatch(torch.randn(2, 3, SIDE, SIDE, generator=gen), mask, torch.tensor([1, 2]))
    return labeled, UnlabeledBatch(weak, weak[None] + 0.1, valid, box, torch.tensor([3, 4]))


def kept_labels(logits: Tensor, valid: Tensor, percent: float) -> PseudoLabel:
    """Sort the entropies of valid pixels, drop the highest."""
    p = logits.softmax(dim=1)
    entropy = -(p * logits.log_softmax(dim=1)).sum(dim=1)
    pixels = sorted((entropy[tuple(at)].item(), at) for at in valid.nonzero().tolist())
    label = torch.full(valid.shape, IGNORE_INDEX)
    for _, at in pixels[: math.ceil(len(pixels) * (1 - percent / 100))]:
        label[tuple(at)] = p[(at[0], slice(None), at[1], at[2])].argmax()
    return PseudoLabel(label, p.amax(dim=1), valid)


def pixel_features(features: Tensor) -> list[Tensor]:
    """(B, D, h, w) -> of every pixel, row by row."""
    large = F.interpolate(features, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return list(large.permute(0, 2, 3, 1).flatten(0, 2))


def classes_of(told: PseudoLabel) -> list[int]:
    sure = told.valid & (told.label != IGNORE_INDEX) & (told.confidence >= 0.3)
    return torch.where(sure, told.label, IGNORE_INDEX).flatten().tolist()


@torch.no_grad()
def test_one_step_is_the_formula() -> None:
    """L = CE(x_l) + valid / kept * mean CE over kept + the mean over classes and anchors of InfoNCE."""
    method = build(drop_percent=40.0, total_steps=10)
    gen = torch.Generator().manual_seed(5)
    method.contrast.update(torch.randn(50, WIDTH, generator=gen), torch.rand(50, CLASSES, generator=gen) < 0.5)
    labeled, unlabeled = batches()
    known, weak = method.teacher(labeled.image), method.teacher(unlabeled.weak)
    pseudo = kept_labels(weak.logits, unlabeled.valid, 40.0 * (1 - 4 / 10))
    image, target = cutmix(unlabeled.strong[0], pseudo, unlabeled.box[0])
    seen, strong = method.student(labeled.image), method.student(image)
    supervised = F.cross_entropy(seen.logits, labeled.mask, ignore_index=IGNORE_INDEX).item()
    kept = (target.label != IGNORE_INDEX) & target.valid
    consistency = F.cross_entropy(
        strong.logits, target.label.where(kept, torch.tensor(IGNORE_INDEX)), ignore_index=IGNORE_INDEX
    )
    consistency = consistency.item() * target.valid.sum().item() / kept.sum().item()

    truth = told_by_mask(known.logits, labeled.mask)
    z = pixel_features(seen.features) + pixel_features(strong.features)
    label = classes_of(truth) + classes_of(target)
    teachers = pixel_features(known.features) + pixel_features(weak.features)
    teachers_label = classes_of(truth) + classes_of(pseudo)
    draw = uniform(labeled.seed[:1], "contrast", CLASSES, 256, 51)[0]
    losses = []
    for c in range(CLASSES):
        anchors = [v for v, y in zip(z, label, strict=True) if y == c]
        members = [v for v, y in zip(teachers, teachers_label, strict=True) if y == c]
        if not anchors or not members:
            continue
        positive = F.normalize(torch.stack(members).mean(dim=0), dim=0)
        keys = method.contrast.queue[c, : int(method.contrast.arrived[c])]
        values = []
        for u in draw[c]:
            anchor = F.normalize(anchors[int(u[0] * len(anchors))], dim=0)
            chosen = keys[(u[1:] * len(keys)).long()]
            scores = torch.cat([(anchor @ positive)[None], chosen @ anchor]) / 0.5
            values.append(scores.logsumexp(0) - scores[0])
        losses.append(torch.stack(values).mean())
    assert len(losses) == CLASSES
    contrast = torch.stack(losses).mean().item()

    out = method(labeled, unlabeled, step=4)
    assert out.terms["consistency"].item() == pytest.approx(consistency, abs=1e-5)
    assert out.terms["contrast"].item() == pytest.approx(contrast, abs=1e-5)
    assert out.loss.item() == pytest.approx(supervised + consistency + contrast, abs=2e-5)


def test_the_memory_takes_in_the_teachers_unreliable_pixels() -> None:
    method = build(drop_percent=40.0)
    labeled, unlabeled = batches()
    out = method(labeled, unlabeled, step=0)
    assert not method.contrast.arrived.any()  # only after the step
    known, weak = method.teacher(labeled.image), method.teacher(unlabeled.weak)
    dropped = (kept_labels(weak.logits, unlabeled.valid, 40.0).label == IGNORE_INDEX) & unlabeled.valid
    expected = []
    for c in range(CLASSES):
        count = 0
        for i, y, x in (labeled.mask != IGNORE_INDEX).nonzero().tolist():
            count += int(known.logits[i, :, y, x].argmax() == c != labeled.mask[i, y, x])
        for i, y, x in dropped.nonzero().tolist():
            count += int(weak.logits[i, :, y, x].argmax() != c)
        expected.append(count)
    method.after_step([out.carry], step=0)
    assert method.contrast.arrived.tolist() == expected
    assert min(expected) > 0


def test_the_warm_up_leaves_the_memory_alone() -> None:
    method = build(warmup_steps=3)
    out = method(batches()[0], None, step=0)
    method.after_step([out.carry], step=0)
    assert not method.contrast.arrived.any()


def test_at_the_end_every_pixel_is_reliable() -> None:
    method = build(total_steps=10)
    labeled, unlabeled = batches()
    labeled.mask.fill_(IGNORE_INDEX)
    out = method(labeled, unlabeled, step=10)
    assert not out.carry.own.member.any()
    assert out.monitors["confident"] == 1


@pytest.mark.parametrize("classes", [2, 21, 150])
def test_ranks_fit_the_number_of_classes(classes: int) -> None:
    method = build(classes)
    labeled, unlabeled = batches(classes)
    for step in range(2):
        out = method(labeled, unlabeled, step=0)
        method.after_step([out.carry], step=step)
    assert out.loss.isfinite()
    assert method.contrast.arrived.sum() > 0


@pytest.mark.parametrize("percent", [-1.0, 101.0])
def test_an_impossible_share_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="drop_percent"):
        build(drop_percent=percent)
