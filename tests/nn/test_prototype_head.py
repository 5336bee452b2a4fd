"""The prototype predictor against loops over pixels, classes and prototypes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.nn.prototype_head import PrototypeHead
from protoseg.types import IGNORE_INDEX

D, C, K, N = 5, 4, 3, 40  # feature channels, classes, prototypes per class, pixels


def random_head(*, ready: tuple[bool, ...] = (True,) * C, **options) -> PrototypeHead:
    head = PrototypeHead(D, C, per_class=K, **options)
    gen = torch.Generator().manual_seed(1)
    for c in range(C):
        prototype = torch.randn(K, D, generator=gen) * 3
        if ready[c]:
            head.prototype[c] = prototype
            if head.unit_features:
                head.prototype[c] = F.normalize(head.prototype[c], dim=-1)
            head.ready[c] = True
    return head


def random_pixels(*, ignored: float = 0.2, count: int = N) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(2)
    features = torch.randn(count, D, generator=gen) * 2
    label = torch.randint(0, C, (count,), generator=gen)
    label[torch.rand(count, generator=gen) < ignored] = IGNORE_INDEX
    return features, label


def norm(v: list[float]) -> float:
    return math.sqrt(sum(x * x for x in v))


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b))


def slow_compare(head: PrototypeHead, z: list[float], c: int) -> tuple[float, int]:
    """Section 1.2: the largest cosine with a prototype of class c over T, and which one gave it."""
    similarity = [cosine(z, p) for p in head.prototype[c].tolist()]
    return max(similarity) / head.temperature, similarity.index(max(similarity))


def slow_cross_entropy(head: PrototypeHead, z: list[float], y: int) -> float:
    logits = {c: slow_compare(head, z, c)[0] for c in range(C) if head.ready[c]}
    return math.log(sum(math.exp(v) for v in logits.values())) - logits[y]


def slow_loss(head: PrototypeHead, features: Tensor, label: Tensor, weight: list[float]) -> tuple[float, float]:
    """(sum of weighted cross-entropies, sum of weights) over labelled pixels of classes that have prototypes."""
    rows = zip(features.tolist(), label.tolist(), weight, strict=True)
    known = [(z, y, w) for z, y, w in rows if y != IGNORE_INDEX and head.ready[y]]
    return sum(w * slow_cross_entropy(head, z, y) for z, y, w in known), sum(w for _, _, w in known)


def slow_update(head: PrototypeHead, features: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Section 1.8: a double loop over classes and prototypes."""
    result = head.prototype.clone()
    for c in range(C):
        for k in range(K):
            members = [
                z
                for z, y, w in zip(features.tolist(), label.tolist(), weight.tolist(), strict=True)
                if w and y == c and slow_compare(head, z, c)[1] == k
            ]
            if not members:
                continue
            if head.unit_features:
                members = [[x / norm(z) for x in z] for z in members]
            mean = [sum(z[d] for z in members) / len(members) for d in range(D)]
            old = head.prototype[c, k].tolist()
            new = [head.momentum * o + (1 - head.momentum) * m for o, m in zip(old, mean, strict=True)]
            if head.unit_features:
                new = [x / norm(new) for x in new]
            result[c, k] = torch.tensor(new)
    return result


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_compare(temperature: float) -> None:
    head, (features, _) = random_head(temperature=temperature), random_pixels()
    out = head.compare(features)
    for i, z in enumerate(features.tolist()):
        for c in range(C):
            logit, nearest = slow_compare(head, z, c)
            assert out.logits[i, c].item() == pytest.approx(logit, rel=1e-4, abs=1e-4)
            assert out.nearest[i, c] == nearest


def test_class_prior() -> None:
    """max over K of the cosine / T + log of the class's share of the labelled pixels, one that never occurs counted once."""
    head, (features, _) = random_head(class_prior=True), random_pixels()
    plain = head(features)
    pixels = [1, 0, 4, 1]
    head.set_prior(pixels)
    out = head.compare(features)
    for i, z in enumerate(features.tolist()):
        for c in range(C):
            logit, nearest = slow_compare(head, z, c)
            share = max(pixels[c], 1) / 7
            assert out.logits[i, c].item() == pytest.approx(logit + math.log(share), rel=1e-4, abs=1e-4)
            assert out.nearest[i, c] == nearest
    again = PrototypeHead(D, C, per_class=K, class_prior=True)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(features), head(features))
    assert not torch.allclose(plain, head(features))


def test_no_prior_unless_asked_for() -> None:
    head, (features, _) = random_head(), random_pixels()
    before, names = head(features), set(head.state_dict())
    head.set_prior([3, 1, 1, 1])
    assert torch.equal(head(features), before)
    assert names == {"prototype", "ready"}


def test_a_prior_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="as many counts, got 2"):
        random_head(class_prior=True).set_prior([3, 1])


def test_a_prior_lets_a_rare_class_be_near_a_frequent_one() -> None:
    """One pixel in ten of a cloud is of the rare class: with a prior the cosine costs what the shares cost, and no more."""
    features = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    label = (torch.arange(100) % 10 == 0).long()
    losses = []
    for class_prior in (False, True):
        head = PrototypeHead(2, 2, per_class=1, class_prior=class_prior)
        head.set_prior([90, 10])
        head.fit(features, label)
        losses.append(head.loss(head(features), label).item())
    entropy = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert losses == pytest.approx([math.log(2), entropy], rel=1e-4)


def test_compare_ignores_length() -> None:
    head, (features, _) = random_head(), random_pixels()
    scaled = random_head()
    scaled.prototype.mul_(torch.rand(C, K, 1) + 0.1)
    torch.testing.assert_close(head(features), scaled(features * 100), atol=1e-4, rtol=1e-4)


def test_class_without_prototypes_never_wins() -> None:
    head, (features, _) = random_head(ready=(True, False, True, False)), random_pixels()
    logits = head(features)
    assert (logits[:, [1, 3]] == torch.finfo(torch.float32).min).all()
    probability = logits.softmax(dim=1)
    assert torch.equal(probability[:, [1, 3]], torch.zeros(N, 2))
    torch.testing.assert_close(logits[:, [0, 2]], random_head()(features)[:, [0, 2]])


def test_map_is_compared_pixel_by_pixel() -> None:
    head, features = random_head(), torch.randn(2, D, 3, 4)
    logits = head(features)
    assert logits.shape == (2, C, 3, 4)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                torch.testing.assert_close(logits[b, :, y, x], head(features[b, :, y, x][None])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(N, D + 1), (2, D + 1, 3, 3)])
def test_wrong_channels_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"6 channels.*5.*feature_channels"):
        random_head()(torch.randn(shape))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ready", [(True,) * C, (True, False, True, True), (False,) * C])
def test_loss(ready: tuple[bool, ...], weighted: bool) -> None:
    head, (features, label) = random_head(ready=ready), random_pixels()
    weight = torch.rand(N, generator=torch.Generator().manual_seed(3)) < 0.5 if weighted else None
    total, count = slow_loss(head, features, label, [1.0] * N if weight is None else weight.float().tolist())
    logits = head(features)
    assert head.loss(logits, label, weight).item() == pytest.approx(total / max(count, 1), rel=1e-4)
    by_count = head.loss(logits, label, weight, denominator=torch.tensor(17))
    assert by_count.item() == pytest.approx(total / 17, rel=1e-4)


def test_loss_with_fractional_weights() -> None:
    head, (features, label) = random_head(), random_pixels()
    weight = torch.rand(N, generator=torch.Generator().manual_seed(3))
    total, count = slow_loss(head, features, label, weight.tolist())
    assert head.loss(head(features), label, weight).item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("reason", ["ignored", "weightless", "not ready", "no pixels"])
def test_loss_of_nothing_is_zero_with_a_finite_gradient(reason: str) -> None:
    head = random_head(ready=(False,) * C if reason == "not ready" else (True,) * C)
    features, label = random_pixels(ignored=1.0 if reason == "ignored" else 0.0, count=0 if reason == "no pixels" else N)
    features.requires_grad_()
    weight = torch.zeros(N, dtype=torch.bool) if reason == "weightless" else None
    for denominator in (None, torch.tensor(0)):
        features.grad = None
        loss = head.loss(head(features), label, weight, denominator=denominator)
        loss.backward()
        assert loss.item() == 0.0
        assert torch.equal(features.grad, torch.zeros_like(features))


def test_loss_of_one_pixel() -> None:
    head, (features, _) = random_head(), random_pixels(count=1)
    expected = slow_cross_entropy(head, features[0].tolist(), 2)
    assert head.loss(head(features), torch.tensor([2])).item() == pytest.approx(expected, rel=1e-4)


def test_gradient_reaches_features_and_nothing_else() -> None:
    head, (features, label) = random_head(), random_pixels()
    features.requires_grad_()
    head.loss(head(features), label).backward()
    assert list(head.parameters()) == []
    assert not head.prototype.requires_grad
    assert head.prototype.grad is None
    moved = features.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, label != IGNORE_INDEX)
    # Only the direction of a feature matters, so the gradient is at right angles to it.
    torch.testing.assert_close((features.grad * features).sum(dim=1), torch.zeros(N), atol=1e-5, rtol=0)


def test_update_between_forward_and_backward_is_harmless() -> None:
    head, (features, label) = random_head(), random_pixels()
    features.requires_grad_()
    out = head.compare(features)
    loss = head.loss(out.logits, label)
    expected = torch.autograd.grad(loss, features, retain_graph=True)[0]
    head.update(features, label, out.nearest)
    torch.testing.assert_close(torch.autograd.grad(loss, features)[0], expected, atol=0, rtol=0)


def test_compare_is_float32_under_autocast() -> None:
    head, (features, _) = random_head(), random_pixels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(features), atol=0, rtol=0)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("unit_features", [False, True])
@pytest.mark.parametrize("momentum", [0.99, 0.5, 0.0])
def test_update(momentum: float, unit_features: bool, given: bool) -> None:
    head, (features, label) = random_head(momentum=momentum, unit_features=unit_features), random_pixels()
    weight = torch.rand(N, generator=torch.Generator().manual_seed(3)) < 0.6
    expected = slow_update(head, features, label, weight & (label != IGNORE_INDEX))
    nearest = head.compare(features).nearest if given else None
    head.update(features, label, nearest, weight=weight)
    torch.testing.assert_close(head.prototype, expected, atol=1e-5, rtol=1e-5)
    assert head.ready.all()


def test_update_uses_the_nearest_within_the_label_class() -> None:
    """Not the prototype of the predicted class: the label decides which class moves."""
    head = PrototypeHead(2, 2, per_class=2, momentum=0.5)
    head.prototype.copy_(torch.tensor([[[1.0, 0.0], [0.9, 0.1]], [[0.0, 1.0], [-1.0, 0.0]]]))
    head.ready.fill_(True)
    head.update(torch.tensor([[2.0, 0.5]]), torch.tensor([1]))  # nearest of all is class 0, nearest in class 1 is (0, 1)
    assert head.prototype.tolist() == [[[1.0, 0.0], [pytest.approx(0.9), pytest.approx(0.1)]], [[1.0, 0.75], [-1.0, 0.0]]]


def test_prototypes_without_pixels_stay_to_the_bit() -> None:
    head, (features, _) = random_head(), random_pixels()
    before = head.prototype.clone()
    head.update(features, torch.full((N,), 2))
    assert torch.equal(head.prototype[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.equal(head.prototype[2], before[2])


@pytest.mark.parametrize("reason", ["ignored", "weightless", "no pixels"])
def test_update_with_nothing_changes_nothing(reason: str) -> None:
    head = random_head(ready=(True, False, True, True))
    features, label = random_pixels(ignored=1.0 if reason == "ignored" else 0.0, count=0 if reason == "no pixels" else N)
    before, ready = head.prototype.clone(), head.ready.clone()
    head.update(features, label, weight=torch.zeros(N, dtype=torch.bool) if reason == "weightless" else None)
    assert torch.equal(head.prototype, before)
    assert torch.equal(head.ready, ready)


def test_broken_features_of_ignored_pixels_do_not_leak() -> None:
    head, (features, label) = random_head(), random_pixels()
    clean = random_head()
    clean.update(features, label)
    features[label == IGNORE_INDEX] = float("nan")
    head.update(features, label)
    assert torch.equal(head.prototype, clean.prototype)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("unit_features", [False, True])
@pytest.mark.parametrize("starting", ["fit", "late", "moved"])
def test_features_that_are_no_numbers_count_nothing(starting: str, unit_features: bool, value: float) -> None:
    """One channel of a row in four, and all rows of class 2: the same prototypes as from the other rows, to the bit."""
    features, label = random_pixels(count=200)
    spoilt = (torch.arange(200) % 4 == 0) | (label == 2)
    broken = features.clone()
    broken[spoilt, 3] = value
    heads = [random_head(ready=(starting == "moved",) * C, unit_features=unit_features) for _ in range(2)]
    before = heads[0].prototype[2].clone()
    nearest = heads[0].compare(features).nearest
    if starting == "fit":
        heads[0].fit(broken, label)
        heads[1].fit(features[~spoilt], label[~spoilt])
    else:
        heads[0].update(broken, label, nearest)
        heads[1].update(features[~spoilt], label[~spoilt], nearest[~spoilt])
    assert heads[0].ready.tolist() == [True, True, starting == "moved", True]
    assert torch.equal(heads[0].prototype, heads[1].prototype)
    torch.testing.assert_close(heads[0].prototype[2], before)
    assert heads[0].prototype.isfinite().all()


def test_nobody_waits_for_an_update() -> None:
    """Tensors of torch's device "meta" have no values that could be waited for: to read one is an error."""
    head = random_head().to("meta")
    features, label = (tensor.to("meta") for tensor in random_pixels())
    head.update(features, label, torch.zeros(N, C, dtype=torch.int64, device="meta"), weight=label != 0)
    with pytest.raises(RuntimeError, match="meta"):
        bool(head.ready.all())


@pytest.mark.parametrize("unit_features", [False, True])
def test_late_class_starts_at_the_mean_of_its_pixels(unit_features: bool) -> None:
    head = random_head(ready=(True, False, True, False), unit_features=unit_features)
    features, label = random_pixels(ignored=0.0)
    label[label == 3] = 0
    weight = torch.rand(N, generator=torch.Generator().manual_seed(3)) < 0.6
    others = random_head(unit_features=unit_features)
    expected = slow_update(others, features, label, weight & (label != 1))
    head.update(features, label, weight=weight)

    members = [z for z, y, w in zip(features.tolist(), label.tolist(), weight.tolist(), strict=True) if w and y == 1]
    if unit_features:
        members = [[x / norm(z) for x in z] for z in members]
    mean = torch.tensor([sum(z[d] for z in members) / len(members) for d in range(D)])
    assert head.ready.tolist() == [True, True, True, False]
    torch.testing.assert_close(head.prototype[[0, 2]], expected[[0, 2]], atol=1e-5, rtol=1e-5)
    assert torch.equal(head.prototype[3], torch.zeros(K, D))
    for prototype in head.prototype[1]:
        direction = cosine(prototype.tolist(), mean.tolist())
        assert direction > 0.98  # an offset of a tenth of the length
        if not unit_features:
            assert (prototype - mean).norm().item() == pytest.approx(0.1 * mean.norm().item(), rel=1e-4)
    assert torch.pdist(head.prototype[1]).min() > 1e-3, "equal prototypes would never part"
    if unit_features:
        torch.testing.assert_close(head.prototype[1].norm(dim=-1), torch.ones(K))


def test_late_class_starts_the_same_in_every_process() -> None:
    features, label = random_pixels(ignored=0.0)
    heads = [PrototypeHead(D, C, per_class=K, seed=7) for _ in range(2)]
    for i, head in enumerate(heads):
        torch.manual_seed(i)
        head.update(features, label)
    assert torch.equal(heads[0].prototype, heads[1].prototype)


def test_late_class_moves_on_afterwards() -> None:
    head, (features, label) = PrototypeHead(D, C, per_class=K), random_pixels(ignored=0.0)
    head.update(features, label)
    expected = slow_update(head, features, label, torch.ones(N, dtype=torch.bool))
    head.update(features, label)
    torch.testing.assert_close(head.prototype, expected, atol=1e-5, rtol=1e-5)


def bundles(counts: list[int], seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Bundles about orthogonal axes, of different lengths; the means of the bundles."""
    gen = torch.Generator().manual_seed(seed)
    parts = [torch.eye(D)[i] * (i + 1) + 0.02 * torch.randn(count, D, generator=gen) for i, count in enumerate(counts) if count]
    return torch.cat(parts), [part.mean(dim=0) for part in parts]


@pytest.mark.parametrize("seed", range(3))
def test_fit_finds_the_bundles_of_each_class(seed: int) -> None:
    first, first_means = bundles([5, 9, 20], seed)
    second, second_means = bundles([11, 4, 8], seed + 10)
    second, second_means = -second, [-m for m in second_means]
    ignored = torch.full((6, D), 50.0)
    features, label = torch.cat([first, ignored, second]), torch.tensor([1] * 34 + [IGNORE_INDEX] * 6 + [3] * 23)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    head = PrototypeHead(D, C, per_class=3)
    head.fit(features[order], label[order], seed=seed)
    assert head.ready.tolist() == [False, True, False, True]
    torch.testing.assert_close(head.prototype[1], torch.stack([first_means[i] for i in (2, 1, 0)]))
    torch.testing.assert_close(head.prototype[3], torch.stack([second_means[i] for i in (0, 2, 1)]))
    assert torch.equal(head.prototype[[0, 2]], torch.zeros(2, 3, D))


def test_fit_with_unit_features_keeps_prototypes_at_unit_length() -> None:
    features, _ = bundles([5, 9, 20])
    head = PrototypeHead(D, 1, per_class=3, unit_features=True)
    head.fit(features, torch.zeros(34, dtype=torch.int64))
    torch.testing.assert_close(head.prototype[0].norm(dim=-1), torch.ones(3))
    assert head.prototype[0].argmax(dim=-1).tolist() == [2, 1, 0]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("copies", [1, 4])
def test_fit_with_fewer_distinct_pixels_than_prototypes(count: int, copies: int) -> None:
    pixels = torch.tensor([[3.0, 0, 0, 0, 0], [0, 0, 2.0, 0, 0]])[:count]
    features = pixels.repeat(copies, 1)
    head = PrototypeHead(D, C, per_class=K)
    head.fit(features, torch.full((len(features),), 2))
    assert head.ready.tolist() == [False, False, True, False]
    found = head.prototype[2]
    for pixel in pixels:
        assert any(torch.allclose(prototype, pixel) for prototype in found)
    mean = pixels.mean(dim=0)
    for prototype in found[count:]:
        assert (prototype - mean).norm().item() == pytest.approx(0.1 * mean.norm().item(), rel=1e-4)
    assert torch.pdist(found).min() > 1e-3


def test_fit_without_pixels_leaves_all_not_ready() -> None:
    head = PrototypeHead(D, C, per_class=K)
    head.fit(torch.empty(0, D), torch.empty(0, dtype=torch.int64))
    assert not head.ready.any()
    head.fit(torch.randn(4, D), torch.full((4,), IGNORE_INDEX))
    assert not head.ready.any()
    assert head.loss(head(torch.randn(3, D)), torch.zeros(3, dtype=torch.int64)).item() == 0.0


def test_fit_depends_on_its_seed_alone() -> None:
    features, label = random_pixels(count=300)
    heads = [PrototypeHead(D, C, per_class=K) for _ in range(3)]
    for i, (head, seed) in enumerate(zip(heads, (5, 5, 6), strict=True)):
        torch.manual_seed(i)
        head.fit(features, label, seed=seed)
    assert torch.equal(heads[0].prototype, heads[1].prototype)
    assert not torch.equal(heads[0].prototype, heads[2].prototype)


def test_fit_of_a_class_does_not_see_the_others() -> None:
    features, label = random_pixels(count=300)
    both, alone = (PrototypeHead(D, C, per_class=K) for _ in range(2))
    both.fit(features, label)
    alone.fit(features[label == 2], label[label == 2])
    assert torch.equal(both.prototype[2], alone.prototype[2])


@pytest.mark.parametrize("unit_features", [False, True])
def test_assign_sets_all_prototypes(unit_features: bool) -> None:
    head, given = PrototypeHead(D, C, per_class=K, unit_features=unit_features), torch.randn(C, K, D) * 3
    before = given.clone()
    head.assign(given)
    assert head.ready.all()
    torch.testing.assert_close(head.prototype, F.normalize(before, dim=-1) if unit_features else before)
    head.prototype.zero_()
    assert torch.equal(given, before), "a copy"


@pytest.mark.parametrize("shape", [(C * K, D), (C, K + 1, D), (K, C, D), (C, K, D - 1)])
def test_assign_refuses_another_shape(shape: tuple[int, ...]) -> None:
    head = random_head()
    before = head.prototype.clone()
    with pytest.raises(ValueError, match=r"\(4, 3, 5\) \(C, K, D\) expected"):
        head.assign(torch.zeros(shape))
    assert torch.equal(head.prototype, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_assign_refuses_what_is_no_number(value: float) -> None:
    head, given = random_head(ready=(False,) * C), torch.ones(C, K, D)
    given[1, 2, 3] = value
    with pytest.raises(ValueError, match="no numbers"):
        head.assign(given)
    assert not head.ready.any()
    assert (head.prototype == 0).all()


def test_state_survives_a_round_trip() -> None:
    features, label = random_pixels(count=100)
    label[label == 3] = 0
    head, copy = (PrototypeHead(D, C, per_class=K) for _ in range(2))
    head.fit(features, label)
    assert set(head.state_dict()) == {"prototype", "ready"}
    copy.load_state_dict(head.state_dict())
    assert copy.ready.tolist() == [True, True, True, False]
    assert torch.equal(copy(features), head(features))
    late = torch.full((100,), 3)
    for each in (head, copy):
        each.update(features, late)
    assert torch.equal(copy.prototype, head.prototype)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_channels": 0}, "at least 1"),
        ({"num_classes": 0}, "at least 1"),
        ({"per_class": 0}, "at least 1"),
        ({"num_classes": 256}, "there can be 255 classes"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrototypeHead(**({"feature_channels": 2, "num_classes": 2} | options))
