"""Random numbers that depend on their keys alone."""

from __future__ import annotations

import pytest
import torch

from protoseg.functional.random import fold, generator, uniform


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((0,), 2631537505891389924),
        ((1, "points"), 4467336877349956494),
        (("1", 1), 2164659431973048169),
        ((7, "cutmix", 3), 7920165088934091637),
    ],
)
def test_fold_is_the_same_for_good(keys: tuple[int | str, ...], expected: int) -> None:
    """Hard-coded: another value would make every resumed run differ from the run it resumes."""
    assert fold(*keys) == expected


def test_fold_tells_keys_apart() -> None:
    keys = [(), (1,), ("1",), (1, 2), (2, 1), (12,), (1, "2"), ("1", "2"), ("12",), (-1,), (1, 2, 0), ("1, 2",), (2**70,)]
    assert len({fold(*k) for k in keys}) == len(keys)


def test_fold_fits_a_seed() -> None:
    values = [fold(i) for i in range(2000)]
    assert all(0 <= value < 2**63 for value in values)
    assert max(values) > 2**62.9  # the upper bits are used
    assert len(set(values)) == len(values)


def test_draws_are_the_same_for_good() -> None:
    draw = uniform(torch.tensor([5, 9]), "points", 3)
    expected = torch.tensor([[0.4178, 0.1384, 0.8433], [0.7014, 0.2876, 0.6225]])
    torch.testing.assert_close(draw, expected, atol=1e-4, rtol=0)


def test_draws_belong_to_the_image() -> None:
    batch = uniform(torch.tensor([3, 4, 5]), "color", 4, 2)
    assert batch.shape == (3, 4, 2)
    alone = uniform(torch.tensor([4]), "color", 4, 2)
    assert torch.equal(batch[1:2], alone)
    torch.manual_seed(0)
    assert torch.equal(uniform(torch.tensor([4, 3]), "color", 4, 2), batch[[1, 0]])


def test_images_and_streams_differ() -> None:
    seed = torch.tensor([1, 2])
    draw = uniform(seed, "color", 8)
    assert not torch.equal(draw[0], draw[1])
    assert not torch.equal(draw, uniform(seed, "points", 8))


def test_draws_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    uniform(torch.tensor([1, 2]), "color", 8)
    generator(1).initial_seed()
    assert torch.equal(torch.rand(3), expected)


def test_draws_are_uniform() -> None:
    draw = uniform(torch.arange(200), "x", 100)
    assert draw.min() >= 0
    assert draw.max() < 1
    assert abs(draw.mean() - 0.5) < 0.01
    counts = torch.histc(draw, bins=10, min=0, max=1)
    assert (counts - 2000).abs().max() < 220  # five standard deviations
    # Neighbouring seeds give unrelated streams.
    assert abs(torch.corrcoef(torch.stack([draw[:-1, 0], draw[1:, 0]]))[0, 1]) < 0.25


def test_no_images() -> None:
    assert uniform(torch.empty(0, dtype=torch.int64), "x", 4, 2).shape == (0, 4, 2)
