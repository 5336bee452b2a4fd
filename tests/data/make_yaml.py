"""Hostile YAML."""

from __future__ import annotations


def nested_aliases(*, mappings: bool = False, depth: int = 12) -> str:
    """A few hundred bytes that stand for nine to the power of `depth` values: each level names the one below nine times.

    Args:
        mappings: of nine keys, instead of lists.
        depth: levels.
    """
    levels = ["l0: &l0 [lol]"]
    for i in range(1, depth + 1):
        below = ", ".join(f"k{k}: *l{i - 1}" if mappings else f"*l{i - 1}" for k in range(9))
        levels.append(f"l{i}: &l{i} " + (f"{{{below}}}" if mappings else f"[{below}]"))
    return f"{{{', '.join(levels)}}}"
