"""Earlier states of a network: which are kept, and how they answer together."""

from __future__ import annotations

import pytest
import torch

from protoseg.nn.small_unet import SmallUNet
from protoseg.nn.snapshots import Snapshots, draw_ensemble


def states(count: int) -> list[SmallUNet]:
    torch.manual_seed(0)
    networks = [SmallUNet(3, width=2) for _ in range(count)]
    for network in networks:
        network(torch.randn(2, 3, 16, 16))  # statistics of its own
    return networks


def test_the_newest_are_kept() -> None:
    networks = states(6)
    snapshots, expected = Snapshots(networks[0], size=3), [networks[0]] * 3
    for number, network in enumerate(networks):
        snapshots.take(number, network)
        expected[number % 3] = network
        for kept, wanted in zip(snapshots.kept, expected, strict=True):
            mine, others = kept.network.state_dict(), wanted.state_dict()
            assert all(torch.equal(mine[name], others[name]) for name in others)
    assert expected == [networks[3], networks[4], networks[5]]


def test_they_answer_with_their_shares_in_eval_mode_and_without_gradient() -> None:
    networks, image = states(3), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    snapshots = Snapshots(networks[0], size=3)
    for number, network in enumerate(networks):
        snapshots.take(number, network)
    snapshots.train()
    before = {name: value.clone() for name, value in snapshots.state_dict().items()}
    logits = snapshots(image, {2: 0.7, 0: 0.3})
    expected = 0.7 * networks[2].eval()(image).logits + 0.3 * networks[0].eval()(image).logits
    torch.testing.assert_close(logits, expected.detach())
    assert not logits.requires_grad
    assert not any(parameter.requires_grad for parameter in snapshots.parameters())
    assert all(torch.equal(value, before[name]) for name, value in snapshots.state_dict().items())


@pytest.mark.parametrize("held", [1, 2, 8])
def test_random_ensembles(held: int) -> None:
    """One to three without repetition, each number and each snapshot alike often, shares spread over all that add up to 1."""
    gen, draws = torch.Generator().manual_seed(2), 3000
    drawn = [draw_ensemble(held, most=3, gen=gen) for _ in range(draws)]
    assert all(sum(share.values()) == pytest.approx(1) and min(share.values()) >= 0 for share in drawn)
    sizes = [sum(len(share) == count for share in drawn) / draws for count in (1, 2, 3)]
    assert sizes == pytest.approx({1: [1, 0, 0], 2: [1 / 3, 2 / 3, 0], 8: [1 / 3] * 3}[held], abs=0.03)
    often = [sum(place in share for share in drawn) for place in range(held)]
    assert often == pytest.approx([sum(often) / held] * held, rel=0.12)
    for count in (2, 3):  # Dirichlet(1, ..., 1): mean 1/n, variance (n - 1) / (n^2 (n + 1))
        first = torch.tensor([next(iter(share.values())) for share in drawn if len(share) == count])
        if len(first):
            assert float(first.mean()) == pytest.approx(1 / count, abs=0.03)
            assert float(first.var()) == pytest.approx((count - 1) / (count**2 * (count + 1)), rel=0.12)


def test_no_place_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        Snapshots(states(1)[0], size=0)
