"""What every method keeps to, with and without the prototype term. A new method is tested by standing in `METHODS`.

B_u unlabelled images · C classes
"""

from __future__ import annotations

import copy
import importlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.config import METHODS, method_class
from protoseg.engine.guard import voided
from protoseg.functional.pseudo_label import pseudo_label
from protoseg.methods.base import Method
from protoseg.methods.prevmatch import PrevMatch
from protoseg.methods.prototype_term import Labels, PrototypeTerm
from protoseg.methods.self_training import SelfTraining
from protoseg.methods.supervised import Supervised
from protoseg.methods.u2pl import U2PL
from protoseg.nn.class_thresholds import ClassThresholds
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.share_alignment import ShareAlignment
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, SegOutput, UnlabeledBatch

SIDE, GRID, K, WIDTH = 32, 4, 2, 4
NAMES = sorted(METHODS)
LEARNING = [name for name in NAMES if method_class(name).uses_unlabeled]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fixmatch, labels from itself": ("fixmatch", {"labels_from": "self"}),
    "prototype, entropy drop": ("prototype", {"selection": "entropy_drop", "drop_percent": 30.0, "total_steps": 10}),
    "corrmatch, a threshold that moves": ("corrmatch", {"threshold": None}),
}
"""Options that change what a method does: name -> method and options."""
VARIED = [*NAMES, *VARIANTS]
BY_CLASS = ", a threshold for each class"
"""Behind the name of a method."""
TEACHING = [*LEARNING, *VARIANTS, *(f"{name}{BY_CLASS}" for name in LEARNING), f"corrmatch, a threshold that moves{BY_CLASS}"]
SELF_TEACHING = {
    "unimatch",
    "corrmatch",
    "corrmatch, a threshold that moves",
    "prevmatch",
    "cps",
    "fixmatch, labels from itself",
}
"""Methods whose labels come from networks that learn, not from the moving average or a finished model."""
PASTES_LABELS = {"augseg"}
"""Methods whose unlabelled crops may show labelled ones, which are certain."""
FEATURE_VIEW = {"unimatch", "corrmatch", "prevmatch"}
"""Methods that show the features of the weak view once more, changed."""
ON_BOTH_HALVES = {"contrast"}
"""Terms that labelled crops are enough for, and that have no view of their own."""
SECOND_LOSSES = {"soft", "correlation", "previous_strong_1", "previous_strong_2", "previous_feature"}
"""Terms on a view that has another one, which is where the prototype term belongs."""
SOFT = {"soft"}
"""Terms that are 0 where student and teacher say the same, however unsure."""


def make(name: str, *, classes: int = 3, prototypes: bool = False, labels: Labels = "linear", **options: Any) -> Method:
    """A method whose teacher has seen other weights than its student."""
    torch.manual_seed(0)
    student = SmallUNet(classes, width=WIDTH)
    student(torch.randn(4, 3, SIDE, SIDE))
    if prototypes:
        head = PrototypeHead(WIDTH, classes, per_class=K)
        features = torch.rand(20 * classes, WIDTH, generator=torch.Generator().manual_seed(1))
        head.fit(features, torch.arange(20 * classes) % classes)
        options["prototypes"] = PrototypeTerm(head, grid=GRID, labels=labels)
    name, by_class, _ = name.partition(BY_CLASS)
    if by_class:
        options["class_thresholds"] = ClassThresholds(classes)
        options["class_thresholds"].confidence.copy_(torch.linspace(1.0, 0.6, classes))
    name, own = VARIANTS.get(name, (name, {}))
    options = own | options
    if method_class(name).uses_unlabeled:
        options.setdefault("threshold", 0.0)
    method = method_class(name)(student, **options)
    with torch.no_grad():
        for parameter in method.teacher.network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        for parameter in method.snapshots.parameters() if isinstance(method, PrevMatch) else ():
            parameter += 0.05 * torch.randn(parameter.shape)
    if isinstance(method, U2PL):  # without keys there is no contrast yet
        method.contrast.update(torch.randn(20, WIDTH), torch.ones(20, classes, dtype=torch.bool))
    return method.train()


def labeled_batch(*, size: int = 2, classes: int = 3, ignored: float = 0.3) -> LabeledBatch:
    gen = torch.Generator().manual_seed(2)
    mask = torch.randint(0, classes, (size, SIDE, SIDE), generator=gen)
    mask[torch.rand(mask.shape, generator=gen) < ignored] = IGNORE_INDEX
    return LabeledBatch(torch.randn(size, 3, SIDE, SIDE, generator=gen), mask, torch.arange(size) + 100)


def unlabeled_batch(method: Method, *, size: int = 2, padded: int = 12, mixed: bool = True) -> UnlabeledBatch:
    gen = torch.Generator().manual_seed(3)
    weak = torch.randn(size, 3, SIDE, SIDE, generator=gen)
    valid = torch.ones(size, SIDE, SIDE, dtype=torch.bool)
    valid[0, SIDE - padded :] = False
    box = torch.zeros(method.num_strong, size, SIDE, SIDE, dtype=torch.bool)
    if mixed:
        box[:, :, 8:24, 0:20] = True
    strong = weak + 0.3 * torch.randn(method.num_strong, *weak.shape, generator=gen)
    return UnlabeledBatch(weak, strong, valid, box, torch.arange(size) + 200)


def given_labels(monkeypatch: pytest.MonkeyPatch, method: Method, change: Callable[[PseudoLabel], PseudoLabel]) -> None:
    """Let a method work with other pseudo-labels than its teacher's."""
    for cls in type(method).__mro__:
        module = importlib.import_module(cls.__module__)
        if hasattr(module, "pseudo_label"):
            monkeypatch.setattr(module, "pseudo_label", lambda logits, valid: change(pseudo_label(logits, valid)))


with_and_without = pytest.mark.parametrize("prototypes", [False, True], ids=["plain", "prototypes"])


def always_say(network: nn.Module, *logits: float) -> None:
    """The same at every pixel."""
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data.copy_(torch.tensor(logits))


def say_nothing(method: Method) -> None:
    """Every class alike, by both predictors: each pixel costs log C."""
    for part in method.trained():
        always_say(part.network, 0.0, 0.0, 0.0)
        if part.prototypes is not None:
            part.prototypes.head.assign(torch.ones(3, K, WIDTH))


@with_and_without
@pytest.mark.parametrize("name", NAMES)
def test_labelled_loss_is_averaged_over_labelled_pixels(name: str, prototypes: bool) -> None:
    method = make(name, prototypes=prototypes)
    say_nothing(method)
    for ignored in (0.0, 0.7):
        terms = method(labeled_batch(ignored=ignored), unlabeled_batch(method), step=0).terms
        for term in ("labeled", "prototype_labeled")[: 1 + prototypes]:
            for network in method.trained_names:
                assert terms[f"{term}{network}"].item() == pytest.approx(math.log(3), rel=1e-5)


@with_and_without
@pytest.mark.parametrize("name", [name for name in TEACHING if name != "prototype, entropy drop"])  # it has its own scale
def test_loss_is_averaged_over_valid_pixels_not_over_confident_ones(
    name: str, prototypes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a student that says the same everywhere, half as many confident pixels make half the loss."""
    sums = []
    for share in (SIDE, SIDE // 2):
        method = make(name, prototypes=prototypes, threshold=None if "moves" in name else 0.9)
        say_nothing(method)
        always_say(method.teacher.network, 40.0, 0.0, 0.0)  # so sure that augseg pastes no labels

        def sure(pseudo: PseudoLabel, share: int = share) -> PseudoLabel:
            confidence = torch.zeros_like(pseudo.confidence)
            confidence[..., :: SIDE // share] = 1.0  # scattered: no region is sure because of where it is
            return pseudo._replace(confidence=confidence)

        with monkeypatch.context() as patch:
            given_labels(patch, method, sure)
            out = method(labeled_batch(), unlabeled_batch(method, mixed=False, padded=SIDE // 2), step=0)
        averaged = [term for term in method.unlabeled_weights if term not in ON_BOTH_HALVES | SOFT]
        sums.append([out.terms[term].item() for term in averaged])
        views = [weight for term, weight in method.unlabeled_weights.items() if term not in ON_BOTH_HALVES | SECOND_LOSSES]
        real = 2 * GRID**2 * 3 // 4  # points, half of one image being padding
        for network, carry in zip(method.trained_names if prototypes else (), out.carry.prototypes, strict=True):
            _, *teaching = carry.weight.view(-1, 2 * GRID**2).sum(dim=1).tolist()  # of the labelled crops, then of each view
            own, views = views[: len(teaching)], views[len(teaching) :]
            expected = [weight * count / real for weight, count in zip(own, teaching, strict=True)]
            found = out.terms[f"prototype_consistency{network}"].item()
            assert found == pytest.approx(math.log(3) * sum(expected) / sum(own), rel=1e-5)
            assert (sum(expected) / sum(own) < 0.9) is (share < SIDE)
        if name.removesuffix(BY_CLASS) not in {"mean_teacher", "cutmix_mt"}:  # squared errors
            assert sums[-1] == pytest.approx([math.log(3) * share / SIDE] * len(sums[-1]), rel=1e-5)
    assert sums[1] == pytest.approx([value / 2 for value in sums[0]], rel=1e-5)
    assert min(sums[0]) > 0


@pytest.mark.parametrize("name", LEARNING)
def test_a_class_may_have_a_threshold_of_its_own(name: str) -> None:
    """Lower thresholds let more pixels teach, and follow how sure the labels are of each class."""
    plain, own = make(name, threshold=0.9), make(name, threshold=0.9, class_thresholds=ClassThresholds(3, momentum=0.5))
    labeled, unlabeled = labeled_batch(), unlabeled_batch(plain)
    first = own(labeled, unlabeled, step=0)
    assert first.loss.item() == pytest.approx(plain(labeled, unlabeled, step=0).loss.item())
    own.after_step([first.carry], step=0)
    assert own.class_thresholds is not None
    assert own.class_thresholds.confidence.min() < 1
    own.class_thresholds.confidence.copy_(torch.tensor([1.0, 0.1, 0.1]))
    assert own(labeled, unlabeled, step=1).monitors["confident"] > first.monitors["confident"]


@pytest.mark.parametrize("name", sorted(set(LEARNING) - {"self_training"}))
def test_prototypes_may_veto_a_label_or_say_half_of_it(name: str) -> None:
    """Prototypes which take every pixel for class 0 leave to a teacher of class 2 nothing to teach, and outvote a faint one."""
    labels: Labels
    for labels, sure, teaches in (("linear", 40.0, True), ("agree", 40.0, False), ("mean", 40.0, True), ("mean", 0.1, True)):
        method = make(name, prototypes=True, labels=labels, threshold=0.4)
        for part in method.trained():
            assert part.prototypes is not None
            direction = -torch.ones(3, K, WIDTH)
            direction[0] = 1.0  # features are not negative
            part.prototypes.head.assign(direction)
        for network in (method.teacher.network, *(part.network for part in method.trained())):
            torch.nn.init.zeros_(network.head.weight)
            network.head.bias.data.copy_(torch.tensor([0.0, 0.0, sure]))
        unlabeled = unlabeled_batch(method)
        with torch.no_grad():
            _, pseudo = method.label(method.teacher(unlabeled.weak), unlabeled.valid)
        expected = {"linear": 2, "agree": IGNORE_INDEX, "mean": 2 if sure > 1 else 0}[labels]
        assert (pseudo.label[unlabeled.valid] == expected).float().mean() > 0.9  # where no feature is 0
        method.train()
        share = method(labeled_batch(), unlabeled, step=0).monitors["confident"].item()
        assert (share > 0.3) is teaches, (labels, share)


@with_and_without
@pytest.mark.parametrize("name", ["supervised", *TEACHING])
def test_padding_stays_out_after_mixing(name: str, prototypes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is believed about padding, pasted into the partner or not, changes no loss and nothing that is kept."""
    losses, states = [], []
    for label in (0, 1):
        threshold = {} if name == "supervised" else {"threshold": None if "moves" in name else 0.5}
        method = make(name, prototypes=prototypes, alignment=ShareAlignment([1] * 3), **threshold)

        def believe(pseudo: PseudoLabel, label: int = label) -> PseudoLabel:
            sure = torch.where(pseudo.valid, pseudo.confidence, 1.0)
            return pseudo._replace(label=torch.where(pseudo.valid, pseudo.label, label), confidence=sure)

        with monkeypatch.context() as patch:
            given_labels(patch, method, believe)
            out = method(labeled_batch(), unlabeled_batch(method), step=0)
        method.after_step([out.carry], step=0)
        losses.append(out.loss.item())
        states.append(method.state_dict())
    assert losses[0] == losses[1]
    assert [key for key, value in states[0].items() if not torch.equal(value, states[1][key])] == []


@pytest.mark.parametrize("name", sorted({*LEARNING, *VARIANTS}))
def test_agreement_is_with_whoever_labels(name: str) -> None:
    """Networks that learn say one class, the moving average another, a finished model a third."""
    method = make(name)
    for part in method.trained():
        always_say(part.network, 40.0, 0.0, 0.0)
    always_say(method.teacher.network, 0.0, 0.0, 40.0)
    if isinstance(method, SelfTraining):
        always_say(method.labeler.network, 0.0, 40.0, 0.0)
    vitals = method(labeled_batch(), unlabeled_batch(method), step=0).vitals
    assert vitals is not None
    assert vitals.agreeing is not None
    assert vitals.compared is not None
    assert int(vitals.agreeing) == (int(vitals.compared) if name in SELF_TEACHING else 0)
    assert int(vitals.compared) > 0


class Pass(NamedTuple):
    """A forward pass of one of a method's networks."""

    network: str
    images: int
    training: bool = True
    learns: bool = True


LABELS, BOTH = Pass("student", 2), Pass("student", 4)
TEACHER = Pass("teacher.network", 2, training=False, learns=False)
PASSES = {
    "supervised": [LABELS],
    "unimatch_v2": [TEACHER, Pass("student", 6)],  # labels and two views
    "u2pl": [TEACHER._replace(images=4), BOTH],  # its contrast asks about labelled pixels too
    # A student that teaches itself does so in training mode, in the pass over labels and weak views that it learns from.
    "unimatch": [BOTH, BOTH],  # then two strong views
    "corrmatch": [BOTH, LABELS],  # then one
    "prevmatch": [BOTH, BOTH, Pass("snapshots.kept.0.network", 2, training=False, learns=False)],
    "cps": [
        *(Pass(network, 2, learns=False) for network in ("student", "peer")),
        *(Pass(network, 4) for network in ("student", "peer")),
    ],
    "self_training": [TEACHER._replace(network="labeler.network"), BOTH],
    "corrmatch, a threshold that moves": [BOTH, LABELS],
    "fixmatch, labels from itself": [BOTH, LABELS],  # then the strong view
}
"""Which networks look at how many images, two labelled and two unlabelled; [TEACHER, BOTH] where nothing is said."""


@pytest.mark.parametrize("name", VARIED)
def test_mode_and_statistics_of_the_passes(name: str) -> None:
    """What labels from outside the training looks in eval mode and keeps its statistics."""
    method, seen = make(name), []

    def look(network: str, module: nn.Module, images: Tensor, out: SegOutput) -> None:
        seen.append(Pass(network, len(images), module.training, out.logits.requires_grad))

    for network, module in method.named_modules():
        if isinstance(module, SmallUNet):
            module.register_forward_hook(lambda module, args, out, network=network: look(network, module, args[0], out))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(labeled_batch(), unlabeled_batch(method), step=0)
    assert seen == PASSES.get(name, [TEACHER, BOTH])
    changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    trained = tuple(
        f"{name}." for name, module in method.named_children() if any(module is p.network for p in method.trained())
    )
    assert changed == {key for key in before if key.startswith(trained) and ("running" in key or "num_batches" in key)}


@with_and_without
@pytest.mark.parametrize("name", VARIED)
def test_gradients_only_where_they_belong(name: str, prototypes: bool) -> None:
    method = make(name, prototypes=prototypes)
    method(labeled_batch(), unlabeled_batch(method), step=0).loss.backward()
    trained = {id(parameter) for parameter in method.trained_parameters()}
    for parameter in method.parameters():
        assert parameter.requires_grad is (id(parameter) in trained)
        assert (parameter.grad is not None) is (id(parameter) in trained)
    assert all(p.grad.abs().sum() > 0 for p in method.trained_parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", VARIED)
def test_teacher_follows_parameters_and_buffers(name: str) -> None:
    method = make(name, ema_momentum=0.75)
    out = method(labeled_batch(), unlabeled_batch(method), step=0)
    old = copy.deepcopy(method.teacher.network.state_dict())
    method.after_step([out.carry], step=10)
    for key, value in method.teacher.network.state_dict().items():
        student = method.student.state_dict()[key]
        expected = 0.75 * old[key] + 0.25 * student if value.is_floating_point() else student
        torch.testing.assert_close(value, expected)
    assert any("running_mean" in key for key in old)


@with_and_without
@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("size", [1, 3])
def test_batch_sizes(name: str, prototypes: bool, size: int) -> None:
    method = make(name, prototypes=prototypes)
    out = method(labeled_batch(size=size), unlabeled_batch(method, size=size), step=0)
    out.loss.backward()
    method.after_step([out.carry], step=0)
    assert out.loss.isfinite()


@with_and_without
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 150, IGNORE_INDEX])  # the last is as many as there may be
def test_few_and_many_classes(name: str, prototypes: bool, classes: int) -> None:
    method = make(name, classes=classes, prototypes=prototypes)
    out = method(labeled_batch(classes=classes), unlabeled_batch(method), step=0)
    out.loss.backward()
    method.after_step([out.carry], step=0)
    assert out.terms["labeled"].item() == pytest.approx(math.log(classes), rel=0.4)
    # A teacher that has learned nothing is sure enough of none of many classes for a contrast.
    may_be_zero = ON_BOTH_HALVES if classes > 2 else set()
    assert all(value.isfinite() and (value > 0 or term in may_be_zero) for term, value in out.terms.items())


def test_more_classes_than_there_may_be() -> None:
    with pytest.raises(ValueError, match="255 means ignored, so there can be 255 classes, got 256"):
        Supervised(SmallUNet(IGNORE_INDEX + 1, width=WIDTH))


@pytest.mark.parametrize("names", [["prototype"], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["one", "all"])
def test_thousands_of_classes(names: list[str]) -> None:
    """What keeps classes to 255 is the number for "not labelled" alone, not the arithmetic of any method (decision 22)."""
    script = f"""
import protoseg.types
protoseg.types.IGNORE_INDEX = 65535  # before any other module takes it over
import test_conformance as these
for name in {names}:
    these.test_few_and_many_classes(name, True, 2000)
    print(name)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.01)], ids=["bfloat16", "float16"])
def test_precisions_agree(name: str, dtype: torch.dtype, bound: float) -> None:
    """8 and 11 bits against 24. A teacher that has learned nothing is the worst case: many labels hang by the last digit."""
    whole, mixed = make(name, prototypes=True), make(name, prototypes=True)
    expected = whole(labeled_batch(), unlabeled_batch(whole), step=0)
    with torch.autocast("cpu", dtype=dtype):
        found = mixed(labeled_batch(), unlabeled_batch(mixed), step=0)
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=bound)
    found.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixed.trained_parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.4), (torch.float16, 0.15)], ids=["bfloat16", "float16"])
def test_gradients_agree_in_all_precisions(name: str, dtype: torch.dtype, bound: float) -> None:
    """How far all gradients together are apart, by the length of those of float32, on images that there is something to learn
    from: on noise most of a gradient cancels, and rounding is what is left."""
    gradients = []
    for mixed in (False, True):
        method = make(name, prototypes=True)
        for step in range(4):  # added up
            labeled, unlabeled = coloured_batches(method, step)
            with torch.autocast("cpu", dtype=dtype, enabled=mixed):
                loss = method(labeled, unlabeled, step=0).loss
            loss.backward()
        assert all(p.grad is not None for p in method.trained_parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in method.trained_parameters() if p.grad is not None]))
    apart = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 0 < apart.item() <= bound


@with_and_without
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["no label", "padding only", "never sure", "nothing at all", "class absent"])
def test_missing_pieces_are_finite(name: str, prototypes: bool, case: str) -> None:
    sure = case not in ("never sure", "nothing at all")
    method = make(name, prototypes=prototypes, **({} if sure or name not in LEARNING else {"threshold": 1.0}))
    labeled, unlabeled = labeled_batch(), unlabeled_batch(method)
    if case in ("no label", "nothing at all"):
        labeled.mask.fill_(IGNORE_INDEX)
    if case in ("padding only", "nothing at all"):
        unlabeled.valid.zero_()
    if case == "class absent":
        labeled.mask[labeled.mask == 2] = IGNORE_INDEX
    out = method(labeled, unlabeled, step=0)
    out.loss.backward()
    method.after_step([out.carry], step=0)
    zero = {term for term, value in out.terms.items() if value.item() == 0}
    on_labels = {f"{term}{network}" for term in ("labeled", "prototype_labeled") for network in method.trained_names}
    on_labels |= method.labeled_weights.keys()
    on_others = {*method.unlabeled_weights, *(f"prototype_consistency{network}" for network in method.trained_names)}
    on_others -= ON_BOTH_HALVES
    expected = {
        "no label": on_labels,
        "padding only": on_others,
        "never sure": set() if name in PASTES_LABELS else on_others,
        "nothing at all": on_labels | on_others | ON_BOTH_HALVES,
        "class absent": set(),
    }[case]
    assert zero == expected & out.terms.keys()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    assert all(value.isfinite().all() for value in method.state_dict().values())


@with_and_without
@pytest.mark.parametrize("name", NAMES)
def test_warm_up_needs_labels_only(name: str, prototypes: bool) -> None:
    method = make(name, prototypes=prototypes, warmup_steps=3)
    labeled = labeled_batch()
    seen = [copy.deepcopy(part.network)(labeled.image).logits for part in method.trained()]
    out = method(labeled, None, step=2)
    expected = sum(F.cross_entropy(logits, labeled.mask, ignore_index=IGNORE_INDEX) for logits in seen)
    own = sum(weight * out.terms[term] for term, weight in method.labeled_weights.items())
    torch.testing.assert_close(out.loss, method.labeled_weight * expected + own)
    assert out.terms.keys() == {f"labeled{network}" for network in method.trained_names} | method.labeled_weights.keys()
    method.after_step([out.carry], step=2)
    assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), method.student.parameters(), strict=True))
    if method.uses_unlabeled:
        with pytest.raises(AssertionError, match="unlabelled"):
            method(labeled, None, step=3)


@pytest.mark.parametrize("weight", [3.0, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_weighted_sum_of_its_terms(name: str, weight: float) -> None:
    """With the weights of the paper's formula, those of the prototype term in proportion, and the user's on top."""
    method = make(name, prototypes=True, prototype_weight=0.2, unlabeled_weight=weight)
    out = method(labeled_batch(), unlabeled_batch(method), step=0)
    weights = {term: weight * own for term, own in method.unlabeled_weights.items()} | method.labeled_weights
    for network in method.trained_names:
        weights[f"labeled{network}"] = method.labeled_weight
        weights[f"prototype_labeled{network}"] = 0.2 * method.labeled_weight
        if method.uses_unlabeled:
            without_view = ON_BOTH_HALVES | SECOND_LOSSES
            views = sum(w for term, w in method.unlabeled_weights.items() if term not in without_view)
            views /= len(method.trained_names)
            weights[f"prototype_consistency{network}"] = 0.2 * weight * views
    assert out.terms.keys() == weights.keys()
    expected = sum(weights[term] * value.item() for term, value in out.terms.items())
    if method.uses_unlabeled:
        expected *= method.learn(labeled_batch(), unlabeled_batch(method), step=0).scale
    assert out.loss.item() == pytest.approx(expected, rel=1e-5)


@with_and_without
@pytest.mark.parametrize("name", VARIED)
def test_state_survives_a_round_trip(name: str, prototypes: bool) -> None:

    def fresh() -> Method:
        own = {"class_thresholds": ClassThresholds(3), "threshold": 0.4} if name in LEARNING else {}
        return make(name, prototypes=prototypes, alignment=ShareAlignment([1] * 3), **own)

    method, other = fresh(), fresh()
    run(method, 0, 2)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert run(method, 2, 4) == run(other, 2, 4)
    for key, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@with_and_without
@pytest.mark.parametrize("name", NAMES)
def test_loss_falls(name: str, prototypes: bool) -> None:
    method = make(name, prototypes=prototypes, warmup_steps=10, **({"threshold": 0.8} if name in LEARNING else {}))
    optimizer = torch.optim.AdamW(method.trained_parameters(), lr=0.01)
    losses = [terms["labeled"] for terms in run(method, 0, 40, optimizer)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def coloured_batches(method: Method, step: int) -> tuple[LabeledBatch, UnlabeledBatch]:
    """Of a toy set: three colours, labelled by colour."""
    gen = torch.Generator().manual_seed(step)
    mask = torch.randint(0, 3, (4, 4, 4), generator=gen).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    image = F.one_hot(mask, 3).permute(0, 3, 1, 2).float() + 0.3 * torch.randn(4, 3, SIDE, SIDE, generator=gen)
    labeled = LabeledBatch(image[:2], mask[:2], torch.tensor([4 * step, 4 * step + 1]))
    strong = image[2:].expand(method.num_strong, -1, -1, -1, -1)
    return labeled, unlabeled_batch(method)._replace(weak=image[2:], strong=strong, seed=labeled.seed + 2)


def run(method: Method, first: int, last: int, optimizer: torch.optim.Optimizer | None = None) -> list[dict[str, float]]:
    """Steps on a toy set. The default optimizer remembers nothing."""
    optimizer = optimizer or torch.optim.SGD(method.trained_parameters(), lr=0.3)
    history = []
    for step in range(first, last):
        labeled, unlabeled = coloured_batches(method, step)

        def labelled_pass(labeled: LabeledBatch = labeled) -> Iterator[LabeledBatch]:
            return iter([labeled])

        method.before_step(labelled_pass, step=step)
        torch.manual_seed(step)
        out = method(labeled, unlabeled, step=step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step([out.carry], step=step)
        history.append({name: value.item() for name, value in out.terms.items()})
    return history


@with_and_without
@pytest.mark.parametrize("name", NAMES)
def test_vitals(name: str, prototypes: bool) -> None:
    """What the health of a run is read from, counted again from every fourth pixel."""
    method = make(name, prototypes=prototypes)
    labeled, unlabeled = labeled_batch(), unlabeled_batch(method)
    vitals = method(labeled, unlabeled if method.uses_unlabeled else None, step=0).vitals
    assert vitals is not None
    if method.uses_unlabeled:
        assert vitals.pseudo is not None
        assert vitals.agreeing is not None
        assert vitals.compared is not None
        real = int(unlabeled.valid[:, ::4, ::4].sum())  # padding left out
        networks = len(method.trained_names)
        real *= networks
        assert int(vitals.pseudo.sum()) == real or (name == "u2pl" and 0 < int(vitals.pseudo.sum()) < real)
        assert 0 <= int(vitals.agreeing) <= int(vitals.compared) <= networks * unlabeled.valid[:, ::4, ::4].numel()
    else:
        assert vitals.pseudo is None
    assert (vitals.prototype_use is not None) == prototypes
    if vitals.prototype_use is not None:
        views = 1 + (method.num_strong if method.uses_unlabeled else 0) + (name in FEATURE_VIEW)
        assert vitals.prototype_use.shape == (3, K)
        assert 0 < int(vitals.prototype_use.sum()) <= views * 2 * GRID**2


@pytest.mark.parametrize("name", NAMES)
def test_distance_of_the_teacher(name: str) -> None:
    """Of its weights, by the definition; and what the teacher does not take over of BatchNorm shows as well."""
    method = make(name)
    method.teacher.network.load_state_dict(method.student.state_dict())
    assert method.ema_distance() == 0
    with torch.no_grad():
        for parameter in method.teacher.network.parameters():
            parameter *= 1.25
    assert method.ema_distance() == pytest.approx(0.25, rel=1e-4)
    method.teacher.network.load_state_dict(method.student.state_dict())
    for key, buffer in method.teacher.network.named_buffers():
        if key.endswith("running_var"):
            buffer *= 3
    assert method.ema_distance() > 1


@pytest.mark.parametrize("name", LEARNING)
def test_impossible_threshold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="threshold is a probability"):
        make(name, threshold=1.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{"ema_momentum": 1.0}, {"warmup_steps": -1}, {"prototype_delay": -1}])
def test_impossible_shared_options_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(name, **options)


def test_every_method_can_be_told_from_the_others() -> None:
    """No two of them compute the same loss."""
    losses: dict[str, Tensor] = {}
    for name in NAMES:
        method = make(name, threshold=0.34) if name in LEARNING else make(name)
        losses[name] = method(labeled_batch(), unlabeled_batch(method), step=0).loss
    values = sorted(round(value.item(), 5) for value in losses.values())
    assert len(set(values)) == len(values), losses


@pytest.mark.parametrize("name", VARIED)
def test_a_carry_of_zeros_changes_nothing(name: str) -> None:
    """What is left of a step that was dropped; the teacher and snapshots follow the student all the same."""
    options: dict[str, Any] = (
        {"alignment": ShareAlignment([1] * 3), "class_thresholds": ClassThresholds(3)} if name in LEARNING else {}
    )
    method = make(name, prototypes=True, **options)
    labeled, unlabeled = labeled_batch(), unlabeled_batch(method)
    first = method(labeled, unlabeled, step=0).carry
    method.after_step([first], step=0)
    carry = method(labeled, unlabeled, step=1).carry
    states = []
    for dropped in (True, False):
        other = copy.deepcopy(method)
        other.after_step([voided(carry, torch.tensor(dropped))], step=1)
        states.append(other.state_dict())
    before = {key: tensor for key, tensor in method.state_dict().items() if not key.startswith(("teacher.", "snapshots."))}
    assert [key for key, tensor in before.items() if not torch.equal(tensor, states[0][key])] == []
    assert any(not torch.equal(tensor, states[1][key]) for key, tensor in before.items())
