"""What the files of a run folder look like to whoever reads them back; see `stored` for how shapes are written."""

from __future__ import annotations

from typing import Any

from protoseg.stored import is_color, is_number, is_score, is_text, is_whole, misfit


def _is_text_or_none(value: Any) -> bool:
    return value is None or is_text(value)


def _is_counted_size(value: Any) -> bool:
    """Width, height and how many images have them."""
    return not misfit(value, [is_whole]) and len(value) == 3


def _is_event(value: Any) -> bool:
    numbers = {"back_to?": is_whole, "threshold?": is_number, "lr_factor?": is_number}
    went_back = isinstance(value, dict) and "back_to" in value
    return not misfit(value, {"step": is_whole, "alarm": is_text, **numbers}) and (
        not went_back or "threshold" in value or "lr_factor" in value
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_MACHINE = {"device": is_text, "cpus": lambda value: value is None or is_whole(value), "system": is_text}
_SCORE = {"miou": is_score, "iou": {str: is_score}}

SHOWN = {
    **{f"{name}?": shape for name, shape in _SCORE.items()},
    **dict.fromkeys(("evaluated?", "steps?"), is_whole),
    **dict.fromkeys(("method?", "recipe?", "finished?"), is_text),
    **{key: [is_text] for key in ("skipped?", "other_kind?")},
    "seconds?": is_number,
    "machine?": _MACHINE,
    "events?": [_is_event],
}
"""result.json of a training, for its report: of any version, and of a baseline."""

TOGETHER = {"method": "recipe", "seconds": "steps"}
"""Entries of that, each of which comes with another one."""

FINISHED = {
    **{key: [is_text] for key in ("skipped", "other_kind")},
    "split": {"evaluation": is_text},
    "steps": is_whole,
    "seconds": is_number,
    **{f"{name}?": shape for name, shape in _SCORE.items()},
    "evaluated?": is_whole,
    "baseline?": {**_SCORE, "steps": is_whole, "seconds": is_number},
    "gain?": is_number,
}
"""The same for a run that is gone on with: nothing is trained again."""

STARTED = {
    "commands?": [is_text],
    "data?": {
        **dict.fromkeys(("folder", "format", "evaluation_name", "kind"), is_text),
        **dict.fromkeys(("labeled", "unlabeled", "evaluation"), is_whole),
        "sizes": [_is_counted_size],
        "shares": {str: is_number},
        "notes": [is_text],
        "findings": [dict.fromkeys(("severity", "title", "advice"), is_text)],
    },
}
"""run.json."""

EVALUATION = {
    "scored": {"folder": is_text, "images": is_text, "number": is_whole},
    "head": is_text,
    "inference": _is_object,
    "commands?": [is_text],
    "seconds": is_number,
    "machine": _MACHINE,
}
"""result.json that `evaluate` writes."""

HEADER = {
    "classes": {"names": [is_text], "colors": [is_color]},
    "config?": _is_object,
    "versions?": {str: _is_text_or_none},
}
"""Of a model file."""


def misfit_of_finished(result: dict[str, Any]) -> str:
    """Why an object of the shape FINISHED is not whole, in words: what was scored has all scores."""
    if "miou" not in result:
        return "'baseline' is there and 'miou' is missing" if "baseline" in result else ""
    if why := misfit(result, {"miou": is_number_or_nan, "iou": {str: is_score}, "evaluated": is_whole}):
        return why
    baseline = result.get("baseline")
    if baseline is not None and (baseline["miou"] is None or baseline["iou"].keys() != result["iou"].keys()):
        return "'baseline' is of other classes"
    return ""


def is_number_or_nan(value: Any) -> bool:
    return value is not None and is_score(value)
