"""Spherical k-means: groups by direction, centres are means of the raw vectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.clustering import spherical_kmeans


def bundles(sizes: list[int], *, noise: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bundles of vectors about orthogonal axes, of lengths from 0.1 to 10, shuffled, and the bundle of each."""
    gen = torch.Generator().manual_seed(seed)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    vectors = torch.eye(6)[group] + noise * torch.randn(len(group), 6, generator=gen)
    vectors = vectors * 10 ** (2 * torch.rand(len(group), 1, generator=gen) - 1)
    order = torch.randperm(len(group), generator=gen)
    return vectors[order], group[order]


@pytest.mark.parametrize("seed", range(5))
def test_separated_bundles_are_found_largest_first(seed: int) -> None:
    vectors, group = bundles([20, 50, 30], seed=seed)
    clusters = spherical_kmeans(vectors, 3, generator=torch.Generator().manual_seed(seed))
    assert clusters.size.tolist() == [50, 30, 20]
    for center, g in zip(clusters.center, (1, 2, 0), strict=True):
        members = vectors[group == g].tolist()
        mean = [sum(v[d] for v in members) / len(members) for d in range(6)]
        assert center.tolist() == pytest.approx(mean, rel=1e-4, abs=1e-5)


def test_direction_counts_not_length() -> None:
    vectors = torch.tensor([[1.0, 0.0], [100.0, 1.0], [0.0, 1.0], [1.0, 100.0]])
    clusters = spherical_kmeans(vectors, 2, generator=torch.Generator().manual_seed(0))
    found = sorted(clusters.center.tolist())
    assert found == [[0.5, 50.5], [50.5, 0.5]]


def test_one_cluster_is_the_mean() -> None:
    vectors, _ = bundles([7, 5])
    clusters = spherical_kmeans(vectors, 1)
    torch.testing.assert_close(clusters.center, vectors.mean(dim=0, keepdim=True))
    assert clusters.size.tolist() == [12]


@pytest.mark.parametrize("seed", range(3))
def test_centres_sum_to_all_vectors(seed: int) -> None:
    """Whatever the clusters, each vector is in exactly one."""
    vectors = torch.randn(200, 5, generator=torch.Generator().manual_seed(seed))
    clusters = spherical_kmeans(vectors, 7, generator=torch.Generator().manual_seed(seed))
    assert clusters.size.sum() == 200
    torch.testing.assert_close((clusters.center * clusters.size[:, None]).sum(dim=0), vectors.sum(dim=0), atol=1e-3, rtol=1e-4)
    assert clusters.size.tolist() == sorted(clusters.size.tolist(), reverse=True)


def test_more_rounds_do_not_fit_worse() -> None:
    vectors = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    unit = F.normalize(vectors, dim=1)

    def fit(rounds: int) -> float:
        center = spherical_kmeans(unit, 5, iterations=rounds, generator=torch.Generator().manual_seed(1)).center
        return float((unit @ F.normalize(center, dim=1).T).amax(dim=1).mean())

    assert fit(25) > fit(1) + 0.005


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_vectors_than_clusters(count: int) -> None:
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])[:count]
    clusters = spherical_kmeans(vectors, 4, generator=torch.Generator().manual_seed(0))
    assert clusters.size.tolist() == [1] * count + [0] * (4 - count)
    assert sorted(clusters.center[:count].tolist()) == sorted(vectors.tolist())
    for center in clusters.center[count:]:
        torch.testing.assert_close(center, vectors.mean(dim=0))


def test_duplicates_share_a_cluster() -> None:
    vectors = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 5.0]]).repeat(4, 1)  # two directions
    clusters = spherical_kmeans(vectors, 4, generator=torch.Generator().manual_seed(0))
    assert clusters.size.tolist() == [8, 4, 0, 0]
    torch.testing.assert_close(clusters.center[:2], torch.tensor([[1.5, 1.5], [0.0, 5.0]]))


@pytest.mark.parametrize("seed", range(8))
def test_start_never_takes_a_copy_of_a_centre(seed: int) -> None:
    """Rounding leaves a distance of 1e-7 between copies, and ten thousand copies outweigh a close neighbour."""
    gen = torch.Generator().manual_seed(seed)
    vectors = torch.randn(1, 8, generator=gen).repeat(10_002, 1)
    vectors[10_000:] += 0.03 * torch.randn(2, 8, generator=gen)
    clusters = spherical_kmeans(vectors, 3, generator=gen)
    assert clusters.size.tolist() == [10_000, 1, 1]


def test_zero_vectors_are_finite() -> None:
    clusters = spherical_kmeans(torch.zeros(5, 3), 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(clusters.center, torch.zeros(2, 3))
    assert clusters.size.tolist() == [5, 0]


def test_same_generator_same_clusters() -> None:
    vectors = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    first, second = (spherical_kmeans(vectors, 6, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.center, second.center)
    torch.manual_seed(0)
    assert torch.equal(spherical_kmeans(vectors, 6, generator=torch.Generator().manual_seed(3)).center, first.center), (
        "the global generator must not matter"
    )


def test_no_vector_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one vector"):
        spherical_kmeans(torch.empty(0, 3), 2)


@pytest.mark.parametrize("options", [{"num_clusters": 0}, {"num_clusters": 2, "iterations": 0}])
def test_nothing_to_do_is_an_error(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one cluster and one iteration"):
        spherical_kmeans(torch.eye(3), **options)
