"""The bridge between a method and Lightning: it hands over batches and steps, and never asks which method it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protoseg.data.batch import BatchViews
from protoseg.engine.health import Health, HealthMonitor, summed
from protoseg.functional.random import fold
from protoseg.functional.schedules import poly
from protoseg.methods.base import Method
from protoseg.types import LabeledPass, StepOutput


class TrainingModule(L.LightningModule):
    """Train one method.

    Args:
        method: student, teacher and whatever else the method keeps.
        views: makes the method's batches, on the device.
        make_optimizer: builds the optimizer over the student.
        total_steps: optimizer steps of the run, for the learning-rate schedule.
        labeled_pass: raw labelled batches for `method.before_step`, given the step.
        class_names: of the C classes, for warnings.
        seed: of the run.
        power, lr_warmup: of the poly schedule.
    """

    def __init__(
        self,
        method: Method,
        views: BatchViews,
        *,
        make_optimizer: Callable[[Method], Optimizer],
        total_steps: int,
        labeled_pass: Callable[[int], Any],
        class_names: Sequence[str],
        seed: int = 0,
        power: float = 0.9,
        lr_warmup: int = 0,
    ) -> None:
        super().__init__()
        self.method, self.views = method, views
        self.make_optimizer, self.total_steps, self.labeled_pass = make_optimizer, total_steps, labeled_pass
        self.seed, self.power, self.lr_warmup = seed, power, lr_warmup
        self.meter = Meter()
        self.health = HealthMonitor(class_names)
        self.events: list[dict[str, Any]] = []
        self.skipped: set[str] = set()
        self._carries: list[Any] = []
        self._micro_step = 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._micro_step == 0:
            self.method.before_step(self._labeled_batches(), step=self.global_step)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        step = self.global_step
        # Dropout draws from the global generator: seed it by the step, so that a resumed run sees the same masks.
        torch.manual_seed(fold(self.seed, "step", step, self._micro_step, self.global_rank))
        labeled = self.views.labeled(batch["labeled"])
        unlabeled = None
        if "unlabeled" in batch:
            unlabeled = self.views.unlabeled(batch["unlabeled"], step=step)
            self.skipped.update(name for names in batch["unlabeled"]["skipped"] for name in names)
        out: StepOutput = self.method(labeled, unlabeled, step=step)
        self._carries.append(out.carry)
        self._micro_step += 1
        if out.vitals is not None:
            images = labeled.image if unlabeled is None else unlabeled.weak
            self.health.add(out.vitals, images=len(images) * self.trainer.world_size)
        self.meter.add({"loss": out.loss.detach(), **out.terms, **out.monitors}, images=_count(batch))
        return out.loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        # The slow parts move here, not in a batch-end hook: a checkpoint is written before that hook runs.
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self._carries, step=step)
        self._carries, self._micro_step = [], 0

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.method)
        schedule = LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_end(self) -> None:
        self.skipped = _union(self.skipped)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = _union(self.skipped)  # every process comes here, the first one writes
        checkpoint["protoseg"] = {
            "meter": self.meter.state(),
            "skipped": sorted(self.skipped),
            "health": self.health.state(),
            "events": self.events,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.meter.load(checkpoint["protoseg"]["meter"])
        self.skipped = set(checkpoint["protoseg"]["skipped"])
        self.health.load(checkpoint["protoseg"]["health"])
        self.events = list(checkpoint["protoseg"]["events"])
        if raised := [event["threshold"] for event in self.events if "threshold" in event]:
            self.method.threshold = raised[-1]
        # What a run that ended in the middle of a step has left behind.
        self._carries, self._micro_step = [], 0

    def read_health(self, *, loss: float) -> Health:
        """The state of the run as numbers; every process has to call it, and it waits for the device.

        Args:
            loss: mean since the last reading, of this process.
        """
        return self.health.read(loss=loss, ema_distance=self.method.ema_distance())

    def _lr_factor(self, step: int) -> float:
        halved: float = math.prod(event.get("lr_factor", 1.0) for event in self.events)
        return halved * poly(step, self.total_steps, power=self.power, warmup=self.lr_warmup)

    def _labeled_batches(self) -> LabeledPass:
        def start() -> Any:
            for raw in self.labeled_pass(self.global_step):
                moved = {key: v.to(self.device) if isinstance(v, Tensor) else v for key, v in raw.items()}
                yield self.views.labeled(moved)

        return start


class Meter:
    """Means of scalars between two log lines, summed on the device: reading a number would make the host wait for it."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.count: dict[str, int] = {}
        self.images = 0

    def add(self, scalars: dict[str, Tensor], *, images: int) -> None:
        for name, value in scalars.items():
            self.total[name] = self.total[name] + value if name in self.total else value.clone()
            self.count[name] = self.count.get(name, 0) + 1
        self.images += images

    def read(self) -> dict[str, float]:
        """The means, in one transfer; starts afresh."""
        if not self.total:
            return {}
        values = torch.stack([self.total[name] / self.count[name] for name in self.total]).tolist()
        result = dict(zip(self.total, values, strict=True))
        self.total, self.count, self.images = {}, {}, 0
        return result

    def is_finite(self, name: str) -> bool:
        """Whether a sum is a number, on every process. Every process has to call it, and it waits for the device."""
        return name not in self.total or math.isfinite(float(summed(self.total[name])))

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "count": self.count, "images": self.images}

    def load(self, state: dict[str, Any]) -> None:
        self.total, self.count, self.images = dict(state["total"]), dict(state["count"]), state["images"]


def _count(batch: dict[str, Any]) -> int:
    return sum(len(part["seed"]) for part in batch.values())


def _union(names: set[str]) -> set[str]:
    """The names that any process knows; every process has to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return names
    everyone: list[set[str]] = [set() for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, names)
    return set().union(*everyone)
