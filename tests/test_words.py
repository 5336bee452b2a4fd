"""One of a thing, and several."""

from __future__ import annotations

import pytest

from protoseg.words import counted, shortened


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2, ("image",), "2 images"),
        (1, ("mask is", "masks are"), "1 mask is"),
        (3, ("mask is", "masks are"), "3 masks are"),
    ],
)
def test_counted(number: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(number, *words) == expected


@pytest.mark.parametrize(("value", "expected"), [([1, 2], "[1, 2]"), ("a" * 80, "a" * 80), ("a" * 81, "a" * 76 + " ...")])
def test_shortened(value: object, expected: str) -> None:
    assert shortened(value) == expected
