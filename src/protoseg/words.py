"""Sentences for people."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `2 images`; `1 mask is`, `2 masks are`.

    Args:
        number: of the things.
        one: what to call one of them.
        many: what to call several; an s is added when left out.
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def shortened(value: object, length: int = 80) -> str:
    """A value as a message quotes it: its text, of which no more than so many characters."""
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 4]} ..."
