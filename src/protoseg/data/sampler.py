"""Which image stands where in which batch: a function of (seed, step, position), with nothing to save or restore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from protoseg.functional.random import fold, generator


class Draw(NamedTuple):
    """One place in one batch."""

    image: int  # its place in the list
    seed: int  # of every random choice for it


class StreamSampler(Sampler[list[Draw]]):
    """Batches of an endless stream of shuffled passes over a list, from any step on.

    Every pass is a new permutation, so a list shorter than a batch is drawn again, with other seeds and so other crops.

    Args:
        num_images: length of the list.
        batch: images of one global batch, over all processes.
        seed: of the run.
        stream: name; two streams of one run are independent.
        first_batch: where to start.
        rank, world_size: this process takes its contiguous share of each batch.

    Raises:
        ValueError: no image, or a batch that does not divide over the processes.
    """

    def __init__(
        self,
        num_images: int,
        batch: int,
        *,
        seed: int,
        stream: str,
        first_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_images < 1:
            raise ValueError(f"the {stream} list is empty")
        if batch < 1 or batch % world_size:
            raise ValueError(f"a batch of {batch} does not divide over {world_size} processes")
        self.num_images, self.batch, self.seed, self.stream = num_images, batch, seed, stream
        self.first_batch, self.rank, self.share = first_batch, rank, batch // world_size

    def draw(self, batch_index: int, position: int) -> Draw:
        """The image at a position of a global batch."""
        place = batch_index * self.batch + position
        turn, offset = divmod(place, self.num_images)
        return Draw(int(self._permutation(turn)[offset]), fold(self.seed, self.stream, batch_index, position))

    def __iter__(self) -> Iterator[list[Draw]]:
        batch_index = self.first_batch
        while True:
            start = self.rank * self.share
            yield [self.draw(batch_index, start + i) for i in range(self.share)]
            batch_index += 1

    def _permutation(self, turn: int) -> torch.Tensor:
        if getattr(self, "_cached_turn", None) != turn:
            order = torch.randperm(self.num_images, generator=generator(self.seed, self.stream, "order", turn))
            self._cached_turn, self._cached_order = turn, order
        return self._cached_order
