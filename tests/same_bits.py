"""What differs between two runs, to the last bit."""

from __future__ import annotations

from typing import Any

import torch


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Dotted name -> what is no container."""
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for part, inner in items for key, leaf in flat(inner, f"{name}.{part}").items()}


def differing(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The names of what is not the same; both have to have the same names."""
    assert expected.keys() == found.keys()
    return [
        name
        for name, value in expected.items()
        if not (torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name])
    ]
