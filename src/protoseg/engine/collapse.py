"""What becomes of a run that an alarm has ended: back to its last healthy checkpoint, with a gentler setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from protoseg.engine.health import Alarm
from protoseg.engine.resumable import load_state, save_state

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


def roll_back(previous: Path, last: Path, collapse: Collapse, *, threshold: float | None) -> dict[str, Any]:
    """Make the last healthy checkpoint the one to go on from, with half the learning rate or a higher threshold.

    What happened and what was changed is written into the checkpoint itself, so that a run that is killed now goes on alike.

    Args:
        previous: checkpoint from before the collapse.
        last: the checkpoint that training goes on from; overwritten.
        collapse: what happened.
        threshold: of the method now; None where it has none.

    Returns:
        The event as the checkpoint and the result hold it.

    Raises:
        CollapseError: the run has collapsed too often.
    """
    state = load_state(previous)
    event: dict[str, Any] = {"step": collapse.step, "alarm": collapse.alarm.text, "back_to": state["global_step"]}
    if collapse.alarm.remedy == "threshold" and threshold is not None and threshold < _HIGHEST:
        event["threshold"] = (1 + threshold) / 2
    else:
        event["lr_factor"] = 0.5
        for group in state["optimizer_states"][0]["param_groups"]:
            group["lr"] *= 0.5  # of the next step; for those after it the schedule knows
    events = state["protoseg"]["events"] = [*state["protoseg"]["events"], event]
    for path in (previous, last):  # the next collapse may come before the next checkpoint
        save_state(state, path)
    if len([e for e in events if "back_to" in e]) >= TRIES:
        told = "; ".join(f"step {e['step']}: {e['alarm']}" for e in events)
        raise CollapseError(f"training has collapsed {TRIES} times and stops ({told})")
    return event


def describe(event: dict[str, Any]) -> str:
    """What was changed, in words."""
    if "threshold" in event:
        return f"a threshold of {event['threshold']:g}"
    return f"{event['lr_factor']:g} times the learning rate"
