"""Which image stands where is a function of (seed, step, position)."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from protoseg.data.sampler import Draw, StreamSampler


def batches(count: int, *, images: int = 10, batch: int = 4, seed: int = 0, stream: str = "labeled", **options: int):  # type: ignore[no-untyped-def]
    return list(islice(StreamSampler(images, batch, seed=seed, stream=stream, **options), count))


def test_the_same_keys_give_the_same_stream() -> None:
    assert batches(6) == batches(6)
    sampler = StreamSampler(10, 4, seed=0, stream="labeled")
    assert list(islice(sampler, 3)) == list(islice(sampler, 3))  # iterating keeps no state
    assert [[sampler.draw(step, i) for i in range(4)] for step in range(6)] == batches(6)


@pytest.mark.parametrize("first", [1, 2, 3, 7, 100])
def test_starting_at_batch_k_is_skipping_k(first: int) -> None:
    assert batches(5, first_batch=first) == batches(first + 5)[first:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batch(world_size: int) -> None:
    shares = [batches(6, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[draw for share in step for draw in share] for step in zip(*shares, strict=True)]
    assert joined == batches(6)


@pytest.mark.parametrize(("images", "batch"), [(10, 4), (12, 4), (3, 8), (1, 2), (7, 7)])
def test_every_image_once_per_pass(images: int, batch: int) -> None:
    drawn = [draw.image for step in batches(2 * images, images=images, batch=batch) for draw in step]
    for start in range(0, len(drawn) - images + 1, images):
        assert sorted(drawn[start : start + images]) == list(range(images))


def test_passes_differ_in_order() -> None:
    drawn = [draw.image for step in batches(20, images=20, batch=4) for draw in step]
    assert drawn[:20] != drawn[20:40]
    assert drawn[:20] != list(range(20))


def test_no_seed_is_drawn_twice() -> None:
    """Fewer images than the batch: the same image again, with another crop."""
    draws = [draw for step in batches(50, images=2, batch=8) for draw in step]
    assert Counter(draw.seed for draw in draws).most_common(1)[0][1] == 1
    assert {draw.image for draw in draws} == {0, 1}


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "unlabeled"}])
def test_seeds_and_streams_differ(other: dict[str, object]) -> None:
    first, second = batches(5, images=50), batches(5, images=50, **other)  # type: ignore[arg-type]
    assert [d.image for step in first for d in step] != [d.image for step in second for d in step]
    assert not {d.seed for step in first for d in step} & {d.seed for step in second for d in step}


def test_a_draw_is_an_image_and_a_seed() -> None:
    draw = batches(1)[0][0]
    assert isinstance(draw, Draw)
    assert 0 <= draw.image < 10
    assert 0 <= draw.seed < 2**63


@pytest.mark.parametrize(("images", "batch", "world_size"), [(0, 4, 1), (10, 3, 2), (10, 0, 1), (10, -2, 1)])
def test_what_cannot_be_drawn_is_refused(images: int, batch: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=r"empty|divide|at least"):
        StreamSampler(images, batch, seed=0, stream="labeled", world_size=world_size)
