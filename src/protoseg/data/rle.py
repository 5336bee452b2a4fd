"""Label Studio's run-length code for brush strokes. It is a code of its own, not COCO's.

The layout is that of the `rle-pack` package (https://github.com/thi-ng/umbrella), which Label Studio's editor uses: a bit
stream, most significant bit first, of

    32 bits  number of values            5 bits  bits of a value, less 1        4 x 4 bits  four sizes of a run, less 1
    then until all values are there:     1 bit   run or not                     2 bits      which size
                                         size    number of values, less 1       the value once (run) or each value (not)

The values are the four 8-bit channels of the painted image, row by row; the alpha channel is the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHANNELS = 4


def decode_brush(code: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a brush stroke.

    Args:
        code: bytes, as numbers.
        size: (H, W) of the image.

    Returns:
        (H, W) bool, True where anything is painted.

    Raises:
        ValueError: the code is damaged, or of an image of another size.
    """
    if not all(isinstance(byte, int) and 0 <= byte < 256 for byte in code):
        raise ValueError("a brush code is a list of numbers from 0 to 255")
    bits = _Bits(bytes(code))
    count = bits.read(32)
    expected = size[0] * size[1] * _CHANNELS
    if count != expected:  # checked first: the number is the file's own, and memory is made for it
        raise ValueError(f"the brush code is of {count // _CHANNELS} pixels, the image has {size[0] * size[1]}")
    word = bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=np.uint32)
    i = 0
    while i < count:
        is_run = bits.read(1)
        end = i + 1 + bits.read(sizes[bits.read(2)])
        if end > count:
            raise ValueError("the brush code is damaged: it goes on after the last pixel")
        values[i:end] = bits.read(word) if is_run else [bits.read(word) for _ in range(end - i)]
        i = end
    alpha: NDArray[np.bool_] = values.reshape(*size, _CHANNELS)[..., 3] > 0
    return alpha


class _Bits:
    """Reads numbers of any number of bits."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def read(self, bits: int) -> int:
        start, self.position = self.position, self.position + bits
        if self.position > 8 * len(self.data):
            raise ValueError("the brush code is damaged: it ends too early")
        first, last = start // 8, (self.position + 7) // 8
        window = int.from_bytes(self.data[first:last], "big")
        return window >> (8 * last - self.position) & (1 << bits) - 1
