"""CorrMatch's step against its formula, and its moving threshold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.correlation import relabel_regions, sample_regions
from protoseg.functional.mixing import paste
from protoseg.functional.random import uniform
from protoseg.methods.corrmatch import NUM_REGIONS, CorrMatch
from protoseg.methods.unimatch import beside_dropped
from protoseg.nn.class_thresholds import ClassThresholds
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, UnlabeledBatch

SIDE, WIDTH, CLASSES = 16, 4, 3


def build(**options: Any) -> CorrMatch:
    """In eval mode, with opinions and a map that is not flat."""
    torch.manual_seed(0)
    method = CorrMatch(SmallUNet(CLASSES, width=WIDTH), **options).eval()
    with torch.no_grad():
        logits = method.student(batches()[1].weak).logits
        method.student.head.weight.mul_(2 / logits.std(dim=(0, 2, 3))[:, None, None, None])
        method.student.head.bias.sub_(method.student(batches()[1].weak).logits.mean(dim=(0, 2, 3)))
        method.correlation.query.weight.mul_(10)
    return method


def batches() -> tuple[LabeledBatch, UnlabeledBatch]:
    gen = torch.Generator().manual_seed(2)
    mask = torch.randint(0, CLASSES, (2, SIDE, SIDE), generator=gen)
    mask[0, :5] = IGNORE_INDEX
    valid, box = torch.ones(2, SIDE, SIDE, dtype=torch.bool), torch.zeros(1, 2, SIDE, SIDE, dtype=torch.bool)
    valid[1, 12:], box[0, 0, 2:9, 3:12] = False, True
    weak = torch.randn(2, 3, SIDE, SIDE, generator=gen)
    labeled = LabeledBatch(torch.randn(2, 3, SIDE, SIDE, generator=gen), mask, torch.tensor([1, 2]))
    return labeled, UnlabeledBatch(weak, weak[None] + 0.3, valid, box, torch.tensor([3, 4]))


def ce(logits: Tensor, label: Tensor, confidence: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """The sum over confident valid pixels, divided by the number of valid ones."""
    log_probability = logits.log_softmax(dim=1).gather(1, label[:, None])[:, 0]
    return -(log_probability * (confidence >= threshold) * valid).sum() / valid.sum()


def received(method: CorrMatch, image: Tensor) -> tuple[Tensor, Tensor]:
    """The propagated logits at full size, and the map, written from the equations; the feature map has 8 x 8 positions."""
    out = method.student(image)
    z = F.interpolate(out.logits, (8, 8), mode="bilinear", align_corners=False).flatten(2)
    q, k = (torch.einsum("kd,bdhw->bkhw", p.weight[:, :, 0, 0], out.features) + p.bias[:, None, None]
            for p in (method.correlation.query, method.correlation.key))  # fmt: skip
    scores = torch.einsum("bki,bkj->bij", q.flatten(2), k.flatten(2)) / CLASSES**0.5
    share = scores.exp() / scores.exp().sum(dim=2, keepdim=True)
    spread = torch.einsum("bci,bij->bcj", z, share).view(-1, CLASSES, 8, 8)
    return F.interpolate(spread, (SIDE, SIDE), mode="bilinear", align_corners=False), share


@torch.no_grad()
@pytest.mark.parametrize("fixed", [None, 0.5])
def test_one_step_is_the_formula(fixed: float | None) -> None:
    """L = (0.5 L_x + 0.5 L_x' + 0.25 L_s + 0.25 KL + 0.25 L_fp + 0.25 L_u') / 2."""
    method = build(threshold=fixed)
    threshold, share = (0.5, 0.85) if fixed else (0.6, 0.6)
    method.global_threshold.value.fill_(0.6)
    labeled, unlabeled = batches()
    valid, box = unlabeled.valid, unlabeled.box[0]
    weak = method.student(unlabeled.weak).logits
    confidence, label = weak.softmax(dim=1).max(dim=1)
    propagated, shares = received(method, unlabeled.weak)
    region = sample_regions(shares, uniform(unlabeled.seed, "regions", NUM_REGIONS))
    cell = (torch.arange(SIDE)[:, None] // 2) * 8 + torch.arange(SIDE) // 2
    told = relabel_regions(
        PseudoLabel(label, confidence, valid), confidence >= threshold, region, cell, num_classes=CLASSES, share=share
    )
    assert fixed or (told.label != label)[valid].any()

    strong = method.student(paste(unlabeled.strong[0], box)).logits
    own = [paste(part, box) for part in (label, confidence, valid)]
    q, log_p = paste(weak, box).softmax(dim=1), strong.log_softmax(dim=1)
    divergence = (q * (q.log() - log_p)).sum(dim=1) * (own[1] >= threshold) * own[2]
    clean, seeds = torch.cat([labeled.image, unlabeled.weak]), torch.cat([labeled.seed, unlabeled.seed])
    dropped = method.student(clean, perturb=beside_dropped(seeds)).logits[-2:]
    expected = {
        "labeled": F.cross_entropy(method.student(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX),
        "labeled_correlation": F.cross_entropy(received(method, labeled.image)[0], labeled.mask, ignore_index=IGNORE_INDEX),
        "consistency": ce(strong, *(paste(part, box) for part in told), threshold),
        "soft": divergence.sum() / own[2].sum(),
        "feature": ce(dropped, *told, threshold),
        "correlation": ce(propagated, label, confidence, valid, threshold),
    }
    out = method(labeled, unlabeled, step=0)
    assert out.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert out.terms[name].item() == pytest.approx(value.item(), abs=1e-5), name
        assert value > 0
    weights = dict.fromkeys(expected, 0.25) | {"labeled": 0.5, "labeled_correlation": 0.5}
    total = sum(weights[name] * value.item() for name, value in expected.items()) / 2
    assert out.loss.item() == pytest.approx(total, abs=1e-5)


def test_the_threshold_follows_the_surest_pixels_after_the_step() -> None:
    method = build()
    labeled, unlabeled = batches()
    confidence, label = method.student(unlabeled.weak).logits.softmax(dim=1).max(dim=1)
    highest = [confidence[(label == c) & unlabeled.valid].max().item() for c in range(CLASSES)]
    out = method(labeled, unlabeled, step=0)
    assert method.global_threshold().item() == pytest.approx(0.85)  # only after the step
    method.after_step([out.carry], step=0)
    expected = 0.999 * 0.85 + 0.001 * sum(highest) / CLASSES
    assert method.global_threshold().item() == pytest.approx(expected, abs=1e-6)
    assert method.state_dict()["global_threshold.value"].item() == pytest.approx(expected, abs=1e-6)


def test_accumulated_batches_count_as_one() -> None:
    """The highest confidence of a class over all of them."""
    method, other = build(), build()
    labeled, unlabeled = batches()
    parts = [
        UnlabeledBatch(*(t[:, i : i + 1] if n in ("strong", "box") else t[i : i + 1] for n, t in unlabeled._asdict().items()))
        for i in range(2)
    ]
    method.after_step([method(labeled, part, step=0).carry for part in parts], step=0)
    other.after_step([other(labeled, unlabeled, step=0).carry], step=0)
    assert torch.equal(method.global_threshold(), other.global_threshold())


def test_classes_may_have_thresholds_below_the_moving_one() -> None:
    method = build(class_thresholds=ClassThresholds(CLASSES))
    assert method.class_thresholds is not None
    method.class_thresholds.confidence.copy_(torch.tensor([1.0, 0.5, 0.8]))
    assert method.thresholds().tolist() == pytest.approx([0.85, 0.425, 0.68])
    assert build().thresholds().tolist() == pytest.approx([0.85] * CLASSES)
    assert build(threshold=0.0).thresholds() == 0


def test_a_fixed_threshold_of_0_does_not_let_every_region_through() -> None:
    """As on Cityscapes, where the authors fix it at 0."""
    method = build(threshold=0.0)
    unlabeled = batches()[1]
    out = method.student(unlabeled.weak)
    confidence, label = out.logits.softmax(dim=1).max(dim=1)
    pseudo = PseudoLabel(label, confidence, unlabeled.valid)
    changed = method.relabeled(pseudo, method.correlation(out), unlabeled.seed).label != label
    assert changed.float().mean() < 0.15


def test_the_warm_up_teaches_the_map() -> None:
    method = build(warmup_steps=3)
    out = method(batches()[0], None, step=0)
    out.loss.backward()
    assert method.correlation.key.weight.grad is not None
    assert method.correlation.key.weight.grad.abs().sum() > 0
    method.after_step([out.carry], step=0)
    assert method.global_threshold().item() == pytest.approx(0.85)
