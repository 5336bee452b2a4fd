"""The prototype term: where it reads, what it averages over, and how prototypes start and move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from protoseg.functional.points import sample_points
from protoseg.functional.random import uniform
from protoseg.methods.even_sample import EvenSample
from protoseg.methods.lesson import Lesson, Taught
from protoseg.methods.prototype_term import Emphasis, Part, PrototypeCarry, PrototypeTerm, prototype_losses
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX, LabeledBatch, PseudoLabel, SegOutput, UnlabeledBatch

D, C, K, GRID = 5, 3, 2, 4
SIZE, COVERS = (22, 29), (24, 32)
BATCH, LABELED = 5, 2


def ready_term(**options) -> PrototypeTerm:
    head = PrototypeHead(D, C, per_class=K, **options)
    gen = torch.Generator().manual_seed(1)
    head.fit(torch.randn(60, D, generator=gen), torch.arange(60) % C)
    return PrototypeTerm(head, grid=GRID)


class Both(NamedTuple):
    labeled: Tensor
    consistency: Tensor
    agreement: Tensor
    carry: PrototypeCarry


class Inputs:
    """An output of a student on five images of which two are labelled, and what is known about their pixels."""

    def __init__(self, *, align_corners: bool = True) -> None:
        gen = torch.Generator().manual_seed(2)
        self.features = torch.randn(BATCH, D, 6, 8, generator=gen).requires_grad_()
        self.out = SegOutput(torch.zeros(BATCH, C, *SIZE), self.features, COVERS, align_corners)
        self.label = torch.randint(0, C, (BATCH, *SIZE), generator=gen)
        self.label[torch.rand(self.label.shape, generator=gen) < 0.2] = IGNORE_INDEX
        self.valid = torch.rand(self.label.shape, generator=gen) < 0.7
        self.valid[:LABELED] = self.label[:LABELED] != IGNORE_INDEX
        self.weight = self.valid & (self.label != IGNORE_INDEX) & (torch.rand(self.label.shape, generator=gen) < 0.6)
        self.weight[:LABELED] = self.valid[:LABELED]
        self.seed = torch.tensor([11, 12, 21, 22, 23])

    def run(self, term: PrototypeTerm, num_labeled: int = LABELED) -> Both:
        """The labelled images, then the others, as a method does."""
        first, second = self.out.split([num_labeled, BATCH - num_labeled])
        valid = None if self.valid is None else self.valid[num_labeled:]
        labeled = Part(first, self.label[:num_labeled], self.seed[:num_labeled], self.weight[:num_labeled])
        others = Part(second, self.label[num_labeled:], self.seed[num_labeled:], self.weight[num_labeled:], valid)
        losses, agreement, carry = term([labeled, others])
        return Both(*losses, agreement, carry)


def slow_points(inputs: Inputs) -> Iterator[tuple[int, int, int, list[float]]]:
    """(image, y, x, up-sampled feature) of every sampled pixel."""
    dense = F.interpolate(inputs.features, COVERS, mode="bilinear", align_corners=inputs.out.align_corners)
    points = sample_points(uniform(inputs.seed, "points", GRID * GRID, 2), SIZE, grid=GRID)
    for b in range(BATCH):
        for y, x in points[b].tolist():
            yield b, y, x, dense[b, :, y, x].tolist()


def scores(head: PrototypeHead, z: list[float]) -> list[float]:
    def cosine(p: list[float]) -> float:
        return sum(a * b for a, b in zip(z, p, strict=True)) / math.sqrt(sum(a * a for a in z) * sum(b * b for b in p))

    return [max(cosine(p) for p in prototypes) / head.temperature for prototypes in head.prototype.tolist()]


@pytest.mark.parametrize("align_corners", [True, False])
def test_both_losses(align_corners: bool) -> None:
    term, inputs = ready_term(), Inputs(align_corners=align_corners)
    sums, counts, agree, weighing = [0.0, 0.0], [0, 0], 0, 0
    for b, y, x, z in slow_points(inputs):
        half, label = int(b >= LABELED), int(inputs.label[b, y, x])
        counts[half] += bool(inputs.valid[b, y, x])  # for labelled pixels the same as those that count
        if inputs.weight[b, y, x]:
            logits = scores(term.head, z)
            sums[half] += math.log(sum(math.exp(v) for v in logits)) - logits[label]
            agree += logits.index(max(logits)) == label
            weighing += 1
    out = inputs.run(term)
    assert out.labeled.item() == pytest.approx(sums[0] / counts[0], rel=1e-4)
    assert out.consistency.item() == pytest.approx(sums[1] / counts[1], rel=1e-4)
    assert out.agreement.item() == pytest.approx(agree / weighing)
    assert 0 < agree < weighing


@pytest.mark.parametrize("class_weight", [None, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("emphasis", ["even", "uncertain", "boundary"])
def test_points_that_weigh_more(emphasis: Emphasis, class_weight: tuple[float, ...] | None) -> None:
    """Against a loop: by where a point lies and by its class, and on average as much as without; prototypes move alike."""
    plain, inputs = ready_term(), Inputs()
    gen = torch.Generator().manual_seed(6)
    inputs.out = inputs.out._replace(logits=torch.randn(BATCH, C, *SIZE, generator=gen))
    inputs.label = (
        inputs.label[:, ::4, ::4].repeat_interleave(4, dim=1)[:, : SIZE[0]].repeat_interleave(4, dim=2)[..., : SIZE[1]]
    )
    inputs.weight &= inputs.label != IGNORE_INDEX
    inputs.valid[:LABELED] = inputs.weight[:LABELED] = inputs.label[:LABELED] != IGNORE_INDEX
    term = PrototypeTerm(plain.head, grid=GRID, emphasis=emphasis, class_weight=class_weight)
    weights: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    valid = [0, 0]
    for b, y, x, z in slow_points(inputs):
        half, label = int(b >= LABELED), int(inputs.label[b, y, x])
        valid[half] += bool(inputs.valid[b, y, x])
        if not inputs.weight[b, y, x]:
            continue
        weight = 1.0 if class_weight is None else class_weight[label]
        if emphasis == "uncertain":
            weight *= 1 - float(inputs.out.logits[b, :, y, x].softmax(dim=0).max())
        if emphasis == "boundary":
            ys, xs = ([min(max(v + d, 0), n - 1) for d in (-3, 0, 3)] for v, n in ((y, SIZE[0]), (x, SIZE[1])))
            weight *= any(int(inputs.label[b, i, j]) not in (label, IGNORE_INDEX) for i in ys for j in xs)
        logits = scores(term.head, z)
        weights[half].append(weight)
        losses[half].append(math.log(sum(math.exp(v) for v in logits)) - logits[label])
    expected = []
    for w, loss, count in zip(weights, losses, valid, strict=True):
        mean = sum(a * b for a, b in zip(w, loss, strict=True)) / sum(w)
        expected.append(mean * len(w) / count)
        assert emphasis == "even" or len({*w}) > 1
    out = inputs.run(term)
    assert out.labeled.item() == pytest.approx(expected[0], rel=1e-4)
    assert out.consistency.item() == pytest.approx(expected[1], rel=1e-4)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(out.carry, inputs.run(plain).carry, strict=True))


@pytest.mark.parametrize("emphasis", ["uncertain", "boundary"])
def test_no_point_that_weighs_is_zero_and_finite(emphasis: Emphasis) -> None:
    """One class all over the image, of which the linear predictor is entirely sure."""
    inputs = Inputs()
    inputs.label = torch.zeros_like(inputs.label)
    inputs.out = inputs.out._replace(logits=torch.tensor([1e4, 0.0, 0.0])[:, None, None].expand(BATCH, C, *SIZE))
    out = inputs.run(PrototypeTerm(ready_term().head, grid=GRID, emphasis=emphasis))
    (out.labeled + out.consistency).backward()
    assert (out.labeled.item(), out.consistency.item()) == (0.0, 0.0)
    assert torch.equal(inputs.features.grad, torch.zeros_like(inputs.features))


def test_padding_is_near_no_boundary() -> None:
    """A teacher has a label for it, as for any pixel; two classes here, one of them on the padding alone."""
    inputs, term = Inputs(), PrototypeTerm(ready_term().head, grid=GRID, emphasis="boundary")
    inputs.valid = torch.ones_like(inputs.valid)
    inputs.valid[:, SIZE[0] // 2 :] = False
    inputs.label = (~inputs.valid).long()
    inputs.weight = inputs.valid
    assert inputs.run(term).consistency.item() == 0.0
    inputs.label[:, : SIZE[0] // 4] = 2
    assert inputs.run(term).consistency > 0


def test_weights_are_shared_by_the_classes_that_have_prototypes() -> None:
    """A class without any teaches nothing; that it would weigh much takes nothing from the others."""
    term, inputs = ready_term(), Inputs()
    term.head.ready[2] = False
    with_weights = PrototypeTerm(term.head, grid=GRID, class_weight=(1.0, 1.0, 50.0))
    torch.testing.assert_close(inputs.run(with_weights).consistency, inputs.run(term).consistency)


def test_several_points_of_each_cell() -> None:
    term, inputs = PrototypeTerm(ready_term().head, grid=GRID, points_per_cell=3), Inputs()
    points = sample_points(uniform(inputs.seed, "points", 3 * GRID * GRID, 2), SIZE, grid=GRID, per_cell=3)
    labels = [int(inputs.label[b, y, x]) for b in range(BATCH) for y, x in points[b].tolist()]
    carry = inputs.run(term).carry
    assert carry.label.tolist() == labels
    assert len(carry.features) == 3 * BATCH * GRID * GRID


def test_another_emphasis_is_an_error() -> None:
    with pytest.raises(ValueError, match="'even', 'uncertain' or 'boundary'"):
        PrototypeTerm(PrototypeHead(D, C), emphasis="rare")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 classes need as many weights, got 2"):
        PrototypeTerm(PrototypeHead(D, C), class_weight=[1.0, 2.0])


def test_average_over_those_that_teach() -> None:
    term, inputs = ready_term(), Inputs()
    by_valid = inputs.run(term)
    teaching = by_valid.carry.weight[LABELED * GRID**2 :].sum()
    points = sample_points(uniform(inputs.seed, "points", GRID * GRID, 2), SIZE, grid=GRID)
    valid = sum(int(inputs.valid[b, y, x]) for b in range(LABELED, BATCH) for y, x in points[b].tolist())
    inputs.valid = None
    by_teaching = inputs.run(term)
    assert by_teaching.labeled == by_valid.labeled
    assert by_teaching.consistency.item() == pytest.approx(by_valid.consistency.item() * valid / int(teaching), rel=1e-5)
    assert 0 < int(teaching) < valid


def test_points_can_be_shared_by_the_batch() -> None:
    term, inputs = ready_term(), Inputs()
    term.shared_points = True
    inputs.label = torch.arange(SIZE[0] * SIZE[1]).view(1, *SIZE).expand(BATCH, -1, -1) % C
    inputs.weight = inputs.valid = torch.ones(BATCH, *SIZE, dtype=torch.bool)
    shared = inputs.run(term).carry.label.view(BATCH, -1)
    assert all(torch.equal(row, shared[0]) for row in shared)
    term.shared_points = False
    own = inputs.run(term).carry.label.view(BATCH, -1)
    assert torch.equal(own[0], shared[0])
    assert not torch.equal(own[0], own[1])


def test_points_belong_to_the_image() -> None:
    """An image's points, and so its loss, do not depend on the rest of the batch."""
    term, inputs = ready_term(), Inputs()
    whole = inputs.run(term).carry
    per_image = GRID * GRID
    out = SegOutput(inputs.out.logits[3:4], inputs.features[3:4], COVERS, True)
    alone = term([Part(out, inputs.label[3:4], inputs.seed[3:4], inputs.weight[3:4], inputs.valid[3:4])]).carry
    torch.testing.assert_close(alone.features, whole.features[3 * per_image : 4 * per_image])
    assert torch.equal(alone.label, whole.label[3 * per_image : 4 * per_image])


def test_gradient_reaches_sampled_features_only() -> None:
    term, inputs = ready_term(), Inputs()
    out = inputs.run(term)
    (out.labeled + out.consistency).backward()
    assert (inputs.features.grad.abs().sum(dim=(1, 2, 3)) > 0).all()
    assert not any(part.requires_grad for part in out.carry)
    assert not out.agreement.requires_grad
    assert list(term.parameters()) == []


@pytest.mark.parametrize("num_labeled", [0, BATCH])
def test_one_kind_of_image_only(num_labeled: int) -> None:
    out = Inputs().run(ready_term(), num_labeled)
    empty, full = (out.labeled, out.consistency) if num_labeled == 0 else (out.consistency, out.labeled)
    assert empty.item() == 0.0
    assert full > 0


def test_nothing_known_is_zero_and_finite() -> None:
    term, inputs = ready_term(), Inputs()
    inputs.weight.zero_()
    inputs.valid.zero_()
    out = inputs.run(term)
    (out.labeled + out.consistency).backward()
    assert (out.labeled.item(), out.consistency.item(), out.agreement.item()) == (0.0, 0.0, 0.0)
    assert torch.equal(inputs.features.grad, torch.zeros_like(inputs.features))


@pytest.mark.parametrize("emphasis", ["even", "uncertain", "boundary"])
def test_parts_together_are_each_alone(emphasis: Emphasis) -> None:
    """To read, compare and average all parts at once changes none of them."""
    term, inputs = PrototypeTerm(ready_term().head, grid=GRID, emphasis=emphasis, class_weight=[0.5, 1.0, 3.0]), Inputs()
    logits = torch.randn(BATCH, C, *SIZE, generator=torch.Generator().manual_seed(6))
    outs = inputs.out._replace(logits=logits).split([2, 2, 1])
    of = [slice(0, 2), slice(2, 4), slice(4, 5)]
    parts = [
        Part(out, inputs.label[i], inputs.seed[i], inputs.weight[i], view=v)
        for v, (out, i) in enumerate(zip(outs, of, strict=True))
    ]
    parts[1] = parts[1]._replace(valid=inputs.valid[of[1]])
    together, alone = term(parts), [term([part]) for part in parts]
    torch.testing.assert_close(together.losses, tuple(one.losses[0] for one in alone))
    assert len({round(loss.item(), 4) for loss in together.losses}) == 3
    for ours, *theirs in zip(together.carry, *(one.carry for one in alone), strict=True):
        torch.testing.assert_close(ours, torch.cat(theirs))
    counting = [int(one.carry.weight.sum()) for one in alone]
    agreeing = sum(float(one.agreement) * count for one, count in zip(alone, counting, strict=True))
    assert together.agreement.item() == pytest.approx(agreeing / sum(counting))


def test_the_labelled_pixels_teach_where_nothing_else_is_said() -> None:
    term, inputs = ready_term(), Inputs()
    assert (inputs.label == IGNORE_INDEX).any()
    said, unsaid = (term([Part(inputs.out, inputs.label, inputs.seed, w)]) for w in (inputs.label != IGNORE_INDEX, None))
    assert torch.equal(said.losses[0], unsaid.losses[0])
    assert torch.equal(said.carry.weight, unsaid.carry.weight)


def test_images_of_two_sizes_are_an_error() -> None:
    inputs = Inputs()
    small = Part(inputs.out, inputs.label[:, 1:], inputs.seed)
    with pytest.raises(ValueError, match="one size and one network, got 21 x 29, 22 x 29"):
        ready_term()([Part(inputs.out, inputs.label, inputs.seed), small])


class Operations(TorchDispatchMode):
    """Counts what a device would have to start: everything but views, and but random numbers, which the CPU draws."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or function.overloadpacket.__name__ in ("rand", "_unsafe_view"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("views", "most"), [(0, 104), (1, 115), (3, 144)])
def test_a_step_of_the_term_starts_few_operations(views: int, most: int) -> None:
    """On a GPU the host is the bottleneck: it needs about 20 microseconds for each operation of a step, however small, and the
    term's are small. Measured on one, the term took 13 to 15 % of a step of FixMatch by the number of its operations and 4 %
    by what they compute (docs/performance.md), so their number may not creep up again. A view adds what reads and averages
    it; to compare all points is for all views at once. Bounds are 5 % above 99, 110 and 138: count anew if torch changes."""
    term, inputs = ready_term(), Inputs()
    taught = PseudoLabel(inputs.label[LABELED:], torch.ones(BATCH - LABELED, *SIZE), inputs.valid[LABELED:])
    labeled = LabeledBatch(torch.zeros(LABELED, 3, *SIZE), inputs.label[:LABELED], inputs.seed[:LABELED])
    image = torch.zeros(BATCH - LABELED, 3, *SIZE)
    unlabeled = UnlabeledBatch(image, image[None], taught.valid, taught.valid[None], inputs.seed[LABELED:])

    def step() -> None:
        first, second = inputs.out.split([LABELED, BATCH - LABELED])
        view = Taught(second, taught, inputs.weight[LABELED:], taught.valid, 1.0)
        losses = prototype_losses(term, Lesson(first, taught=[view] * views), labeled, unlabeled)
        torch.stack([*losses.terms.values()]).sum().backward()
        term.update([losses.carry])

    step()  # what is the same in every step is kept
    with Operations() as operations:
        step()
    assert operations.count <= most


@pytest.mark.parametrize("parts", [1, 2])
def test_update_moves_by_all_points_since_the_last_step(parts: int) -> None:
    """Several carries come from gradient accumulation, and are one update."""
    term, inputs = ready_term(momentum=0.9), Inputs()
    carry = inputs.run(term).carry
    expected = term.head.prototype.clone()
    rows = list(zip(carry.features.tolist(), carry.label.tolist(), carry.nearest.tolist(), carry.weight.tolist(), strict=True))
    for c in range(C):
        for k in range(K):
            members = [z for z, y, nearest, w in rows if w and y == c and nearest[c] == k]
            if members:
                mean = torch.tensor(members).mean(dim=0)
                expected[c, k] = 0.9 * expected[c, k] + 0.1 * mean
    chunks = [PrototypeCarry(*part) for part in zip(*(torch.chunk(part, parts) for part in carry), strict=True)]
    assert len(chunks) == parts
    term.update(chunks)
    torch.testing.assert_close(term.head.prototype, expected, atol=1e-5, rtol=1e-5)


def test_update_by_nothing() -> None:
    term = ready_term()
    before = term.head.prototype.clone()
    term.update([])
    assert torch.equal(term.head.prototype, before)


def labelled_batches(count: int = 3, *, classes: int = C, missing: int | None = None) -> list[LabeledBatch]:
    gen = torch.Generator().manual_seed(3)
    batches = []
    for i in range(count):
        mask = torch.randint(0, classes, (2, *SIZE), generator=gen)
        mask[torch.rand(mask.shape, generator=gen) < 0.2] = IGNORE_INDEX
        if missing is not None:
            mask[mask == missing] = IGNORE_INDEX
        batches.append(LabeledBatch(torch.randn(2, 3, *SIZE, generator=gen), mask, torch.tensor([2 * i, 2 * i + 1])))
    return batches


def started(network: SmallUNet, batches: list[LabeledBatch], *, per_class: int = 1, seed: int = 0, **options) -> PrototypeTerm:
    term = PrototypeTerm(PrototypeHead(network.feature_channels, C, per_class=per_class), grid=GRID, **options)
    term.start(network, lambda: iter(batches), seed=seed)
    return term


@pytest.fixture
def network() -> SmallUNet:
    torch.manual_seed(0)
    network = SmallUNet(C, width=4)
    network(torch.randn(4, 3, 32, 32))  # statistics that are not the initial ones
    return network


def test_start_with_one_prototype_is_the_class_mean(network: SmallUNet) -> None:
    batches = labelled_batches(missing=1)
    term = started(network, batches)
    members: dict[int, list[Tensor]] = {c: [] for c in range(C)}
    network.eval()
    for batch in batches:
        with torch.no_grad():
            out = network(batch.image)
        dense = F.interpolate(out.features, out.covers, mode="bilinear", align_corners=out.align_corners)
        points = sample_points(uniform(batch.seed, "points", GRID * GRID, 2), SIZE, grid=GRID)
        for b in range(2):
            for y, x in points[b].tolist():
                c = int(batch.mask[b, y, x])
                if c != IGNORE_INDEX:
                    members[c].append(dense[b, :, y, x])
    assert term.head.ready.tolist() == [True, False, True]
    for c in (0, 2):
        assert len(members[c]) > 20
        torch.testing.assert_close(term.head.prototype[c, 0], torch.stack(members[c]).mean(dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_start_leaves_the_network_as_it_was(network: SmallUNet, training: bool) -> None:
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    started(network, labelled_batches())
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_start_depends_on_its_seed_alone(network: SmallUNet) -> None:
    heads = []
    for i, seed in enumerate((5, 5, 6)):
        torch.manual_seed(i)
        heads.append(started(network, labelled_batches(), per_class=4, seed=seed).head)
    assert torch.equal(heads[0].prototype, heads[1].prototype)
    assert not torch.equal(heads[0].prototype, heads[2].prototype)


@pytest.mark.parametrize("most", [1, 3, 7, 1000])
def test_start_takes_an_even_share_of_pixels(network: SmallUNet, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(
        PrototypeHead, "fit", lambda self, features, label, *, seed: seen.update(features=features, label=label)
    )
    started(network, labelled_batches(), fit_points=1000)
    everything = seen["label"]
    started(network, labelled_batches(), fit_points=most)
    for c in range(C):
        available, taken = int((everything == c).sum()), int((seen["label"] == c).sum())
        assert min(available, most) / 2 <= taken <= min(available, most)
    assert (seen["label"] != IGNORE_INDEX).all()
    assert len(seen["features"]) == len(seen["label"])


def test_given_prototypes_are_kept(network: SmallUNet) -> None:
    term = PrototypeTerm(PrototypeHead(network.feature_channels, C, per_class=K), grid=GRID, fit_start=False)
    given = torch.randn(C, K, network.feature_channels)
    term.head.assign(given)
    term.start(network, lambda: iter(labelled_batches()))
    assert torch.equal(term.head.prototype, given)


def test_start_without_any_label(network: SmallUNet) -> None:
    batches = [batch._replace(mask=torch.full_like(batch.mask, IGNORE_INDEX)) for batch in labelled_batches()]
    assert not started(network, batches).head.ready.any()


def test_start_without_any_crop(network: SmallUNet) -> None:
    term = PrototypeTerm(PrototypeHead(network.feature_channels, C))
    with pytest.raises(ValueError, match="brought none"):
        term.start(network.train(), lambda: iter(()))
    assert network.training, "a failed start leaves the network as it was"


@pytest.mark.parametrize("options", [{"grid": 0}, {"fit_points": 0}, {"points_per_cell": 0}])
def test_no_points_at_all_is_an_error(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PrototypeTerm(PrototypeHead(D, C), **options)


@pytest.mark.parametrize("most", [1, 3, 8, 100])
def test_an_even_sample_is_every_nth_member(most: int) -> None:
    """Of the whole stream, however it is cut into batches; between half as many as asked for and all of them."""
    gen = torch.Generator().manual_seed(5)
    label = torch.randint(0, 3, (200,), generator=gen)
    label[label == 2] = IGNORE_INDEX
    features = torch.arange(200.0)[:, None]
    for sizes in ([200], [1] * 200, [7, 93, 100]):
        sample, held = EvenSample(3, most=most), 0
        for part, classes in zip(torch.split(features, sizes), torch.split(label, sizes), strict=True):
            sample.add(part, classes)
            held = max(held, *map(len, sample.kept))
        taken, classes = sample.taken()
        assert held <= 2 * most
        for c in range(2):
            members, own = features[label == c].flatten(), taken[classes == c].flatten()
            step = next(step for step in range(1, 201) if torch.equal(members[::step], own))
            assert min(most, len(members)) / 2 <= len(own) <= most
            assert step == 1 or len(members) > most
        assert not (classes == 2).any()


def test_an_even_sample_takes_no_features_without_numbers() -> None:
    """They take no place that others could have: the sample is that of a stream without them."""
    features, label = torch.arange(200.0)[:, None].repeat(1, 2), torch.arange(200) % 2
    spoilt = torch.arange(200) % 3 == 0
    samples = [EvenSample(2, most=8) for _ in range(2)]
    samples[1].add(features[~spoilt], label[~spoilt])
    features[spoilt, 1] = torch.tensor([math.nan, math.inf]).repeat(100)[: int(spoilt.sum())]
    for part, classes in zip(features.split(50), label.split(50), strict=True):
        samples[0].add(part, classes)
    for ours, theirs in zip(samples[0].taken(), samples[1].taken(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("align_corners", [True, False])
def test_what_prototypes_say_to_a_label(align_corners: bool) -> None:
    """A veto where the nearest prototype is of another class; half of the probability otherwise. In loops."""
    inputs, term = Inputs(align_corners=align_corners), ready_term()
    gen = torch.Generator().manual_seed(4)
    logits = torch.randn(BATCH, C, *SIZE, generator=gen)
    told = PseudoLabel(logits.argmax(dim=1), logits.softmax(dim=1).amax(dim=1), inputs.valid)
    small = torch.zeros(BATCH, C, 6, 8)
    for b in range(BATCH):
        for y in range(6):
            for x in range(8):
                small[b, :, y, x] = torch.tensor(scores(term.head, inputs.features[b, :, y, x].tolist()))
    large = F.interpolate(small, COVERS, mode="bilinear", align_corners=align_corners)
    vetoed, advised = term.veto(inputs.out, told), term.advise(inputs.out, logits)
    differ = 0
    for b in range(BATCH):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                agreed = int(large[b, :, y, x].argmax()) == int(told.label[b, y, x])
                differ += not agreed
                assert int(vetoed.label[b, y, x]) == (int(told.label[b, y, x]) if agreed else IGNORE_INDEX)
                both = (logits[b, :, y, x].softmax(dim=0) + large[b, :, y, x].softmax(dim=0)) / 2
                torch.testing.assert_close(advised[b, :, y, x].softmax(dim=0), both, rtol=1e-4, atol=1e-5)
    assert 0 < differ < BATCH * SIZE[0] * SIZE[1]
    assert vetoed.confidence is told.confidence
    assert vetoed.valid is told.valid


def test_prototypes_that_have_not_started_say_nothing() -> None:
    inputs, term = Inputs(), PrototypeTerm(PrototypeHead(D, C, per_class=K), grid=GRID)
    logits = torch.randn(BATCH, C, *SIZE)
    told = PseudoLabel(logits.argmax(dim=1), logits.softmax(dim=1).amax(dim=1), inputs.valid)
    assert torch.equal(term.veto(inputs.out, told).label, told.label)
    assert torch.equal(term.advise(inputs.out, logits), logits)


def test_another_word_for_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="'linear', 'agree' or 'mean'"):
        PrototypeTerm(PrototypeHead(D, C), labels="both")  # type: ignore[arg-type]
