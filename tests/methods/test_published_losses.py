"""One step of a method on fixed tensors: the loss that the authors' own training loops compute.

The expected numbers came out of the loops of github.com/LiheYoung/UniMatch (commit 0324f3d, MIT) and
github.com/LiheYoung/UniMatch-V2 (f6afb4d, MIT), run on the network, crops, boxes and dropped channels below, with the partner
of each image in place of their second draw from the loader. Beside each stands its formula, written once more with plain
tensors: CE is over pixels with conf >= 0.8 and no padding, divided by the pixels without padding.

PrevMatch's is made of the functions of github.com/wooseok-shin/PrevMatch (bcfac70, Apache-2.0) with two snapshots and their
shares as below; those of CPS and of the two mean teachers of the arithmetic of github.com/charlesCXK/TorchSemiSeg (5e0c29c,
MIT) and github.com/Britefury/cutmix-semisup-seg (af6183a, MIT), on crops without padding.

I = 3 channels · B = 2 + 2 images · C = 3 classes
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import protoseg.methods.prevmatch
import protoseg.methods.unimatch
import protoseg.methods.unimatch_v2
from protoseg.methods.base import Method
from protoseg.methods.cps import CrossPseudoSupervision
from protoseg.methods.cutmix_mt import CutMixMT
from protoseg.methods.fixmatch import FixMatch
from protoseg.methods.mean_teacher import MeanTeacher
from protoseg.methods.prevmatch import PrevMatch
from protoseg.methods.unimatch import UniMatch
from protoseg.methods.unimatch_v2 import UniMatchV2
from protoseg.types import IGNORE_INDEX, LabeledBatch, Perturb, SegOutput, UnlabeledBatch

SIDE, THRESHOLD = 12, 0.8


def wave(*shape: int, pace: float) -> Tensor:
    """Numbers in [-1, 1] that look random and are the same on every machine."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) ** 1.5 * pace).float().view(shape)


class TinyNet(nn.Module):
    """Two feature maps and a linear classifier, no BatchNorm: the same in training and eval mode."""

    num_classes, in_channels, feature_channels, stride = 3, 3, 10, 1

    def __init__(self, pace: float = 0.7) -> None:
        super().__init__()
        self.fine = nn.Parameter(wave(6, 3, 3, 3, pace=pace))
        self.coarse = nn.Parameter(wave(4, 3, 3, 3, pace=1.3 * pace))
        self.head = nn.Parameter(0.8 * wave(3, 10, 1, 1, pace=1.7 * pace))

    def encode(self, image: Tensor) -> list[Tensor]:
        coarse = F.conv2d(image, self.coarse, stride=2, padding=1).relu()
        return [F.conv2d(image, self.fine, padding=1).relu(), coarse]

    def decode(self, maps: list[Tensor]) -> Tensor:
        fine, coarse = maps
        return torch.cat([fine, F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)], dim=1)

    def forward(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput:
        maps = self.encode(image)
        features = self.decode(maps if perturb is None else perturb(maps))
        return SegOutput(F.conv2d(features, self.head), features, (SIDE, SIDE), True)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        yield from (self.fine, self.coarse)


def batches(num_strong: int) -> tuple[LabeledBatch, UnlabeledBatch]:
    mask = (wave(2, SIDE, SIDE, pace=0.31) * 1.5 + 1.5).long().clamp(0, 2)
    mask[:, :2] = IGNORE_INDEX
    valid = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    valid[0, 9:], valid[1, :, 10:] = False, False
    box = torch.zeros(2, 2, SIDE, SIDE, dtype=torch.bool)
    box[0, 0, 2:7, 1:9], box[0, 1, 4:12, 3:8], box[1, 0, 5:11, 0:6] = True, True, True
    weak = wave(2, 3, SIDE, SIDE, pace=0.11)
    strong = 0.7 * weak + 0.3 * wave(2, 2, 3, SIDE, SIDE, pace=0.23)
    labeled = LabeledBatch(wave(2, 3, SIDE, SIDE, pace=0.17), mask, torch.tensor([1, 2]))
    return labeled, UnlabeledBatch(weak, strong[:num_strong], valid, box[:num_strong], torch.tensor([3, 4]))


def dropped(images: int, channels: int) -> Tensor:
    """(images, channels) of 0 and 2: which channels a feature view keeps."""
    return 2.0 * (wave(images, channels, pace=0.41) > 0)


def ce(logits: Tensor, labels: Tensor, confidence: Tensor, valid: Tensor) -> Tensor:
    """The sum of the cross-entropy over confident valid pixels, divided by the number of valid ones."""
    log_probability = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return -(log_probability * (confidence >= THRESHOLD) * valid).sum() / valid.sum()


def labels_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    probability = logits.softmax(dim=1)
    return probability.argmax(dim=1), probability.max(dim=1).values


def swapped(own: Tensor, box: Tensor) -> Tensor:
    """With two images the partner is the other one."""
    return torch.where(box if own.ndim == 3 else box[:, None], own.flip(0), own)


def mixed_ce(student: nn.Module, unlabeled: UnlabeledBatch, view: int, labels: Tensor, confidence: Tensor) -> Tensor:
    box = unlabeled.box[view]
    logits = student(swapped(unlabeled.strong[view], box)).logits
    return ce(logits, *(swapped(part, box) for part in (labels, confidence, unlabeled.valid)))


def check(
    method: Method,
    formula: Tensor,
    published: float,
    given: tuple[LabeledBatch, UnlabeledBatch] | None = None,
    *,
    step: int = 0,
) -> None:
    out = method.train()(*(given or batches(method.num_strong)), step=step)
    assert out.loss.item() == pytest.approx(formula.item(), abs=1e-5)
    assert out.loss.item() == pytest.approx(published, abs=1e-5)
    assert method.threshold == 0 or 0.2 < out.monitors["confident"] < 0.9


@pytest.mark.parametrize("labels_from", ["self", "ema"])
def test_fixmatch(labels_from: str) -> None:
    """L = (CE(x_l) + CE(x_s, label of x_w)) / 2."""
    student, teacher = TinyNet(), TinyNet(0.9)
    method = FixMatch(student, threshold=THRESHOLD, labels_from=labels_from)
    method.teacher.network = teacher.requires_grad_(False)
    labeled, unlabeled = batches(1)
    labels = labels_of((student if labels_from == "self" else teacher)(unlabeled.weak).logits)
    supervised = F.cross_entropy(student(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
    formula = (supervised + mixed_ce(student, unlabeled, 0, *labels)) / 2
    check(method, formula, {"self": 1.171422, "ema": 1.440183}[labels_from])


def test_unimatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """L = (CE(x_l) + 0.25 CE(x_s1) + 0.25 CE(x_s2) + 0.5 CE(x_w with dropped features)) / 2."""
    drop = [dropped(4, 6), dropped(4, 4)]
    monkeypatch.setattr(
        protoseg.methods.unimatch, "uniform", lambda seed, stream, *shape, device: drop[int(stream[-1])] / 2 + 0.25
    )
    student = TinyNet()
    labeled, unlabeled = batches(2)
    labels = labels_of(student(unlabeled.weak).logits)
    supervised = F.cross_entropy(student(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
    strong = sum(mixed_ce(student, unlabeled, view, *labels) for view in range(2))
    maps = [x * kept[2:, :, None, None] for x, kept in zip(student.encode(unlabeled.weak), drop, strict=True)]
    feature = ce(F.conv2d(student.decode(maps), student.head), *labels, unlabeled.valid)
    check(UniMatch(student, threshold=THRESHOLD), (supervised + 0.25 * strong + 0.5 * feature) / 2, 1.192895)


def test_unimatch_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    """L = (CE(x_l) + (CE(x_s1) + CE(x_s2)) / 2) / 2, the second view with the channels that the first has lost."""
    masks = {channels: torch.where(torch.tensor([[False], [True]]), 1.0, dropped(2, channels)) for channels in (6, 4)}

    def draw(seed: Tensor, stream: str, *shape: int, device: torch.device) -> Tensor:
        first = masks[int(stream.split()[-1])]
        whole = (first == 1).all(dim=1, keepdim=True)
        return torch.cat([torch.where(whole, 0.0, 1.0), torch.where(first == 2, 0.0, 0.9)], dim=1)

    monkeypatch.setattr(protoseg.methods.unimatch_v2, "uniform", draw)
    student, teacher = TinyNet(), TinyNet(0.9)
    method = UniMatchV2(student, threshold=THRESHOLD)
    method.teacher.network = teacher.requires_grad_(False)
    labeled, unlabeled = batches(2)
    labels = labels_of(teacher(unlabeled.weak).logits)
    supervised = F.cross_entropy(student(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
    views = []
    for view in range(2):
        box = unlabeled.box[view]
        maps = student.encode(swapped(unlabeled.strong[view], box))
        kept = [masks[x.shape[1]] if view == 0 else 2 - masks[x.shape[1]] for x in maps]
        logits = F.conv2d(student.decode([x * k[:, :, None, None] for x, k in zip(maps, kept, strict=True)]), student.head)
        views.append(ce(logits, *(swapped(part, box) for part in (*labels, unlabeled.valid))))
    check(method, (supervised + sum(views) / 2) / 2, 1.502797)


def test_prevmatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """L = (CE(x_l) + L_u + r L_prev) / (2 + r), where L_prev is UniMatch's L_u with labels of mixed logits from 0.75 on."""
    drop, share = [dropped(4, 6), dropped(4, 4)], {0: 0.3, 2: 0.7}
    monkeypatch.setattr(
        protoseg.methods.unimatch, "uniform", lambda seed, stream, *shape, device: drop[int(stream[-1])] / 2 + 0.25
    )
    monkeypatch.setattr(protoseg.methods.prevmatch, "draw_ensemble", lambda held, most, gen: share)
    student, earlier = TinyNet(), {0: TinyNet(0.9), 2: TinyNet(1.1)}
    method = PrevMatch(student, threshold=THRESHOLD, total_steps=8)
    for place, network in earlier.items():
        method.snapshots.kept[place].network = network.requires_grad_(False)
    labeled, unlabeled = batches(2)
    supervised = F.cross_entropy(student(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
    maps = [x * kept[2:, :, None, None] for x, kept in zip(student.encode(unlabeled.weak), drop, strict=True)]
    mixed = sum(weight * earlier[place](unlabeled.weak).logits for place, weight in share.items())
    parts = []
    for labels, lower in ((labels_of(student(unlabeled.weak).logits), 0.0), (labels_of(mixed), 0.05)):
        labels = (labels[0], labels[1] + lower)
        strong = sum(mixed_ce(student, unlabeled, view, *labels) for view in range(2))
        feature = ce(F.conv2d(student.decode(maps), student.head), *labels, unlabeled.valid)
        parts.append(0.25 * strong + 0.5 * feature)
    ramp = 0.625  # of the middle of step 2 in 8
    formula = (supervised + parts[0] + ramp * parts[1]) / (2 + ramp)
    check(method, formula, 1.065190, step=2)


def without_padding() -> tuple[LabeledBatch, UnlabeledBatch]:
    """Where every pixel is real: older code bases average over padding too, or know none."""
    labeled, unlabeled = batches(1)
    return labeled, unlabeled._replace(valid=torch.ones_like(unlabeled.valid))


def test_cps() -> None:
    """L = CE_1(x_l) + CE_2(x_l) + w (CE(f_1(mix), argmax of f_2) + CE(f_2(mix), argmax of f_1)), w = 1 for CutMix on VOC."""
    first, second = TinyNet(), TinyNet(0.9)
    method = CrossPseudoSupervision(first)
    method.peer = second
    labeled, unlabeled = without_padding()
    box = unlabeled.box[0]
    image, formula = swapped(unlabeled.strong[0], box), torch.zeros(())
    for network, other in ((first, second), (second, first)):
        label = swapped(other(unlabeled.weak).logits, box).argmax(dim=1)
        formula = formula + F.cross_entropy(network(image).logits, label)
        formula = formula + F.cross_entropy(network(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
    check(method, formula, 7.822448, (labeled, unlabeled))


@pytest.mark.parametrize(("method_class", "published"), [(MeanTeacher, 2.475662), (CutMixMT, 2.483393)])
def test_teachers_of_probabilities(method_class: type[MeanTeacher], published: float) -> None:
    """L = CE(x_l) + the share of pixels with max q >= threshold, times the mean over pixels of sum_c (p_c - q_c)^2."""
    student, teacher = TinyNet(), TinyNet(0.9)
    method = method_class(student, threshold=THRESHOLD)
    method.teacher.network = teacher.requires_grad_(False)
    labeled, unlabeled = without_padding()
    box = unlabeled.box[0] if method_class is CutMixMT else torch.zeros_like(unlabeled.valid)
    supervised = F.cross_entropy(student(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
    p = student(swapped(unlabeled.strong[0], box)).logits.softmax(dim=1)
    q = swapped(teacher(unlabeled.weak).logits, box).softmax(dim=1)
    rate = (q.amax(dim=1) >= THRESHOLD).float().mean()
    check(method, supervised + rate * (p - q).square().sum(dim=1).mean(), published, (labeled, unlabeled))


def test_another_mean_teacher_differs_by_a_constant() -> None:
    """TorchSemiSeg's has the mean over classes, where French et al. have the sum, and no rate; it multiplies by 100."""
    student, teacher = TinyNet(), TinyNet(0.9)
    method = MeanTeacher(student, threshold=0.0)
    method.teacher.network = teacher.requires_grad_(False)
    labeled, unlabeled = without_padding()
    p, q = (f(x).logits.softmax(dim=1) for f, x in ((student, unlabeled.strong[0]), (teacher, unlabeled.weak)))
    term = method.train()(labeled, unlabeled, step=0).terms["consistency"].item()
    assert term == pytest.approx(3 * F.mse_loss(p, q).item(), abs=1e-5)
    assert term == pytest.approx(3 * 0.172376, abs=1e-5)
