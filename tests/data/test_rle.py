"""Label Studio's run-length code comes back, and a damaged one is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from make_formats import encode_brush

from protoseg.data.rle import decode_brush

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_comes_back(mask: np.ndarray) -> None:  # type: ignore[type-arg]
    assert (decode_brush(encode_brush(mask), mask.shape) == mask).all()


def test_two_pixels_by_hand() -> None:
    """Bits put down from the layout alone: an encoder of ours could share a misreading with the decoder.

    The editor's sizes, a transparent pixel and an opaque white one:

        00000000 00000000 00000000 00001000      32 bits: 8 values, four for each of 2 pixels
        00111                                    5 bits: values of 7 + 1 = 8 bits
        0010 0011 0111 1111                      4 x 4 bits: sizes of a run of 2 + 1 = 3, 4, 8 and 16 bits
        1 00 011 00000000                        a run; its number in the first size, 3 bits: 3 + 1 = 4; all are 0
        1 00 011 11111111                        a run of 4 times 255
        0000000                                  up to whole bytes

    Eight at a time, after the first four bytes: 00111001 00011011 11111100 01100000 00010001 11111111 10000000
    """
    assert decode_brush([0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128], (1, 2)).tolist() == [[False, True]]


def test_four_pixels_by_hand() -> None:
    """Other sizes, values of their own beside runs, and a pixel that has a colour and no alpha.

        ... 00010000                             32 bits: 16 values, of 2 x 2 pixels
        00011  0001 0010 0100 1000               values of 4 bits; sizes of 2, 3, 5 and 9 bits
        1 00 10 1001                             a run, 2 bits: 2 + 1 = 3 times 9: red, green and blue of the first pixel
        0 01 100 0000 0000 0000 0000 0101        no run, 3 bits: 4 + 1 = 5 values: its alpha of 0; then 0, 0, 0 and alpha 5
        1 10 00011 0000                          a run, 5 bits: 4 times 0: the first pixel of the second row
        1 11 000000011 1111                      a run, 9 bits: 4 times 15: the second one
        0000                                     up to whole bytes

    00011000 10010010 01000100 10100100 11000000 00000000 00000101 11000011 00001110 00000011 11110000
    """
    code = [0, 0, 0, 16, 24, 146, 68, 164, 192, 0, 5, 195, 14, 3, 240]
    assert decode_brush(code, (2, 2)).tolist() == [[False, True], [False, True]]


def test_runs_longer_than_a_code_holds() -> None:
    mask = np.zeros((200, 300), dtype=np.bool_)
    mask[3:190, 5:250] = True
    assert (decode_brush(encode_brush(mask), mask.shape) == mask).all()


@given(MASKS, st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_code_is_refused_or_gives_a_mask(mask: np.ndarray, data: st.DataObject) -> None:  # type: ignore[type-arg]
    """Never anything else: no endless loop, no memory by the file's own word, no other error."""
    code = encode_brush(mask)
    code[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_brush(code, mask.shape)
    except ValueError:
        return
    assert decoded.shape == mask.shape


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ([], "too early"),
        ([0, 0, 0, 16], "too early"),
        ([255, 255, 255, 255, 0, 0, 0, 0], "pixels, the image has 4"),
        ([0, 0, 0, 256], "0 to 255"),
        ([0, 0, 0, -1], "0 to 255"),
        (["a"], "0 to 255"),
    ],
)
def test_no_code(code: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_brush(code, (2, 2))
