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
