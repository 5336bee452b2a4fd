"""JSON files that protoseg wrote and reads back. Anybody may have changed them meanwhile, so their shape is checked first.

A shape is a function that tells whether a value fits, `[shape]` for a list of such, `{str: shape}` for an object with any
names, and `{"name": shape, "name?": shape}` for one with these; those with a question mark may be missing, further ones are
not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg.words import shortened

_LARGEST = 1e300  # of a number: sums and differences of some are numbers too


class DamagedError(ValueError):
    """A file of a run folder that is not what this run wrote; the message says what to do instead of going on from it."""


def read_json(path: Path, shape: Any, *, advice: str) -> Any:
    """Read a file.

    Args:
        path: of the file.
        shape: of its content.
        advice: what to do about a damaged one.

    Raises:
        DamagedError: it is missing, no JSON, or of another shape.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedError(f"{path} is missing or damaged ({error}); {advice}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error}); {advice}") from error
    if why := misfit(content, shape):
        raise DamagedError(f"{path} is damaged ({why}); {advice}")
    return content


def misfit(value: Any, shape: Any, name: str = "its content") -> str:
    """Why a value is not of a shape, in words; empty where it is."""
    if callable(shape):
        return "" if shape(value) else f"{name} is {shortened(repr(value))}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        return _first(misfit(entry, shape[0], f"entry {i} of {name}") for i, entry in enumerate(value))
    if not isinstance(value, dict):
        return f"{name} is no object"
    if str in shape:
        return _first(misfit(entry, shape[str], f"{shortened(repr(key))} of {name}") for key, entry in value.items())
    keys = {key.removesuffix("?"): key for key in shape}
    if missing := [key for key, given in keys.items() if key not in value and key == given]:
        return f"{missing[0]!r} is missing"
    return _first(misfit(value[key], shape[given], repr(key)) for key, given in keys.items() if key in value)


def _first(reasons: Iterable[str]) -> str:
    return next((reason for reason in reasons if reason), "")


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def is_number(value: Any) -> bool:
    """A number that can be drawn: neither infinite nor none."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def is_score(value: Any) -> bool:
    """A number, or none of a class or an image that has none."""
    return value is None or is_number(value) or value != value


def is_color(value: Any) -> bool:
    return not misfit(value, [is_whole]) and len(value) == 3 and all(0 <= part <= 255 for part in value)
