"""The bridge between a method and Lightning: it hands over batches and steps, and never asks which method it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protoseg.data.batch import BatchViews
from protoseg.engine.guard import Guard, poisoned, voided
from protoseg.engine.health import Health, HealthMonitor, processes, summed
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
        class_pixels: (C,) labelled pixels of each.
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
        class_pixels: Sequence[int],
        seed: int = 0,
        power: float = 0.9,
        lr_warmup: int = 0,
    ) -> None:
        super().__init__()
        self.method, self.views = method, views
        self.make_optimizer, self.total_steps, self.labeled_pass = make_optimizer, total_steps, labeled_pass
        self.seed, self.power, self.lr_warmup = seed, power, lr_warmup
        self.meter = Meter()
        self.guard = Guard([part.network for part in method.trained()], method.trained_parameters())
        self.dropped = 0
        self.health = HealthMonitor(class_names, class_pixels)
        self.events: list[dict[str, Any]] = []
        self.skipped: set[str] = set()
        self._carries: list[Any] = []
        self._micro_step = 0

    def setup(self, stage: str) -> None:
        # On a GPU the kernels of a step take less than three quarters of the time so; on a CPU training gains nothing. Here,
        # because DDP lays out its buckets as the parameters are when it wraps them.
        if self.trainer.strategy.root_device.type == "cuda":
            self.method.to(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            lay_out_like_parameters(optimizer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._micro_step == 0:
            self.method.before_step(self._labeled_batches(), step=self.global_step)
            self.guard.before_forward()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        step = self.global_step
        # Dropout draws from the global generator: seed it by the step, so that a resumed run sees the same masks.
        _seed(fold(self.seed, "step", step, self._micro_step, self.global_rank), self.device)
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
        return poisoned(out.loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.guard.before_update()
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # a scaler of float16 finds its scale in this way
            self.meter.count_bad("gradient", self.guard.bad)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        # The slow parts move here, not in a batch-end hook: a checkpoint is written before that hook runs.
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        self.guard.after_update()
        self.method.after_step([voided(carry, self.guard.bad) for carry in self._carries], step=step)
        self._carries, self._micro_step = [], 0

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.method)
        schedule = LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_end(self) -> None:
        self.skipped = _union(self.skipped)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = _union(self.skipped)  # every process comes here, the first one writes
        own = {"meter": self.meter.state(), "health": self.health.state()}
        checkpoint["protoseg"] = {
            **own,
            "skipped": sorted(self.skipped),
            "dropped": self.dropped,
            "events": self.events,
            "others": _everyones(own)[1:],  # sums of the further processes
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own, others = checkpoint["protoseg"], checkpoint["protoseg"].get("others", [])
        if self.global_rank > 0 and len(others) == self.trainer.world_size - 1:
            own = others[self.global_rank - 1]
        self.meter.load(own["meter"])
        self.health.load(own["health"])
        self.skipped = set(checkpoint["protoseg"]["skipped"])
        self.dropped = checkpoint["protoseg"].get("dropped", 0)
        self.events = list(checkpoint["protoseg"]["events"])
        if raised := [event["threshold"] for event in self.events if "threshold" in event]:
            self.method.threshold = raised[-1]
        # What a run that ended in the middle of a step has left behind.
        self._carries, self._micro_step = [], 0
        self.guard.in_a_row.zero_()

    def read_health(self) -> Health:
        """The state of the run as numbers; every process has to call it, and it waits for the device."""
        return self.health.read(lost=int(self.guard.in_a_row), ema_distance=self.method.ema_distance())

    def is_well(self) -> bool:
        """Whether the last step was made of numbers. It waits for the device."""
        return not self.guard.bad

    def _lr_factor(self, step: int) -> float:
        halved: float = math.prod(event.get("lr_factor", 1.0) for event in self.events)
        return halved * poly(step, self.total_steps, power=self.power, warmup=self.lr_warmup)

    def _labeled_batches(self) -> LabeledPass:
        def start() -> Any:
            for raw in self.labeled_pass(self.global_step):
                moved = {key: v.to(self.device) if isinstance(v, Tensor) else v for key, v in raw.items()}
                yield self.views.labeled(moved)

        return start


class Reading(NamedTuple):
    means: dict[str, float]  # of what was a number, over all processes; NaN where nothing was
    bad: dict[str, int]  # how often which was none, on all processes; without those that always were


class Meter:
    """Means of scalars between two log lines, summed on the device: reading a number would make the host wait for it.

    What is no number counts in no mean, but is counted.
    """

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.count: dict[str, int] = {}
        self.bad: dict[str, Tensor] = {}
        self.images = 0

    def add(self, scalars: dict[str, Tensor], *, images: int) -> None:
        for name, value in scalars.items():
            finite = torch.isfinite(value)
            number = torch.where(finite, value, 0)
            self.total[name] = self.total[name] + number if name in self.total else number
            self.count[name] = self.count.get(name, 0) + 1
            self.count_bad(name, ~finite)
        self.images += images

    def count_bad(self, name: str, bad: Tensor) -> None:
        """Count what is no number."""
        self.bad[name] = self.bad[name] + bad if name in self.bad else bad.long()

    def knows_of_bad(self, name: str) -> bool:
        """Whether it was no number since the last reading, where looking costs nothing: on a CPU. On other devices nobody knows
        before the reading."""
        bad = self.bad.get(name)
        return bad is not None and bad.device.type == "cpu" and bool(bad)

    def read(self) -> Reading:
        """Everything since the last reading; starts afresh. Every process has to call it, and it waits for the device."""
        if not self.total:
            return Reading({}, {})
        total = dict(zip(self.total, summed(torch.stack(list(self.total.values()))), strict=True))
        bad = dict(zip(self.bad, summed(torch.stack(list(self.bad.values()))), strict=True))
        means = torch.stack([total[name] / (processes() * self.count[name] - bad[name]) for name in total]).tolist()
        number = torch.stack(list(bad.values())).tolist()
        result = Reading(dict(zip(total, means, strict=True)), {name: n for name, n in zip(bad, number, strict=True) if n})
        self.total, self.count, self.bad, self.images = {}, {}, {}, 0
        return result

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "count": self.count, "bad": self.bad, "images": self.images}

    def load(self, state: dict[str, Any]) -> None:
        self.total, self.count, self.images = dict(state["total"]), dict(state["count"]), state["images"]
        zeros = {name: torch.zeros_like(total, dtype=torch.int64) for name, total in self.total.items()}
        self.bad = dict(state.get("bad", zeros))  # of an earlier version: only of numbers


def lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Give what an optimizer keeps of each parameter the strides of the parameter. A checkpoint brings the layout of the device
    that wrote it, and a fused optimizer pairs elements as they lie in memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators in use. `torch.manual_seed` also queues up, with a stack trace, a call for every kind of device that
    is not there: milliseconds, and memory that grows with each step."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _count(batch: dict[str, Any]) -> int:
    return sum(len(part["seed"]) for part in batch.values())


def _union(names: set[str]) -> set[str]:
    """The names that any process knows; every process has to call it."""
    return set().union(*_everyones(names))


def _everyones(value: Any) -> list[Any]:
    """What each process gives, tensors on the CPU, in their order; every process has to call it."""
    if processes() == 1:
        return [value]
    everyone: list[Any] = [None] * processes()
    dist.all_gather_object(everyone, _on_cpu(value))
    return everyone


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    return value.cpu() if isinstance(value, Tensor) else value
