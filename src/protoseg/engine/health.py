"""Is a run well? Running shares of classes and prototypes, and the alarms that they raise.

C classes · K prototypes per class
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from protoseg.types import Vitals

HORIZON = 256
"""Unlabelled images over which the running shares forget, and after which they are judged first."""
LASTING = 4 * HORIZON
"""Unlabelled images over which a state has to last before it is called a collapse: young teachers name few classes."""
SWALLOWED = 0.1
"""One class has swallowed the rest where all others together keep less than this part of their share of the labels."""
GONE, ALIVE = 0.02, 0.2
"""A class has disappeared where it keeps less than GONE of its share of the labels, after it has had ALIVE of it."""
RARE = 1e-3
"""Classes with a smaller share of the labels are not missed: chance takes them away and brings them back."""
LOST = 10
"""Steps in a row without numbers that a run does not come back from."""
DEAD = 0.05
"""A prototype is dead where fewer of its class's pixels choose it than this part of an even share."""


class Alarm(NamedTuple):
    """Something that ruins a run.

    Attributes:
        kind: which rule, and of which class.
        text: what happened, and the likely cause.
        remedy: what to change before another try.
    """

    kind: str
    text: str
    remedy: Literal["learning rate", "threshold"]


@dataclass(frozen=True)
class Health:
    """The state of a run at one step, as numbers.

    Attributes:
        labeled: (C,) share of each class among the labels.
        pseudo: (C,) running share among the pseudo-labels; empty while there are none.
        images: unlabelled images that the running shares have seen.
        agreement: of student and teacher, which is whoever labels (docs/methods.md), on the first view that learns from it; NaN
            while there are no pseudo-labels.
        prototype_use: (C, K) running share of each prototype among the pixels of its class; empty without prototypes.
        ema_distance: of the teacher's parameters from the student's, relative to their length.
        lost: steps, up to the last one, that were dropped one after the other because they were no numbers.
    """

    labeled: tuple[float, ...]
    pseudo: tuple[float, ...]
    images: float
    agreement: float
    prototype_use: tuple[tuple[float, ...], ...]
    ema_distance: float
    lost: int

    @property
    def distance(self) -> float:
        """Total variation between the shares among labels and pseudo-labels, in [0, 1]; NaN while there are none."""
        if not self.pseudo:
            return math.nan
        return sum(abs(a - b) for a, b in zip(self.labeled, self.pseudo, strict=True)) / 2

    @property
    def prototype_entropy(self) -> float:
        """Of the choice between the prototypes of a class, 1 where all are chosen alike; mean over the classes in use."""
        rows = [row for row in self.prototype_use if sum(row) > 0 and len(row) > 1]
        entropy = [-sum(p * math.log(p) for p in row if p > 0) / math.log(len(row)) for row in rows]
        return sum(entropy) / len(entropy) if entropy else math.nan

    @property
    def dead_prototypes(self) -> float:
        """Share of the prototypes of the classes in use that hardly any pixel chooses."""
        used = [p * len(row) for row in self.prototype_use if sum(row) > 0 for p in row]
        return sum(p < DEAD for p in used) / len(used) if used else math.nan

    def scalars(self) -> dict[str, float]:
        """What a log line shows of it: whatever there is."""
        values = {
            "pseudo_distance": self.distance,
            "teacher_agreement": self.agreement,
            "prototype_entropy": self.prototype_entropy,
            "dead_prototypes": self.dead_prototypes,
            "ema_distance": self.ema_distance,
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}


_TENSORS = ("pseudo", "prototype_use", "agreeing")


class HealthMonitor:
    """Keep running shares on the device, and judge them when asked. A checkpoint is read before it is known which device.

    Each process keeps its own; a reading is over all of them, so that all judge alike.

    Args:
        names: of the C classes, for the texts.
        pixels: (C,) labelled pixels of each class, of whole images: crops may have been drawn around rare classes.
    """

    def __init__(self, names: Sequence[str], pixels: Sequence[int]) -> None:
        self.names = tuple(names)
        self.labeled = tuple(count / max(1, sum(pixels)) for count in pixels)  # share of each class
        self.pseudo: Tensor | None = None  # (C,) running share
        self.prototype_use: Tensor | None = None  # (C, K) running pixels
        self.agreeing: Tensor | None = None  # (2,) agreeing and compared pixels since the last reading
        self.images = 0.0
        self.clear = 0.0  # images seen at the last reading without doubts
        self.alive: set[int] = set()  # classes that pseudo-labels have known
        self.since: dict[str, float] = {}  # kind -> images seen when what may become an alarm began
        self.raised: set[str] = set()

    def add(self, vitals: Vitals, *, images: int) -> None:
        """Take in one batch.

        Args:
            vitals: of this process.
            images: unlabelled images in the batch, over all processes; labelled ones where there are no others.
        """
        new = min(1.0, images / HORIZON)
        if vitals.prototype_use is not None:
            use = vitals.prototype_use.double()
            self.prototype_use = use if self.prototype_use is None else torch.lerp(self.prototype_use.to(use), use, new)
        if vitals.pseudo is None:
            return
        share = vitals.pseudo / vitals.pseudo.sum().clamp(min=1).double()
        self.pseudo = share if self.pseudo is None else torch.lerp(self.pseudo.to(share), share, new)
        if vitals.agreeing is not None and vitals.compared is not None:
            now = torch.stack([vitals.agreeing, vitals.compared]).double()
            self.agreeing = now if self.agreeing is None else self.agreeing.to(now) + now
        self.images += images

    def read(self, *, lost: int, ema_distance: float) -> Health:
        """Fetch the numbers, over all processes: this waits for the device."""
        pseudo, use, agreed = (
            torch.zeros(0) if tensor is None else summed(tensor) for tensor in (self.pseudo, self.prototype_use, self.agreeing)
        )
        agreeing, compared = agreed.tolist() if len(agreed) else (0.0, 0.0)
        self.agreeing = None
        pseudo = pseudo / pseudo.sum().clamp(min=1e-12)
        total = use.sum(dim=-1, keepdim=True)
        return Health(
            self.labeled,
            tuple(pseudo.tolist()),
            self.images,
            agreeing / compared if compared else math.nan,
            tuple(tuple(row) for row in (use / total.clamp(min=1e-12)).tolist()),
            ema_distance,
            lost,
        )

    def judge(self, health: Health) -> list[Alarm]:
        """The alarms that this state raises, each once."""
        doubts = {alarm.kind: alarm for alarm in (self._pseudo_labels(health) if health.images >= HORIZON else ())}
        self.since = {kind: self.since.get(kind, health.images) for kind in doubts}
        if not doubts:
            self.clear = health.images
        lasting = [alarm for kind, alarm in doubts.items() if health.images - self.since[kind] >= LASTING]
        new = [alarm for alarm in (*self._loss(health.lost), *lasting) if alarm.kind not in self.raised]
        self.raised.update(alarm.kind for alarm in new)
        return new

    def written_now(self) -> float:
        """When a checkpoint of this moment is written, for `vouches_for`: in images seen. NaN in doubt."""
        if self.since:
            return math.nan
        return self.images or -math.inf  # before the first pseudo-labels there is nothing to be sick of

    def vouches_for(self, written: float) -> bool:
        """Whether the readings say that a checkpoint is healthy.

        A reading looks back: in a mean that forgets over HORIZON, a class that is gone at once is below GONE of its share
        within LASTING images, and not much sooner. So a reading without doubts says nothing yet of the last LASTING images.
        """
        return written <= self.clear - LASTING

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        others = {"images": self.images, "clear": self.clear, "since": dict(self.since)}
        return tensors | others | {"alive": sorted(self.alive), "raised": sorted(self.raised)}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        for name in _TENSORS:
            setattr(self, name, state[name])
        self.images, self.since = state["images"], dict(state["since"])
        self.clear = state.get("clear", 0.0)  # earlier versions kept none
        self.alive, self.raised = set(state["alive"]), set(state["raised"])

    def _loss(self, lost: int) -> list[Alarm]:
        if lost < LOST:
            return []
        text = (
            f"the loss or its gradient was no number in {lost} steps in a row: the network's numbers ran away, most often from "
            "too high a learning rate"
        )
        return [Alarm("loss", text, "learning rate")]

    def _pseudo_labels(self, health: Health) -> list[Alarm]:
        largest = max(range(len(self.names)), key=lambda c: health.pseudo[c])
        others, labeled = 1 - health.pseudo[largest], 1 - health.labeled[largest]
        if others < SWALLOWED * labeled:
            text = (
                f"{self.names[largest]!r} makes up {100 * (1 - others):.1f} % of the pseudo-labels, but only "
                f"{100 * (1 - labeled):.1f} % of the labels: the teacher's mistakes confirm themselves; "
                "a higher threshold lets fewer of them teach"
            )
            return [Alarm("swallowed", text, "threshold")]
        alarms = []
        for c, (share, of_labels) in enumerate(zip(health.pseudo, health.labeled, strict=True)):
            if of_labels < RARE:
                continue
            if share >= ALIVE * of_labels:
                self.alive.add(c)
            if c in self.alive and share < GONE * of_labels:
                text = (
                    f"{self.names[c]!r} has disappeared from the pseudo-labels ({100 * share:.2f} % of them, "
                    f"{100 * of_labels:.2f} % of the labels): its pixels are taught to be something else; a higher threshold, "
                    "--loss.balance or more labels of it may hold it"
                )
                alarms.append(Alarm(f"disappeared: {self.names[c]}", text, "threshold"))
        return alarms


def processes() -> int:
    """Of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(tensor: Tensor) -> Tensor:
    """Over all processes; a copy."""
    total = tensor.clone()
    if processes() > 1:
        dist.all_reduce(total)
    return total
