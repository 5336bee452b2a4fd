"""The contrast's queues, anchors and negatives against slow loops."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from protoseg.nn.memory_contrast import MemoryContrast, class_means, draw_by_class, negative_members, negative_ranks
from protoseg.types import IGNORE_INDEX

N, D, A, M, Q = 40, 5, 7, 6, 9


def random_pixels(classes: int, seed: int = 0, count: int = N) -> tuple[Tensor, Tensor]:
    """The last class is absent."""
    gen = torch.Generator().manual_seed(seed)
    label = torch.randint(0, max(classes - 1, 1), (count,), generator=gen)
    label[torch.rand(count, generator=gen) < 0.3] = IGNORE_INDEX
    return torch.randn(count, D, generator=gen), label


def random_members(classes: int, seed: int, share: float = 0.4) -> Tensor:
    return torch.rand(N, classes, generator=torch.Generator().manual_seed(seed)) < share


def draws(classes: int, seed: int = 3) -> Tensor:
    return torch.rand(classes, A, 1 + M, generator=torch.Generator().manual_seed(seed))


def build(classes: int, *, queue_size: int = Q) -> MemoryContrast:
    return MemoryContrast(D, classes, queue_size=queue_size, num_anchors=A, num_negatives=M)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def slow_loss(
    memory: list[list[list[float]]], pixels: tuple[Tensor, Tensor], examples: tuple[Tensor, Tensor], u: Tensor
) -> float:
    """From the equation; memory holds each class's ring by place."""
    (features, label), (example, example_label) = pixels, examples
    losses = []
    for c, keys in enumerate(memory):
        anchors = [z for z, y in zip(features.tolist(), label.tolist(), strict=True) if y == c]
        members = [z for z, y in zip(example.tolist(), example_label.tolist(), strict=True) if y == c]
        if not anchors or not members or not keys:
            continue
        mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
        total = 0.0
        for draw in u[c].tolist():
            z = anchors[int(draw[0] * len(anchors))]
            scores = [cosine(z, mean) / 0.5] + [cosine(z, keys[int(d * len(keys))]) / 0.5 for d in draw[1:]]
            total += math.log(sum(math.exp(s) for s in scores)) - scores[0]
        losses.append(total / len(u[c]))
    return sum(losses) / len(losses) if losses else 0.0


def rings(batches: list[tuple[Tensor, Tensor]], classes: int, queue_size: int = Q) -> list[list[list[float]]]:
    """Each class's keys by place: key number k goes to place k modulo Q."""
    result: list[list[list[float]]] = []
    for c in range(classes):
        ring: dict[int, list[float]] = {}
        number = 0
        for features, member in batches:
            for z, takes in zip(features.tolist(), member[:, c].tolist(), strict=True):
                if takes:
                    ring[number % queue_size] = z
                    number += 1
        result.append([ring[place] for place in sorted(ring)])
    return result


@pytest.mark.parametrize("classes", [1, 2, 4, 150])
def test_loss(classes: int) -> None:
    contrast, keys = build(classes), [(random_pixels(classes, s)[0], random_members(classes, s, 0.1)) for s in (1, 2)]
    for features, member in keys:
        contrast.update(features, member)
    pixels, examples, uniform = random_pixels(classes, 5), random_pixels(classes, 6), draws(classes)
    expected = slow_loss(rings(keys, classes), pixels, examples, uniform)
    assert expected > 0
    assert contrast(*pixels, *examples, uniform).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("queue_size", [1, 4, 9, 100])
def test_a_queue_keeps_the_newest_keys(queue_size: int) -> None:
    classes, contrast = 3, build(3, queue_size=queue_size)
    keys = []
    for step, share in enumerate([0.1, 0.0, 0.5, 1.0, 0.05]):
        keys.append((random_pixels(classes, step)[0], random_members(classes, step, share)))
        contrast.update(*keys[-1])
        for c, ring in enumerate(rings(keys, classes, queue_size)):
            held = contrast.queue[c, : len(ring)]
            unit = torch.tensor(ring).view(-1, D)
            torch.testing.assert_close(held, unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-12), atol=1e-6, rtol=1e-5)
            assert not contrast.queue[c, len(ring) :].any()
            assert contrast.arrived[c] == sum(int(member[:, c].sum()) for _, member in keys)


def test_nothing_to_contrast_is_zero_and_finite() -> None:
    pixels, examples, uniform = random_pixels(3, 1), random_pixels(3, 2), draws(3)
    filled = build(3)
    filled.update(examples[0], random_members(3, 1, 1.0))
    nothing = torch.full((N,), IGNORE_INDEX)
    for contrast, label, example_label in [
        (build(3), pixels[1], examples[1]),
        (filled, nothing, examples[1]),
        (filled, pixels[1], nothing),
    ]:
        features = pixels[0].clone().requires_grad_()
        loss = contrast(features, label, examples[0], example_label, uniform)
        loss.backward()
        assert loss.item() == 0
        assert features.grad is not None
        assert not features.grad.any()


def test_gradient_reaches_the_anchors_alone() -> None:
    contrast = build(3)
    contrast.update(*random_pixels(3, 1)[:1], random_members(3, 1))
    features, label = random_pixels(3, 2)
    example, example_label = random_pixels(3, 4)
    features.requires_grad_()
    example.requires_grad_()
    contrast(features, label, example, example_label, draws(3)).backward()
    assert example.grad is None
    assert features.grad is not None
    assert not features.grad[label == IGNORE_INDEX].any()
    assert features.grad[label != IGNORE_INDEX].any()
    assert not any(buffer.requires_grad for buffer in contrast.buffers())


def test_state_round_trip() -> None:
    contrast = build(3)
    contrast.update(random_pixels(3, 1)[0], random_members(3, 1))
    other = build(3)
    other.load_state_dict(copy.deepcopy(contrast.state_dict()))
    for memory in (contrast, other):
        memory.update(random_pixels(3, 2)[0], random_members(3, 2, 0.1))
    assert torch.equal(contrast.queue, other.queue)
    assert torch.equal(contrast.arrived, other.arrived)


def test_draws_are_uniform_over_a_class() -> None:
    label = torch.tensor([1, IGNORE_INDEX, 0, 1, 1, IGNORE_INDEX, 3])
    uniform = torch.rand(4, 3000, generator=torch.Generator().manual_seed(0))
    uniform[:, 0], uniform[:, 1] = 0.0, 1 - 2**-24
    index, count = draw_by_class(label, uniform, 4)
    assert count.tolist() == [1, 3, 0, 1]
    for c in (0, 1, 3):
        assert set(label[index[c]].tolist()) == {c}
    assert torch.bincount(index[1], minlength=7)[[0, 3, 4]].min() > 850  # 1,000 expected
    assert ((index >= 0) & (index < len(label))).all()


def test_class_means() -> None:
    features, label = random_pixels(4)
    mean, count = class_means(features, label, 4)
    for c in range(4):
        members = features[label == c]
        assert count[c] == len(members)
        torch.testing.assert_close(mean[c], members.mean(dim=0) if len(members) else torch.zeros(D))


def test_ranks_keep_their_share_of_few_classes() -> None:
    assert [negative_ranks(c) for c in (2, 3, 11, 19, 20, 21, 150)] == [
        (1, 2),
        (1, 3),
        (2, 11),
        (3, 19),
        (3, 20),
        (3, 20),
        (3, 20),
    ]


@pytest.mark.parametrize("classes", [2, 7, 150])
def test_negatives(classes: int) -> None:
    gen = torch.Generator().manual_seed(classes)
    logits = torch.randn(N, classes, generator=gen)
    label = torch.randint(0, classes, (N,), generator=gen)
    label[::3] = IGNORE_INDEX
    unreliable = (label == IGNORE_INDEX) & (torch.rand(N, generator=gen) < 0.5)
    low, high = negative_ranks(classes)
    member = negative_members(logits, label, unreliable, ranks=(low, high))
    for i in range(N):
        for rank, c in enumerate(sorted(range(classes), key=lambda c: -logits[i, c].item())):
            if label[i] != IGNORE_INDEX:
                expected = bool(c != label[i]) and rank < low
            else:
                expected = bool(unreliable[i]) and low <= rank < high
            assert bool(member[i, c]) is expected
    assert member.any()


@pytest.mark.parametrize("options", [{"queue_size": 0}, {"num_anchors": 0}, {"num_negatives": 0}, {"temperature": 0.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MemoryContrast(D, 3, **options)
