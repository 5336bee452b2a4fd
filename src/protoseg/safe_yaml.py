"""YAML that others wrote: what its aliases stand for is counted before anything is made of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where it is needed, so that --help answers at once
    from yaml.nodes import Node

LARGEST = 200_000
"""Nodes and characters that a text with aliases may stand for; a list of a thousand classes, ten times over, has half of it."""


class ExpansionError(ValueError):
    """A few aliases stand for more than anybody means, or for something without an end."""


def load(text: str) -> Any:
    """`yaml.safe_load` of a text that may be hostile.

    Raises:
        ExpansionError: see `check_expansion`.
        yaml.YAMLError, ValueError, RecursionError: it is no YAML, or holds a value that cannot be (a date of month 99).
    """
    import yaml

    check_expansion(text)
    return yaml.safe_load(text)


def check_expansion(text: str) -> None:
    """Refuse YAML whose aliases blow it up: the values of a few hundred bytes are written out with millions of characters.

    Raises:
        ExpansionError: it stands for more than `LARGEST`, or a value holds itself.
        yaml.YAMLError: it is no YAML.
    """
    if "&" not in text or "*" not in text:  # neither an anchor nor an alias
        return
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        size = 0 if root is None else _size(root, {})
    except RecursionError as error:
        raise ExpansionError("it is nested too deeply") from error
    if size > LARGEST:
        what = "a value that holds itself" if size == math.inf else f"more than {LARGEST:,} characters"
        raise ExpansionError(f"its aliases (*name) stand for {what}; write the values out")


def _size(node: Node, sizes: dict[int, float]) -> float:
    """Nodes and characters below a node, those of an alias each time that it is named: by each node once, not each path."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # what comes back here on its way down holds itself
        if isinstance(node.value, str):
            below: float = len(node.value)
        else:  # children, or pairs of key and value
            below = sum(_size(child, sizes) for each in node.value for child in (each if isinstance(each, tuple) else (each,)))
        sizes[id(node)] = 1 + below
    return sizes[id(node)]
