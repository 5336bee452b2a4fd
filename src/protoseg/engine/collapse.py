"""What becomes of a run that an alarm has ended: back to its last healthy checkpoint, with a gentler setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from protoseg.engine.health import Alarm, HealthMonitor
from protoseg.engine.resumable import CHECKPOINT, PREVIOUS, WAITING, load_state, save_state
from protoseg.stored import DamagedError

OnCollapse = Literal["continue", "stop", "rollback"]
TRIES = 3
"""Collapses after which a run stops whatever it was told: a gentler setting has not helped twice."""
_HIGHEST = 0.98
"""Thresholds from here on are not raised any more: nothing would be left to teach."""


class CollapseError(RuntimeError):
    """A run that does not go on."""


class Collapse(Exception):  # noqa: N818
    """Raised out of training by an alarm."""

    def __init__(self, alarm: Alarm, step: int) -> None:
        super().__init__(alarm.text)
        self.alarm, self.step = alarm, step


class WayBack:
    """Which of a run's checkpoints is the last healthy one: the newest that the health's readings vouch for.

    A reading looks back over many images, so the newest checkpoint may be sick before any reading is: it is healthy for
    certain once a reading without doubts has come late enough (`HealthMonitor.vouches_for`). Until then the one before is
    needed. `previous.ckpt` is always vouched for. Where checkpoints follow one another faster than readings can tell, one
    waits in `waiting.ckpt` until they can, and those behind it are overwritten.

    Args:
        folder: of the run.
        health: of the run, as it was when `last.ckpt` was written, where that is there.
    """

    def __init__(self, folder: Path, health: HealthMonitor) -> None:
        self.last, self.waiting, self.previous = folder / CHECKPOINT, folder / WAITING, folder / PREVIOUS
        self.health = health
        self._written = {self.last: health.written_now()} if self.last.is_file() else {}
        if self.waiting.is_file():
            try:
                self._written[self.waiting] = load_state(self.waiting)["protoseg"]["health"]["images"]
            except (DamagedError, KeyError, TypeError):  # or of something else than a run
                self.waiting.unlink()  # the one before it is whole, and the next one takes its place

    def make_room(self) -> Path | None:
        """Before a new `last.ckpt`: where the present one goes, None for nowhere."""
        if self._vouched(self.last):
            self._forget_waiting()
            return self.previous
        if self._vouched(self.waiting):
            self.waiting.replace(self.previous)
            self._written.pop(self.waiting)
        if self.health.since:  # what waits was written in the time that is in doubt
            self._forget_waiting()
        elif self._without_doubt(self.last) and self.waiting not in self._written:
            self._written[self.waiting] = self._written[self.last]
            return self.waiting
        return None

    def wrote(self) -> None:
        """After a new `last.ckpt`."""
        self._written[self.last] = self.health.written_now()

    def last_healthy(self, alarm: Alarm) -> Path:
        """The checkpoint to go back to.

        Steps without numbers are dropped before they reach the weights, and no checkpoint is written of one: after those the
        newest is healthy, unless it was written in doubt about the pseudo-labels.
        """
        for path in (self.last, self.waiting):
            if self._vouched(path) or (alarm.kind == "loss" and self._without_doubt(path)):
                return path
        return self.previous

    def _vouched(self, path: Path) -> bool:
        return path in self._written and self.health.vouches_for(self._written[path])

    def _without_doubt(self, path: Path) -> bool:
        return not math.isnan(self._written.get(path, math.nan))

    def _forget_waiting(self) -> None:
        self.waiting.unlink(missing_ok=True)
        self._written.pop(self.waiting, None)


def roll_back(way_back: WayBack, collapse: Collapse, *, threshold: float | None) -> dict[str, Any]:
    """Make the last healthy checkpoint the one to go on from, with half the learning rate or a higher threshold.

    What happened and what was changed is written into the checkpoint itself, so that a run that is killed now goes on alike.

    Args:
        way_back: the checkpoints that there are.
        collapse: what happened.
        threshold: of the method now; None where it has none.

    Returns:
        The event as the checkpoint and the result hold it.

    Raises:
        CollapseError: the run has collapsed too often.
    """
    state = load_state(way_back.last_healthy(collapse.alarm))
    event: dict[str, Any] = {"step": collapse.step, "alarm": collapse.alarm.text, "back_to": state["global_step"]}
    if collapse.alarm.remedy == "threshold" and threshold is not None and threshold < _HIGHEST:
        event["threshold"] = (1 + threshold) / 2
    else:
        event["lr_factor"] = 0.5
        for group in state["optimizer_states"][0]["param_groups"]:
            group["lr"] *= 0.5  # of the next step; for those after it the schedule knows
    events = state["protoseg"]["events"] = [*state["protoseg"]["events"], event]
    save_state(state, way_back.previous)  # too, because the next collapse may come before the next checkpoint
    way_back.waiting.unlink(missing_ok=True)  # before there is a last one that it would seem to belong to
    save_state(state, way_back.last)
    if len([e for e in events if "back_to" in e]) >= TRIES:
        told = "; ".join(f"step {e['step']}: {e['alarm']}" for e in events)
        raise CollapseError(f"training has collapsed {TRIES} times and stops ({told})")
    return event


def describe(event: dict[str, Any]) -> str:
    """What was changed, in words."""
    if "threshold" in event:
        return f"a threshold of {event['threshold']:g}"
    return f"{event['lr_factor']:g} times the learning rate"
