"""PrevMatch: when states are taken, who answers, and its step against the formula."""

from __future__ import annotations

import copy

import pytest
import torch
from test_conformance import labeled_batch, make, run, unlabeled_batch

from protoseg.functional.mixing import paste
from protoseg.functional.random import generator
from protoseg.methods.prevmatch import NUM_TAKEN, PrevMatch, easier
from protoseg.methods.prototype_term import Labels
from protoseg.methods.unimatch import UniMatch
from protoseg.nn.snapshots import draw_ensemble


def build(**options: float) -> PrevMatch:
    method = make("prevmatch", **options)
    assert isinstance(method, PrevMatch)
    return method


@pytest.mark.parametrize(
    ("step", "ramp", "held"), [(10, 0.005, 1), (60, 0.505, 6), (109, 0.995, 8), (110, 0.995, 8), (160, 0.495, 8)]
)
def test_one_step_is_the_formula(step: int, ramp: float, held: int) -> None:
    """L = (L_x + L_u + r L_prev) / (2 + r), with r on a triangle over the steps after the warm-up."""
    method = build(warmup_steps=10, total_steps=210, threshold=0.4)
    base = make("unimatch", warmup_steps=10, threshold=0.4)
    assert isinstance(base, UniMatch)
    base.student.load_state_dict(method.student.state_dict())
    labeled, unlabeled = labeled_batch(), unlabeled_batch(method)
    share = draw_ensemble(held, most=3, gen=generator(0, "previous", step))
    logits = sum(weight * method.snapshots.kept[place](unlabeled.weak).logits for place, weight in share.items())
    confidence, label = logits.softmax(dim=1).max(dim=1)
    lesson, out = base.learn(labeled, unlabeled, step=step), base(labeled, unlabeled, step=step)
    previous = []
    for view, taught in enumerate(lesson.taught):
        box = unlabeled.box[view] if view < 2 else torch.zeros_like(unlabeled.valid)
        wanted, sure, valid = (paste(part, box) for part in (label, confidence, unlabeled.valid))
        log_probability = taught.out.logits.log_softmax(dim=1).gather(1, wanted[:, None])[:, 0]
        previous.append(-(log_probability * (sure >= 0.35) * valid).sum().item() / valid.sum().item())
        assert (sure >= 0.35).float().mean() > 0
    added = 0.25 * previous[0] + 0.25 * previous[1] + 0.5 * previous[2]
    expected = (2 * out.loss.item() + ramp * added) / (2 + ramp)

    found = method(labeled, unlabeled, step=step)
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)
    names = ["previous_strong_1", "previous_strong_2", "previous_feature"]
    assert [found.terms[name].item() for name in names] == pytest.approx([ramp * value for value in previous], rel=1e-4)


@pytest.mark.parametrize(("labels", "sure", "teaches"), [("linear", 40.0, 2), ("agree", 40.0, None), ("mean", 0.1, 0)])
def test_prototypes_have_their_say_in_earlier_labels_too(labels: Labels, sure: float, teaches: int | None) -> None:
    """Prototypes which take every pixel for class 0 veto snapshots of class 2, and outvote faint ones."""
    method = make("prevmatch", prototypes=True, labels=labels, total_steps=20, threshold=0.4)
    assert isinstance(method, PrevMatch)
    assert method.prototypes is not None
    direction = -torch.ones(3, 2, method.network.feature_channels)
    direction[0] = 1.0  # features are not negative
    method.prototypes.head.assign(direction)
    for kept in method.snapshots.kept:
        torch.nn.init.zeros_(kept.network.head.weight)
        kept.network.head.bias.data.copy_(torch.tensor([0.0, 0.0, sure]))
    unlabeled = unlabeled_batch(method)
    lesson, losses = method.learn(labeled_batch(), unlabeled, step=10), []
    for label in range(3):
        log_probability = lesson.taught[2].out.logits.log_softmax(dim=1)[:, label]
        losses.append(-(log_probability * unlabeled.valid).sum().item() / unlabeled.valid.sum().item())
    expected = 0.0 if teaches is None else losses[teaches]
    assert lesson.terms["previous_feature"].item() == pytest.approx(expected, abs=0.1)
    assert min(abs(a - b) for a, b in zip([0.0, *losses], [*losses, 0.0], strict=True)) > 0.2


def test_states_are_taken_at_even_distances_from_the_end_of_the_warm_up_on() -> None:
    method = build(warmup_steps=3, total_steps=3 + 2 * NUM_TAKEN + 1)
    assert method.distance == 2
    taken: list[dict[str, torch.Tensor]] = []
    for step in range(30):
        out = method(labeled_batch(), unlabeled_batch(method), step=step)
        with torch.no_grad():
            for parameter in method.student.parameters():
                parameter += 0.01
        method.after_step([out.carry], step=step)
        if step + 1 in range(3, 100, 2):
            taken.append(copy.deepcopy(method.student.state_dict()))
        newest = taken[-8:]
        for number, state in enumerate(newest, start=len(taken) - len(newest)):
            kept = method.snapshots.kept[number % 8].network.state_dict()
            assert all(torch.equal(kept[name], value) for name, value in state.items()), (step, number)
    assert len(taken) == 14


def test_a_run_goes_on_from_its_state() -> None:
    """With states taken before and after, and labels that some of them agree on."""
    settings = {"warmup_steps": 2, "total_steps": 42, "threshold": 0.35}
    method = build(**settings)
    run(method, 0, 13)
    other = build(**settings)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    terms = run(method, 13, 17)
    assert terms == run(other, 13, 17)
    assert all(row["previous_feature"] > 0 for row in terms)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in method.state_dict().items())


def test_earlier_states_need_a_little_less_confidence() -> None:
    assert easier(0.95) == pytest.approx(0.9)
    assert easier(0.0) == 0
    assert easier(torch.tensor([0.95, 0.02])).tolist() == pytest.approx([0.9, 0.0])
