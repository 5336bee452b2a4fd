"""Drawn masks against slow loops written from the definition, and against pycocotools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as codes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from make_folder import write_image
from make_formats import runs

from protoseg.data.formats.coco import Segmentation
from protoseg.data.rle import decode_brush
from protoseg.data.shapes import Ellipse, Polygon, Shape, ShapesMask, _Painted, fill_polygon, rectangle

SIZE = (9, 13)
# Quarters, so that no corner or edge has to be told from a pixel centre by its last digit.
COORDINATE = st.integers(-20, 80).map(lambda quarter: quarter / 4 + 0.0625)
CORNERS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=8)
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def slow_fill(points: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:  # type: ignore[type-arg]
    """A pixel is inside where a ray from its centre to the left crosses the edges an odd number of times."""
    inside = np.zeros(size, dtype=np.bool_)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y, crossings = column + 0.5, row + 0.5, 0
            for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
                if min(y0, y1) <= y < max(y0, y1) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                    crossings += 1
            inside[row, column] = crossings % 2 == 1
    return inside


class TestPolygon:
    @given(CORNERS)
    @settings(max_examples=60, deadline=None)
    def test_equals_the_slow_loop(self, points: list[tuple[float, float]]) -> None:
        assert (fill_polygon(points, SIZE) == slow_fill(points, SIZE)).all()

    def test_a_rectangle_covers_its_pixels_and_no_more(self) -> None:
        filled = rectangle(2, 3, 7, 5).fill(SIZE)
        expected = np.zeros(SIZE, dtype=np.bool_)
        expected[3:5, 2:7] = True
        assert (filled == expected).all()
        assert (rectangle(7, 5, 2, 3).fill(SIZE) == expected).all()  # drawn from the other corner

    @given(COORDINATE, COORDINATE)
    @settings(max_examples=30, deadline=None)
    def test_neighbours_share_no_pixel_and_leave_none(self, x: float, y: float) -> None:
        """An edge from corner to corner of the image, by way of any point: each pixel is on one side (docs/formats.md)."""
        height, width = SIZE
        edge = [(0.0, 0.0), (abs(x) % width, abs(y) % height), (float(width), float(height))]
        above, below = fill_polygon([*edge, (width, 0)], SIZE), fill_polygon([*edge, (0, height)], SIZE)
        assert (above ^ below).all()

    def test_a_ring_inside_another_is_a_hole(self) -> None:
        outer, inner = rectangle(1, 1, 8, 8).rings[0], rectangle(3, 3, 5, 5).rings[0]
        assert Polygon((outer, inner)).fill(SIZE).sum() == 7 * 7 - 2 * 2

    def test_outside_the_image(self) -> None:
        assert rectangle(-50, -50, 100, 100).fill(SIZE).all()
        assert not rectangle(50, 50, 100, 100).fill(SIZE).any()

    @pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (2, 2)], [(1, 1), (2, 2), (3, float("nan"))], [(1, 2, 3)] * 3])
    def test_no_polygon(self, points: list[tuple[float, float]]) -> None:
        with pytest.raises(ValueError, match="corner"):
            fill_polygon(points, SIZE)

    def test_about_the_same_as_coco(self) -> None:
        """COCO draws polygons in its own way, which may differ by the pixels of the outline."""
        ring = [10.0, 8.0, 90.0, 20.0, 70.0, 80.0, 15.0, 60.0]
        ours = fill_polygon(list(zip(ring[::2], ring[1::2], strict=True)), (100, 100))
        theirs = Segmentation([ring]).fill((100, 100))
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97


def test_ellipse() -> None:
    filled = Ellipse((6, 4), (4, 3)).fill(SIZE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            assert filled[row, column] == (((column + 0.5 - 6) / 4) ** 2 + ((row + 0.5 - 4) / 3) ** 2 <= 1)
    assert not Ellipse((6, 4), (0, 3)).fill(SIZE).any()


class TestShapesMask:
    def test_later_shapes_lie_on_top(self) -> None:
        shapes = (Shape(1, rectangle(0, 0, 6, 6)), Shape(2, rectangle(3, 3, 9, 9)))
        mask = ShapesMask(Path("a.json"), "a.png", SIZE, shapes, background=7).read()
        assert mask.dtype == np.uint8
        assert [mask[1, 1], mask[4, 4], mask[8, 8], mask[0, 12]] == [1, 2, 2, 7]

    def test_a_broken_shape_is_named(self) -> None:
        shapes = (Shape(1, rectangle(0, 0, 6, 6)), Shape(2, Polygon((((0, 0), (1, 1)),))))
        with pytest.raises(ValueError, match=r"a\.json \(b\.png\), shape 2: .*three corners"):
            ShapesMask(Path("a.json"), "b.png", SIZE, shapes).read()

    def test_is_painted_once_and_never_shared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An image is drawn again and again; who changes its mask changes no other's."""
        painted = []
        paint = ShapesMask._paint
        monkeypatch.setattr(ShapesMask, "_paint", lambda self: painted.append(self) or paint(self))
        mask = ShapesMask(Path("a.json"), "a.png", SIZE, (Shape(1, rectangle(0, 0, 6, 6)),))
        first = mask.read()
        first[:] = 9
        assert mask.read().sum() == 36
        assert len(painted) == 1
        other = ShapesMask(Path("a.json"), "a.png", SIZE, (Shape(2, rectangle(0, 0, 6, 6)),))
        assert other.read().sum() == 72

    def test_what_is_kept_has_a_limit(self) -> None:
        kept = _Painted(most_bytes=100)
        masks = [ShapesMask(Path("a.json"), f"{i}.png", (1, 60), ()) for i in range(50)]
        for mask in masks:
            kept.keep(mask, np.random.default_rng(0).integers(0, 255, (1, 60), dtype=np.uint8))
            assert kept.bytes == sum(len(packed) for _, packed in kept.kept.values()) <= 100
        assert kept.get(masks[0]) is None
        assert kept.get(masks[-1]) is not None

    def test_the_declared_size_is_checked_before_memory_is_made_for_it(self, tmp_path: Path) -> None:
        file = write_image(tmp_path / "a.png", np.zeros((*SIZE, 3), dtype=np.uint8))
        mask = ShapesMask(Path("a.json"), "a.png", (1 << 20, 1 << 20), (), file=file)
        with pytest.raises(
            ValueError, match=rf"a\.json \(a\.png\) is 1048576x1048576 but its image .*a\.png is {SIZE[1]}x{SIZE[0]}"
        ):
            mask.read()


class TestCoco:
    @given(MASKS)
    @settings(max_examples=100, deadline=None)
    def test_codes_of_pycocotools_come_back(self, mask: np.ndarray) -> None:  # type: ignore[type-arg]
        code = codes.encode(np.asfortranarray(mask))
        assert (Segmentation({"size": list(mask.shape), "counts": code["counts"].decode()}).fill(mask.shape) == mask).all()

    @given(MASKS)
    @settings(max_examples=100, deadline=None)
    def test_plain_run_lengths_mean_what_pycocotools_reads(self, mask: np.ndarray) -> None:  # type: ignore[type-arg]
        plain = {"size": list(mask.shape), "counts": runs(mask)}
        assert (codes.decode(codes.frPyObjects(plain, *mask.shape)) == mask).all()
        assert (Segmentation(plain).fill(mask.shape) == mask).all()

    @pytest.mark.parametrize(
        "code",
        [
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5, 6, 7]],
            [[1, 2, 3, 4, 5, float("nan")]],
            [[1, 2, 3, 4, 5, 1e18]],
            [[]],
            [["a", "b", 3, 4, 5, 6]],
            [[[1, 2], [3, 4], [5, 6]]],
            {"counts": [117]},
            {"size": [9, 13]},
            {"size": [13, 9], "counts": [117]},
            {"size": [90, 130], "counts": [11700]},
            {"size": [9, 13], "counts": [116]},
            {"size": [9, 13], "counts": [-1, 118]},
            {"size": [9, 13], "counts": ["x"]},
            {"size": [9, 13], "counts": []},
            {"size": [9, 13], "counts": 5},
            {"size": [9, 13], "counts": "o" * 400},
            {"size": [9, 13], "counts": "\xff\xfe"},
            {"size": [9, 13], "counts": "05"},
            5,
        ],
    )
    def test_a_damaged_one_is_refused(self, code: object) -> None:
        with pytest.raises(ValueError, match=r"polygon|code|run"):
            Segmentation(code).fill(SIZE)

    @given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_refused_or_is_a_mask(self, text: str) -> None:
        try:
            mask = Segmentation({"size": list(SIZE), "counts": text}).fill(SIZE)
        except ValueError:
            return
        theirs = codes.decode({"size": list(SIZE), "counts": text.encode()})
        assert (mask == theirs).all()


def test_brush_code_written_by_hand() -> None:
    """Two pixels, the first painted: 8 values of 8 bits; runs of 3, 4, 8 or 16 bits; 255 four times, then four single zeros."""
    bits = f"{8:032b}" + f"{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    bits += "1" + "00" + f"{3:03b}" + f"{255:08b}"
    bits += "0" + "01" + f"{3:04b}" + f"{0:08b}" * 4
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(code, (1, 2)).tolist() == [[True, False]]
    assert decode_brush(code, (2, 1)).tolist() == [[True], [False]]
