"""Two endless streams, labelled and unlabelled, that start where the trainer stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.utilities import CombinedLoader

from protoseg.data.in_hand import Slots
from protoseg.data.loader import LabeledCrops, UnlabeledCrops, collate, make_loader
from protoseg.data.sampler import StreamSampler


class StreamModule(L.LightningDataModule):
    """Draw `batch` labelled and `batch` unlabelled images at each forward pass.

    Args:
        labeled: crops of labelled images.
        unlabeled: crops of the others; None for a method that does not use them.
        batch: images of each kind, over all processes.
        seed: of the run.
        workers: processes that decode, per training process.
        accumulate: forward passes per optimizer step.
        pass_crops: labelled crops that `labeled_pass` brings at least.
    """

    def __init__(
        self,
        labeled: LabeledCrops,
        unlabeled: UnlabeledCrops | None,
        *,
        batch: int,
        seed: int,
        workers: int = 0,
        accumulate: int = 1,
        pass_crops: int = 64,
    ) -> None:
        super().__init__()
        self.labeled, self.unlabeled = labeled, unlabeled
        self.batch, self.seed, self.workers = batch, seed, workers
        self.accumulate, self.pass_crops = accumulate, pass_crops
        self._slots: list[Slots] = []

    def train_dataloader(self) -> CombinedLoader:
        assert self.trainer is not None
        # The position is the trainer's own count of steps: counting yielded batches would count prefetched ones too.
        first = self.trainer.global_step * self.accumulate
        pin = self.trainer.strategy.root_device.type == "cuda"
        streams: dict[str, LabeledCrops | UnlabeledCrops] = {"labeled": self.labeled}
        if self.unlabeled is not None:
            streams["unlabeled"] = self.unlabeled
        self._slots = [Slots(self.workers) for _ in streams]
        loaders = {
            stream: make_loader(
                dataset,
                StreamSampler(
                    len(dataset.samples),
                    self.batch,
                    seed=self.seed,
                    stream=stream,
                    first_batch=first,
                    rank=self.trainer.global_rank,
                    world_size=self.trainer.world_size,
                ),
                workers=self.workers,
                pin_memory=pin,
                slots=slots,
            )
            for (stream, dataset), slots in zip(streams.items(), self._slots, strict=True)
        }
        return CombinedLoader(loaders, "min_size")

    def in_hand(self) -> dict[int, str]:
        """Number of each worker -> the file that it has begun to read last."""
        return {pid: path for slots in self._slots for pid, path in slots.read().items()}

    def labeled_pass(self, step: int) -> Iterator[dict[str, Any]]:
        """Labelled crops outside the stream, the same on every process: each image once, and at least `pass_crops`."""
        dataset = self.labeled
        total = max(self.pass_crops, len(dataset.samples))
        sampler = StreamSampler(len(dataset.samples), self.batch, seed=self.seed, stream=f"pass at {step}")
        for index in range(-(-total // self.batch)):
            yield collate([dataset[sampler.draw(index, position)] for position in range(self.batch)])
