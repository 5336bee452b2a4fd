"""PrototypeConsistency: the four terms recomputed pixel by pixel, and what moves when."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.points import sample_points
from protoseg.functional.random import uniform
from protoseg.methods.prototype import PrototypeConsistency
from protoseg.methods.prototype_term import PrototypeCarry, PrototypeTerm
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.share_alignment import ShareAlignment
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, SegOutput, StepOutput, UnlabeledBatch

SIDE, GRID, K = 32, 4, 2
Places = dict[tuple[int, int, int], float]


class WithAuxiliary(SmallUNet):
    """A network with a second head in training."""

    def forward(self, image: Tensor) -> SegOutput:
        out = super().forward(image)
        return out._replace(auxiliary=0.5 * out.logits.flip(1) if self.training else None)


def make(*, classes: int = 3, prototypes: bool = True, kind: type[SmallUNet] = SmallUNet, **options) -> PrototypeConsistency:
    """A method with a teacher that differs from the student and is sure of some pixels."""
    torch.manual_seed(0)
    student = kind(classes, width=4)
    student(torch.randn(4, 3, SIDE, SIDE))
    term = None
    if prototypes:
        term = PrototypeTerm(PrototypeHead(4, classes, per_class=K), grid=GRID)
    method = PrototypeConsistency(student, prototypes=term, **options)
    inner = method.teacher.network
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        logits = inner(torch.randn(4, 3, SIDE, SIDE)).logits.transpose(0, 1).flatten(1)  # an untrained head names one class
        factor = 2 / logits.std(dim=1)
        inner.head.weight *= factor[:, None, None, None]
        inner.head.bias.copy_((inner.head.bias - logits.mean(dim=1)) * factor)
    return method


def ready(method: PrototypeConsistency) -> PrototypeConsistency:
    head, gen = method.prototypes.head, torch.Generator().manual_seed(1)
    head.fit(torch.rand(40 * head.num_classes, 4, generator=gen), torch.arange(40 * head.num_classes) % head.num_classes)
    return method


def labeled_batch(*, size: int = 2, classes: int = 3, ignored: float = 0.3) -> LabeledBatch:
    gen = torch.Generator().manual_seed(2)
    mask = torch.randint(0, classes, (size, SIDE, SIDE), generator=gen)
    mask[torch.rand(mask.shape, generator=gen) < ignored] = IGNORE_INDEX
    return LabeledBatch(torch.randn(size, 3, SIDE, SIDE, generator=gen), mask, torch.arange(size) + 100)


def unlabeled_batch(*, size: int = 2) -> UnlabeledBatch:
    gen = torch.Generator().manual_seed(3)
    weak = torch.randn(size, 3, SIDE, SIDE, generator=gen)
    valid = torch.ones(size, SIDE, SIDE, dtype=torch.bool)
    valid[0, 20:] = False
    box = torch.zeros(1, size, SIDE, SIDE, dtype=torch.bool)
    box[0, :, 8:24, 0:20] = True
    strong = (weak + 0.3 * torch.randn(weak.shape, generator=gen))[None]
    return UnlabeledBatch(weak, strong, valid, box, torch.arange(size) + 200)


def points(out: StepOutput) -> PrototypeCarry:
    """All points of a step, the labelled ones first."""
    carry: PrototypeCarry = out.carry.prototypes[0]
    return carry


def probabilities(scores: list[float]) -> list[float]:
    top = max(scores)
    exponentials = [math.exp(s - top) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def cross_entropy(scores: list[float], label: int) -> float:
    return -math.log(probabilities(scores)[label])


def everywhere(count: int) -> Iterator[tuple[int, int, int]]:
    return ((b, y, x) for b in range(count) for y in range(SIDE) for x in range(SIDE))


class Slow:
    """One iteration of section 1.3 with the decisions of section 7, pixel by pixel. Partners are images 0 and 1."""

    def __init__(
        self, method: PrototypeConsistency, labeled: LabeledBatch, unlabeled: UnlabeledBatch, *, dropped: float
    ) -> None:
        self.method = copy.deepcopy(method)
        count = len(unlabeled.weak)
        partner = {1: [0], 2: [1, 0]}[count]

        teacher = self.method.teacher.network.eval()
        with torch.no_grad():
            q = {p: probabilities(v) for p, v in self.pixels(teacher(unlabeled.weak).logits).items()}
        real = [p for p in everywhere(count) if unlabeled.valid[p]]
        entropy = {p: -sum(v * math.log(v) for v in q[p] if v > 0) for p in real}
        kept = set(sorted(real, key=entropy.get)[: math.ceil(len(real) * (100 - dropped) / 100)])

        self.label: dict[tuple[int, int, int], int] = {}
        self.valid: set[tuple[int, int, int]] = set()
        self.learn: set[tuple[int, int, int]] = set()  # valid and not dropped
        self.confident: set[tuple[int, int, int]] = set()
        mixed = unlabeled.strong[0].clone()
        for b, y, x in everywhere(count):
            source = (partner[b], y, x) if unlabeled.box[0, b, y, x] else (b, y, x)
            mixed[b, :, y, x] = unlabeled.strong[0, source[0], :, y, x]
            self.label[b, y, x] = q[source].index(max(q[source]))
            if unlabeled.valid[source]:
                self.valid.add((b, y, x))
                if source in kept:
                    self.learn.add((b, y, x))
                    if max(q[source]) >= method.threshold:
                        self.confident.add((b, y, x))

        out = self.method.student.train()(torch.cat([labeled.image, mixed]))
        self.out, self.num_labeled = out, len(labeled.image)
        first, second = self.pixels(out.logits[: self.num_labeled]), self.pixels(out.logits[self.num_labeled :])
        truth = {p: int(labeled.mask[p]) for p in everywhere(self.num_labeled)}
        known = [p for p in truth if truth[p] != IGNORE_INDEX]
        by_selected = method.normalizer == "selected"
        self.labeled = sum(cross_entropy(first[p], truth[p]) for p in known) / max(1, len(known))
        if method.selection == "threshold":
            count = len(self.confident if by_selected else self.valid)
            self.consistency = sum(cross_entropy(second[p], self.label[p]) for p in self.confident) / max(1, count)
        else:  # (pixels / kept) * mean over kept
            mean = sum(cross_entropy(second[p], self.label[p]) for p in self.learn) / max(1, len(self.learn))
            self.consistency = len(self.valid) / max(1, len(self.learn)) * mean

        if method.prototypes is None:
            return
        dense = F.interpolate(out.features, out.covers, mode="bilinear", align_corners=out.align_corners)
        seeds = torch.cat([labeled.seed, unlabeled.seed])
        points = sample_points(uniform(seeds, "points", GRID * GRID, 2), (SIDE, SIDE), grid=GRID)
        sums, counts = [0.0, 0.0], [0, 0]
        self.members: dict[tuple[int, int], list[Tensor]] = {}
        for b, y, x in [(i, *place) for i, places in enumerate(points.tolist()) for place in places]:
            z, half = dense[b, :, y, x].detach(), int(b >= self.num_labeled)
            place = (b - half * self.num_labeled, y, x)
            label = self.label[place] if half else truth[place]
            counts[half] += place in (self.confident if by_selected else self.valid) if half else label != IGNORE_INDEX
            if place not in self.confident if half else label == IGNORE_INDEX:
                continue
            logits, nearest = self.prototype_logits(z)
            sums[half] += cross_entropy(logits, label)
            self.members.setdefault((label, nearest[label]), []).append(z)
        self.prototype_labeled, self.prototype_consistency = (s / max(1, n) for s, n in zip(sums, counts, strict=True))

    @staticmethod
    def pixels(logits: Tensor) -> dict[tuple[int, int, int], list[float]]:
        rows = logits.detach().permute(0, 2, 3, 1).tolist()
        return {(b, y, x): rows[b][y][x] for b, y, x in everywhere(len(rows))}

    def prototype_logits(self, z: Tensor) -> tuple[list[float], list[int]]:
        logits, nearest = [], []
        for prototypes in self.method.prototypes.head.prototype:
            cosine = [float(z @ p / (z.norm() * p.norm())) for p in prototypes]
            nearest.append(cosine.index(max(cosine)))
            logits.append(max(cosine) / 0.1)
        return logits, nearest


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("selection", ["threshold", "entropy_drop"])
def test_all_four_terms(selection: str, size: int) -> None:
    method = ready(make(selection=selection, threshold=0.7, drop_percent=40.0, total_steps=10))
    labeled, unlabeled, step = labeled_batch(), unlabeled_batch(size=size), 5
    slow = Slow(method, labeled, unlabeled, dropped=20.0 if selection == "entropy_drop" else 0.0)
    out = method.train()(labeled, unlabeled, step=step)
    assert out.terms.keys() == {"labeled", "consistency", "prototype_labeled", "prototype_consistency"}
    for name, value in out.terms.items():
        assert value.item() == pytest.approx(getattr(slow, name), rel=1e-4), name
        assert value.item() > 0
        assert not value.requires_grad
    total = slow.labeled + slow.consistency + slow.prototype_labeled + slow.prototype_consistency
    assert out.loss.item() == pytest.approx(total, rel=1e-4)
    assert out.monitors["confident"].item() == pytest.approx(len(slow.confident) / len(slow.valid))
    assert 0.1 < len(slow.confident) / len(slow.valid) < 0.9, "the test is about a teacher that is sure of some pixels"
    assert {slow.label[p] for p in slow.confident} == {0, 1, 2}
    assert len(slow.learn) < len(slow.valid) or selection == "threshold"


def test_average_over_the_pixels_that_teach() -> None:
    method, labeled, unlabeled = ready(make(threshold=0.7, normalizer="selected")), labeled_batch(), unlabeled_batch()
    slow = Slow(method, labeled, unlabeled, dropped=0.0)
    out = method.train()(labeled, unlabeled, step=0)
    for name, value in out.terms.items():
        assert value.item() == pytest.approx(getattr(slow, name), rel=1e-4), name
    by_valid = ready(make(threshold=0.7)).train()(labeled, unlabeled, step=0)
    assert out.terms["consistency"] > 1.1 * by_valid.terms["consistency"]
    assert out.terms["prototype_consistency"] > 1.1 * by_valid.terms["prototype_consistency"]


def test_weights_of_the_terms() -> None:
    weights = {"unlabeled_weight": 0.5, "prototype_weight": 0.1, "auxiliary_weight": 0.3}
    method = ready(make(kind=WithAuxiliary, threshold=0.7, **weights))
    out = method.train()(labeled_batch(), unlabeled_batch(), step=0)
    expected = {"labeled": 1, "auxiliary": 0.3, "consistency": 0.5, "prototype_labeled": 0.1, "prototype_consistency": 0.05}
    assert out.terms.keys() == expected.keys()
    assert out.loss.item() == pytest.approx(sum(w * out.terms[name].item() for name, w in expected.items()), rel=1e-5)
    plain = ready(make(threshold=0.7))(labeled_batch(), unlabeled_batch(), step=0)
    assert out.terms["labeled"].item() == pytest.approx(plain.terms["labeled"].item(), rel=1e-5)


@pytest.mark.parametrize(("images", "counting"), [("labeled", "prototype_labeled"), ("unlabeled", "prototype_consistency")])
def test_the_term_on_one_kind_of_images(images: str, counting: str) -> None:
    both, one = ready(make(threshold=0.7)).train(), ready(make(threshold=0.7)).train()
    one.prototypes.images = images
    everything, part = (method(labeled_batch(), unlabeled_batch(), step=0) for method in (both, one))
    assert part.terms == everything.terms  # said all the same
    linear = part.terms["labeled"] + part.terms["consistency"]
    assert part.loss.item() == pytest.approx((linear + part.terms[counting]).item(), rel=1e-5)
    assert everything.loss.item() > part.loss.item() > linear.item()


def test_auxiliary_head_learns_from_labels_only() -> None:
    method, labeled, unlabeled = ready(make(kind=WithAuxiliary, threshold=0.7)), labeled_batch(), unlabeled_batch()
    slow = Slow(method, labeled, unlabeled, dropped=0.0)
    known = (labeled.mask != IGNORE_INDEX).nonzero().tolist()
    second = slow.out.auxiliary.detach()
    expected = [cross_entropy(second[b, :, y, x].tolist(), int(labeled.mask[b, y, x])) for b, y, x in known]
    out = method.train()(labeled, unlabeled, step=0)
    assert out.terms["auxiliary"].item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_entropy_drop_ends_with_the_run() -> None:
    """At the last step, and past it, nothing is dropped."""
    labeled, unlabeled = labeled_batch(), unlabeled_batch()
    losses = []
    for step, drop in [(0, 50.0), (10, 50.0), (11, 50.0), (0, 0.0)]:
        method = ready(make(selection="entropy_drop", drop_percent=drop, total_steps=10))
        losses.append(method.train()(labeled, unlabeled, step=step).terms["consistency"].item())
    assert losses[1] == losses[2] == losses[3]
    assert losses[0] != losses[3]


def test_gradient_reaches_the_student_and_nothing_else() -> None:
    method = ready(make(threshold=0.7)).train()
    method(labeled_batch(), unlabeled_batch(), step=0).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.student.parameters() if parameter.ndim > 1)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.teacher.parameters())
    assert method.prototypes.head.prototype.grad is None
    learned = {name.split(".")[0] for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert learned == {"student"}


def test_forward_writes_only_batchnorm_statistics_of_the_student() -> None:
    method = ready(make(threshold=0.7)).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(labeled_batch(), unlabeled_batch(), step=0)
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {n for n in before if n.startswith("student.") and ("running" in n or "num_batches" in n)}


def test_warm_up_uses_labels_only() -> None:
    method = ready(make(warmup_steps=3)).train()
    labeled, other = labeled_batch(), unlabeled_batch()._replace(weak=torch.full((2, 3, SIDE, SIDE), float("nan")))
    seen = copy.deepcopy(method.student).train()(labeled.image)
    expected = F.cross_entropy(seen.logits, labeled.mask, ignore_index=IGNORE_INDEX)
    for unlabeled in (None, other):
        method.student.load_state_dict(make(warmup_steps=3).student.state_dict())
        out = method(labeled, unlabeled, step=2)
        assert out.terms.keys() == {"labeled"}
        torch.testing.assert_close(out.loss, expected)
        assert not out.carry.prototypes
    with pytest.raises(AssertionError, match="unlabelled"):
        method(labeled, None, step=3)


def test_prototypes_start_when_the_warm_up_is_over() -> None:
    method, calls = make(warmup_steps=3), []

    def labelled_pass() -> Iterator[LabeledBatch]:
        calls.append(None)
        return iter([labeled_batch(), labeled_batch(ignored=0.0)])

    for step in (0, 1, 2):
        method.before_step(labelled_pass, step=step)
    assert not calls
    assert not method.prototypes.head.ready.any()
    method.before_step(labelled_pass, step=3)
    assert len(calls) == 1
    assert method.prototypes.head.ready.all()
    started = method.prototypes.head.prototype.clone()
    method.before_step(labelled_pass, step=4)
    assert len(calls) == 1
    assert torch.equal(method.prototypes.head.prototype, started)


def test_until_delayed_prototypes_start_it_is_the_cutmix_teacher() -> None:
    delayed, plain = make(warmup_steps=1, prototype_delay=2), make(warmup_steps=1, prototypes=False)
    labeled, unlabeled, calls = labeled_batch(), unlabeled_batch(), []

    def labelled_pass() -> Iterator[LabeledBatch]:
        calls.append(None)
        return iter([labeled_batch(ignored=0.0)])

    for step in (1, 2):
        delayed.before_step(labelled_pass, step=step)
        out, expected = (method.train()(labeled, unlabeled, step=step) for method in (delayed, plain))
        assert torch.equal(out.loss, expected.loss)
        assert out.terms.keys() == expected.terms.keys()
        for method, carry in ((delayed, out.carry), (plain, expected.carry)):
            method.after_step([carry], step=step)
    assert not calls
    assert not delayed.prototypes.head.ready.any()
    delayed.before_step(labelled_pass, step=3)
    assert "prototype_labeled" in delayed(labeled, unlabeled, step=3).terms
    assert delayed.prototypes.head.ready.all()


def test_after_step_moves_teacher_and_prototypes() -> None:
    method = ready(make(threshold=0.7, warmup_steps=1, ema_momentum=0.99)).train()
    labeled, unlabeled = labeled_batch(), unlabeled_batch()
    for step, momentum in [(1, 0.0), (2, 0.5)]:
        slow = Slow(method, labeled, unlabeled, dropped=0.0)
        out = method(labeled, unlabeled, step=step)
        with torch.no_grad():
            for parameter in method.student.parameters():
                parameter += 0.01
        expected_prototype = method.prototypes.head.prototype.clone()
        for (c, k), members in slow.members.items():
            expected_prototype[c, k] = 0.99 * expected_prototype[c, k] + 0.01 * torch.stack(members).mean(dim=0)
        old = copy.deepcopy(method.teacher.network.state_dict())
        method.after_step([out.carry], step=step)
        torch.testing.assert_close(method.prototypes.head.prototype, expected_prototype, atol=1e-5, rtol=1e-4)
        assert not torch.equal(expected_prototype, slow.method.prototypes.head.prototype)
        for name, value in method.teacher.network.state_dict().items():
            student = method.student.state_dict()[name]
            expected = momentum * old[name] + (1 - momentum) * student if value.is_floating_point() else student
            torch.testing.assert_close(value, expected)


def test_after_step_of_the_warm_up_leaves_prototypes_alone() -> None:
    method = ready(make(warmup_steps=3))
    before = method.prototypes.head.prototype.clone()
    method.after_step([method(labeled_batch(), None, step=0).carry], step=0)
    assert torch.equal(method.prototypes.head.prototype, before)
    assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), method.student.parameters(), strict=True))


def test_padding_stays_out_after_mixing() -> None:
    """Whatever the teacher says about padding, pasted into the partner or not, changes nothing."""
    labeled, unlabeled = labeled_batch(), unlabeled_batch()
    carries, losses = [], []
    for _ in range(2):
        method = ready(make(threshold=0.0)).train()
        shift = torch.zeros(2, 3, SIDE, SIDE)
        if losses:
            shift[:, 1] = torch.where(unlabeled.valid, 0.0, 1e3)
        inner = method.teacher.network
        method.teacher.forward = lambda image, inner=inner, shift=shift: SegOutput(
            inner(image).logits.detach() + shift, torch.empty(0), (SIDE, SIDE), True
        )
        out = method(labeled, unlabeled, step=0)
        losses.append(out.loss.item())
        carries.append(points(out))
    assert losses[0] == losses[1]
    assert not torch.equal(carries[0].label, carries[1].label), "the labels of padding did change"
    assert torch.equal(carries[0].weight, carries[1].weight)
    assert torch.equal(carries[0].label[carries[0].weight], carries[1].label[carries[0].weight])


@pytest.mark.parametrize("selection", ["threshold", "entropy_drop"])
@pytest.mark.parametrize("case", ["no label", "padding only", "never sure", "nothing at all", "no prototypes yet"])
def test_missing_pieces_are_zero_and_finite(case: str, selection: str) -> None:
    method = make(
        threshold=1.0 if case in ("never sure", "nothing at all") else 0.5, selection=selection, total_steps=10
    ).train()
    if case != "no prototypes yet":
        ready(method)
    labeled = labeled_batch(ignored=1.0 if case in ("no label", "nothing at all") else 0.3)
    unlabeled = unlabeled_batch()
    if case in ("padding only", "nothing at all"):
        unlabeled.valid.zero_()
    before = method.prototypes.head.prototype.clone()
    out = method(labeled, unlabeled, step=0)
    out.loss.backward()
    method.after_step([out.carry], step=0)
    zero = {name for name, value in out.terms.items() if value.item() == 0}
    assert (
        zero
        == {
            "no label": {"labeled", "prototype_labeled"},
            "padding only": {"consistency", "prototype_consistency"},
            "never sure": {"prototype_consistency"} | ({"consistency"} if selection == "threshold" else set()),
            "nothing at all": {"labeled", "prototype_labeled", "consistency", "prototype_consistency"},
            "no prototypes yet": {"prototype_labeled", "prototype_consistency"},
        }[case]
    )
    assert out.loss.isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in method.student.parameters())
    assert method.prototypes.head.prototype.isfinite().all()
    assert torch.equal(method.prototypes.head.prototype, before) is (case == "nothing at all")


def test_class_that_labels_lack_is_left_out_until_the_teacher_is_sure_of_it() -> None:
    method, labeled = make(threshold=0.5).train(), labeled_batch()
    labeled.mask[labeled.mask == 2] = IGNORE_INDEX
    method.before_step(lambda: iter([labeled]), step=0)
    assert method.prototypes.head.ready.tolist() == [True, True, False]
    out = method(labeled, unlabeled_batch(), step=0)
    assert out.loss.isfinite()
    assert ((points(out).label == 2) & points(out).weight).any()
    method.after_step([out.carry], step=0)
    assert method.prototypes.head.ready.all()


@pytest.mark.parametrize("size", [1, 3])
def test_other_batch_sizes(size: int) -> None:
    method = ready(make(threshold=0.5)).train()
    out = method(labeled_batch(size=size), unlabeled_batch(size=size), step=0)
    out.loss.backward()
    assert out.loss.isfinite()
    assert points(out).features.shape == (2 * size * GRID**2, 4)


@pytest.mark.parametrize("classes", [2, 150])
def test_few_and_many_classes(classes: int) -> None:
    method = ready(make(classes=classes, threshold=1.5 / classes)).train()
    out = method(labeled_batch(classes=classes), unlabeled_batch(), step=0)
    out.loss.backward()
    method.after_step([out.carry], step=0)
    assert all(value.item() > 0 for value in out.terms.values())
    assert out.terms["labeled"].item() == pytest.approx(math.log(classes), rel=0.3)  # a student that knows nothing
    assert points(out).nearest.shape == (4 * GRID**2, classes)


@pytest.mark.parametrize("selection", ["threshold", "entropy_drop"])
def test_without_prototypes_it_is_a_cutmix_teacher(selection: str) -> None:
    method = make(prototypes=False, threshold=0.7, selection=selection, drop_percent=30, total_steps=10).train()
    labeled, unlabeled = labeled_batch(), unlabeled_batch()
    slow = Slow(method, labeled, unlabeled, dropped=30.0 if selection == "entropy_drop" else 0.0)
    method.before_step(lambda: iter([labeled]), step=0)
    out = method(labeled, unlabeled, step=0)
    assert out.terms.keys() == {"labeled", "consistency"}
    assert out.loss.item() == pytest.approx(slow.labeled + slow.consistency, rel=1e-4)
    assert not out.carry.prototypes
    method.after_step([out.carry], step=0)
    assert not any("prototype" in name for name in method.state_dict())


def test_alignment_moves_the_teachers_labels_and_follows_what_they_were() -> None:
    alignment = ShareAlignment([5, 3, 2])
    method = ready(make(threshold=0.5, warmup_steps=1, alignment=alignment)).train()
    labeled, unlabeled = labeled_batch(), unlabeled_batch()
    method.after_step([method(labeled, None, step=0).carry], step=0)
    assert alignment.bias.tolist() == [0, 0, 0]

    alignment.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))  # whatever it sees, it now calls 1
    out = method(labeled, unlabeled, step=1)
    assert alignment.bias.tolist() == [0, 50, 0], "forward only computes"
    assert set(points(out).label[-2 * GRID**2 :].tolist()) == {1}
    assert out.carry.pseudo_count.tolist() == [0, int(unlabeled.valid.sum()), 0]
    expected = copy.deepcopy(alignment)
    for _ in range(2):  # two passes of one accumulated step
        expected.update(out.carry.pseudo_count)
    method.after_step([out.carry, out.carry], step=1)
    assert torch.equal(alignment.bias, expected.bias)
    assert alignment.bias[1] < 50
    assert {"alignment.bias", "alignment.share"} <= method.state_dict().keys()


def test_half_precision_forward_is_finite_and_close() -> None:
    full = ready(make(threshold=0.5)).train()(labeled_batch(), unlabeled_batch(), step=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ready(make(threshold=0.5)).train()(labeled_batch(), unlabeled_batch(), step=0)
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.1)
    half.loss.backward()


def run(method: PrototypeConsistency, first: int, last: int, optimizer: torch.optim.Optimizer) -> list[float]:
    """Steps on a toy set: three colours, labelled by colour."""
    losses = []
    for step in range(first, last):
        gen = torch.Generator().manual_seed(step)
        mask = torch.randint(0, 3, (4, 4, 4), generator=gen).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        image = F.one_hot(mask, 3).permute(0, 3, 1, 2).float() + 0.3 * torch.randn(4, 3, SIDE, SIDE, generator=gen)
        labeled = LabeledBatch(image[:2], mask[:2], torch.tensor([4 * step, 4 * step + 1]))
        unlabeled = unlabeled_batch()._replace(weak=image[2:], strong=image[2:][None], seed=labeled.seed + 2)
        method.before_step(lambda labeled=labeled: iter([labeled]), step=step)
        out = method(labeled, unlabeled, step=step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step([out.carry], step=step)
        losses.append(out.loss.item())
    return losses


def toy(seed: int = 0) -> tuple[PrototypeConsistency, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    student = SmallUNet(3, width=8)
    term = PrototypeTerm(PrototypeHead(8, 3, per_class=K), grid=8)
    method = PrototypeConsistency(student, prototypes=term, threshold=0.6, warmup_steps=5, total_steps=35).train()
    return method, torch.optim.AdamW(student.parameters(), lr=0.01)


def test_loss_falls_on_a_toy_set() -> None:
    method, optimizer = toy()
    losses = run(method, 0, 35, optimizer)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.5 * sum(losses[5:10])
    gen = torch.Generator().manual_seed(99)
    mask = torch.randint(0, 3, (2, 4, 4), generator=gen).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    image = F.one_hot(mask, 3).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        out = method.predictor(image)
        by_prototype = method.prototypes.head(F.interpolate(out.features, (SIDE, SIDE), mode="bilinear"))
    assert (out.logits.argmax(dim=1) == mask).float().mean() > 0.8
    assert (by_prototype.argmax(dim=1) == mask).float().mean() > 0.8


def test_resumed_state_goes_on_to_the_same_losses() -> None:
    method, optimizer = toy()
    run(method, 0, 8, optimizer)
    resumed, other = toy(seed=1)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert run(resumed, 8, 12, other) == run(method, 8, 12, optimizer)
    for name, value in method.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"ema_momentum": 1.0}, "ema_momentum"),
        ({"selection": "treshold"}, "selection"),
        ({"drop_percent": 120.0}, "drop_percent"),
        ({"normalizer": "confident"}, "normalizer"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"prototype_delay": -1}, "prototype_delay"),
    ],
)
def test_impossible_options_are_refused_at_construction(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
