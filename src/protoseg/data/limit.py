"""How large an image may be that is read at all: `--max-pixels`, one setting of every command.

A file of a few bytes may say that it holds more pixels than any memory, so its size is looked at before anything is decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PIXELS = "PROTOSEG_MAX_PIXELS"
"""Environment variable in which a command keeps the setting, for the processes that it starts."""
DEFAULT = 100_000_000


def most_pixels() -> int:
    """Pixels of the largest image that is read."""
    return int(os.environ.get(MAX_PIXELS, DEFAULT))


@contextmanager
def limited(pixels: int | None) -> Iterator[None]:
    """Read no larger images for a while, in this process and in those that it starts; None leaves the limit as it is."""
    before = os.environ.get(MAX_PIXELS)
    if pixels is not None:
        os.environ[MAX_PIXELS] = str(pixels)
    try:
        yield
    finally:
        os.environ.pop(MAX_PIXELS, None)
        if before is not None:
            os.environ[MAX_PIXELS] = before


def parse_pixels(text: str) -> int:
    """A number of pixels as it is typed: 400000000 or 400e6.

    Raises:
        ValueError: it is none.
    """
    try:
        return max(1, int(float(text)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"--max-pixels takes a number of pixels such as 400e6; got {text}") from error


def too_large(height: int, width: int) -> str:
    """What is wrong with an image of that size; empty where nothing is."""
    size, most = height * width, most_pixels()
    if size <= most:
        return ""
    if round(size / 1e6) > round(most / 1e6) > 0:
        shown, limit, enough = f"{size / 1e6:,.0f} megapixels", f"{most / 1e6:,.0f}", f"{math.ceil(size / 1e6)}e6"
    else:  # millions would say 0, or the same number twice
        shown, limit, enough = f"{size:,} pixels", f"{most:,}", str(size)
    return (
        f"is an image of {shown} by its header ({width} x {height}), and at most {limit} are read; cut it into tiles, or give "
        f"--max-pixels {enough}"
    )
