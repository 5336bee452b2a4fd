"""What a mask stores: the numbers of an index mask, the colours of an RGB one; and the tables that read both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from make_folder import make_exif, make_folder, write_image, write_index, write_png
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.check import LabelReport, check_labels, read_pair
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.data.io import MASK_SUFFIXES, UnreadableImageError
from protoseg.data.masks import count_values, describe, pack, read_mask, unpack
from protoseg.data.splits import make_partition

MASK = np.array([[0, 1, 2], [2, 1, 0], [255, 7, 200]], dtype=np.uint8)
COLORS = np.array([[0, 0, 0], [200, 30, 0], [0, 0, 255]], dtype=np.uint8)
"""Blue, read as a number, would be 255; black would be 0."""


class TestNumbers:
    @pytest.mark.parametrize("palette", [True, False])
    def test_the_numbers_not_the_colors(self, tmp_path: Path, palette: bool) -> None:
        path = write_index(tmp_path / "mask.png", MASK, palette=palette)
        assert Image.open(path).mode == ("P" if palette else "L")
        read = read_mask(path)
        assert read.dtype == np.uint8
        assert (read == MASK).all()

    @pytest.mark.parametrize("suffix", sorted(MASK_SUFFIXES))
    def test_every_accepted_format_keeps_the_numbers(self, tmp_path: Path, suffix: str) -> None:
        """A GIF has no grey: Pillow stores a grey mask as numbers into a palette of the values that occur."""
        assert (read_mask(write_index(tmp_path / f"mask{suffix}", MASK)) == MASK).all()

    @pytest.mark.parametrize(
        ("exif", "turns"),
        [(b"Exif\0\0no EXIF at all", 0), (make_exif((274, 3, 1, b"\6"), (296, 4, 1, b"\0\0\7\0")), 1)],
        ids=["garbage", "orientation beside a number too large"],
    )
    def test_damaged_exif_is_no_damaged_mask(self, tmp_path: Path, exif: bytes, turns: int) -> None:
        Image.fromarray(MASK[:2]).save(tmp_path / "mask.png", exif=exif)
        assert (read_mask(tmp_path / "mask.png") == np.rot90(MASK[:2], -turns)).all()

    def test_one_bit_is_zero_and_one(self, tmp_path: Path) -> None:
        Image.fromarray(MASK == 1).save(tmp_path / "mask.png")
        assert Image.open(tmp_path / "mask.png").mode == "1"
        assert (read_mask(tmp_path / "mask.png") == (MASK == 1)).all()

    @pytest.mark.parametrize(
        ("depth", "row", "values"), [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])]
    )
    def test_few_grey_bits_are_numbers_too(self, tmp_path: Path, depth: int, row: bytes, values: list[int]) -> None:
        """Pillow spreads 2 and 4 bits over 0..255: class 3 would become 255 and be ignored."""
        path = write_png(tmp_path / "mask.png", [row], width=4, depth=depth, color=0)
        assert read_mask(path).tolist() == [values]

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_palette_bits(self, tmp_path: Path, bits: int) -> None:
        mask = (np.arange(8, dtype=np.uint8) % 2**bits)[None]
        picture = Image.fromarray(mask)
        picture.putpalette([9, 8, 7] * 2**bits)
        picture.save(tmp_path / "mask.png", bits=bits)
        assert (read_mask(tmp_path / "mask.png") == mask).all()

    @pytest.mark.parametrize("value", [0, 300, 65535])
    def test_sixteen_bits(self, tmp_path: Path, value: int) -> None:
        mask = np.array([[1, value], [256, 2]], dtype=np.uint16)
        Image.fromarray(mask).save(tmp_path / "mask.png")
        read = read_mask(tmp_path / "mask.png")
        assert read.dtype == np.uint16
        assert (read == mask).all()

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_whole_numbers_of_wider_types(self, tmp_path: Path, dtype: type) -> None:
        """What geographic tools export."""
        Image.fromarray(np.array([[0, 3], [255, 40_000]], dtype=dtype)).save(tmp_path / "mask.tif")
        assert read_mask(tmp_path / "mask.tif").tolist() == [[0, 3], [255, 40_000]]

    @pytest.mark.parametrize("values", [[[-1, 0]], [[70_000, 0]], [[0.5, 0]], [[float("nan"), 0]]])
    def test_no_class_number(self, tmp_path: Path, values: list[list[float]]) -> None:
        kind = np.float32 if isinstance(values[0][0], float) else np.int32
        Image.fromarray(np.array(values, dtype=kind)).save(tmp_path / "mask.tif")
        with pytest.raises(UnreadableImageError, match=rf"mask\.tif holds {values[0][0]} in 1 pixel;.*65535: store 255"):
            read_mask(tmp_path / "mask.tif")

    def test_white_may_be_zero(self, tmp_path: Path) -> None:
        """Pillow turns such files round for the eye: class 1 would become 254."""
        stored = np.array([[0, 1, 7]], dtype=np.uint8)
        tifffile.imwrite(tmp_path / "mask.tif", stored, photometric="miniswhite")
        assert read_mask(tmp_path / "mask.tif").tolist() == stored.tolist()

    @pytest.mark.parametrize("suffix", [".png", ".bmp"])
    def test_a_tiff_under_another_name_keeps_its_numbers(self, tmp_path: Path, suffix: str) -> None:
        """Pillow turns these round."""
        tifffile.imwrite(tmp_path / "mask.tif", MASK, photometric="miniswhite")
        assert (read_mask((tmp_path / "mask.tif").rename(tmp_path / f"mask{suffix}")) == MASK).all()

    def test_a_stack_under_another_name_is_refused(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "mask.tif", np.stack([MASK, MASK]), photometric="minisblack")
        with pytest.raises(UnreadableImageError, match=r"mask\.png holds 2 images; store one in a file"):
            read_mask((tmp_path / "mask.tif").rename(tmp_path / "mask.png"))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
    def test_a_value_for_no_data_is_a_number_like_any_other(self, tmp_path: Path, dtype: type) -> None:
        """GDAL declares one of every raster that it is told to; what a mask means by it, the class table says."""
        tags = [(42113, "s", 0, "0", True)]
        tifffile.imwrite(tmp_path / "mask.tif", MASK.astype(dtype), photometric="minisblack", extratags=tags)
        assert (read_mask(tmp_path / "mask.tif") == MASK).all()

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
    @pytest.mark.parametrize("kind", ["JPEG", "WebP"])
    def test_what_is_stored_with_loss_is_refused_whatever_it_is_called(self, tmp_path: Path, kind: str, suffix: str) -> None:
        """Of small numbers most come out right, and the others would be classes of their own."""
        Image.fromarray(MASK).convert("RGB").save(tmp_path / f"mask{suffix}", kind.upper())
        with pytest.raises(UnreadableImageError, match=rf"mask\{suffix} is a {kind} image, which blurs.*as PNG"):
            read_mask(tmp_path / f"mask{suffix}")

    @pytest.mark.parametrize("coding", ["JPEG", "WEBP"])
    def test_a_tiff_that_is_stored_with_loss_is_refused(self, tmp_path: Path, coding: str) -> None:
        tifffile.imwrite(tmp_path / "mask.tif", np.zeros((16, 16, 3), dtype=np.uint8), compression=coding, photometric="rgb")
        with pytest.raises(UnreadableImageError, match=rf"mask\.tif is compressed as {coding}, which blurs"):
            read_mask(tmp_path / "mask.tif")

    def test_a_mask_with_overviews(self, tmp_path: Path) -> None:
        """Geographic tools append smaller copies."""
        mask = np.arange(64, dtype=np.uint8).reshape(8, 8)
        with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
            file.write(mask, photometric="minisblack")
            file.write(mask[::2, ::2], photometric="minisblack", subfiletype=1)
        assert (read_mask(tmp_path / "mask.tif") == mask).all()

    def test_one_of_several_pages_is_not_picked(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "mask.tif", np.zeros((2, 8, 8), dtype=np.uint8), photometric="minisblack")
        with pytest.raises(UnreadableImageError, match=r"mask\.tif holds 2 images"):
            read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("pages", [2, 3])
def test_an_animation_is_no_mask(tmp_path: Path, pages: int) -> None:
    frames = [Image.fromarray(np.full((6, 9), value, dtype=np.uint8)) for value in range(pages)]
    frames[0].save(tmp_path / "mask.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImageError, match=rf"mask\.png holds {pages} images; store one in a file"):
        read_mask(tmp_path / "mask.png")


def _complaint(look: Callable[[Path], object], path: Path) -> str:
    """The message that a file is refused with; its path where it is not."""
    try:
        look(path)
    except UnreadableImageError as error:
        return str(error)
    return str(path)


class TestAnything:
    """What hypothesis thinks of."""

    @given(
        arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.sampled_from(sorted(MASK_SUFFIXES)), st.booleans()
    )
    @settings(max_examples=60, deadline=None)
    def test_comes_back_as_numbers(self, values: NDArray[np.uint8], suffix: str, palette: bool) -> None:
        with TemporaryDirectory() as folder:
            path = write_index(Path(folder) / f"mask{suffix}", values, palette=palette)
            assert (read_mask(path) == values).all()

    @given(
        arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))), st.sampled_from(sorted(MASK_SUFFIXES))
    )
    @settings(max_examples=60, deadline=None)
    def test_comes_back_as_colors(self, colors: NDArray[np.uint8], suffix: str) -> None:
        with TemporaryDirectory() as folder:
            mask = read_mask(write_image(Path(folder) / f"mask{suffix}", colors))
        slow = [[unpack(int(value)) for value in row] for row in mask]
        assert slow == [[tuple(color) for color in row] for row in colors.tolist()]

    @given(st.data(), st.sampled_from(sorted(MASK_SUFFIXES)), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_a_damaged_file_is_read_or_named(self, data: st.DataObject, suffix: str, palette: bool) -> None:
        with TemporaryDirectory() as folder:
            path = write_index(Path(folder) / f"mask{suffix}", MASK, palette=palette)
            content = bytearray(path.read_bytes())
            place = st.integers(0, len(content) - 1)
            for where, what in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
                content[where] = what
            path.write_bytes(content[: data.draw(st.one_of(st.none(), place))])
            assert str(path) in _complaint(read_mask, path)


class TestColors:
    def test_are_read_as_colors(self, tmp_path: Path) -> None:
        read = read_mask(write_image(tmp_path / "m.png", COLORS[None]))
        assert [unpack(value) for value in read[0].tolist()] == [tuple(color) for color in COLORS.tolist()]
        assert count_values(read) == {pack((0, 0, 0)): 1, pack((0, 0, 255)): 1, pack((200, 30, 0)): 1}

    def test_a_color_is_never_a_number(self) -> None:
        assert pack((0, 0, 7)) != 7
        assert unpack(7) is None
        assert (describe(7), describe(pack((128, 0, 255)))) == ("7", "#8000ff")

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_a_useless_alpha_channel(self, tmp_path: Path, mode: str, suffix: str) -> None:
        path = tmp_path / f"m{suffix}"
        Image.fromarray(COLORS[None]).convert(mode).save(path)
        first = read_mask(path)[0, 0]
        assert first == (pack((0, 0, 0)) if mode == "RGBA" else 0)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparent_places_have_no_class(self, tmp_path: Path, mode: str, suffix: str) -> None:
        path = tmp_path / f"m{suffix}"
        image = Image.fromarray(COLORS[None]).convert(mode)
        image.putpixel((1, 0), (0,) * len(mode))
        image.save(path)
        with pytest.raises(UnreadableImageError, match=rf"m\{suffix} is transparent"):
            read_mask(path)

    @pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
    def test_other_color_spaces_are_refused(self, tmp_path: Path, mode: str) -> None:
        Image.new(mode, (4, 4)).save(tmp_path / "m.tif")
        with pytest.raises(UnreadableImageError, match=r"m\.tif is a"):
            read_mask(tmp_path / "m.tif")

    def test_sixteen_bits_a_channel_are_not_cut_to_eight(self, tmp_path: Path) -> None:
        path = write_png(tmp_path / "m.png", [bytes(range(24))], width=4, depth=16, color=2)
        with pytest.raises(UnreadableImageError, match="8-bit RGB"):
            read_mask(path)


def recolor(root: Path, colors: np.ndarray) -> Path:  # type: ignore[type-arg]
    """Turn the index masks of a data set into colour masks."""
    for path in (root / "masks").rglob("*.png"):
        write_image(path, colors[read_mask(path)])
    return root


def report_of(root: Path) -> LabelReport:
    index = open_dataset(root)
    return check_labels(index, make_partition(index))


class TestDataSet:
    """The same pictures with index masks and with colour masks give the same labels."""

    def labels(self, root: Path) -> list[np.ndarray]:  # type: ignore[type-arg]
        classes = report_of(root).classes
        return [classes.encode(read_pair(s)[1]) for s in open_dataset(root).samples if s.mask is not None]

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("classes.txt", "ground 0 0 0\nred square 200 30 0\ndisc 0 0 255\n"),
            ("classes.txt", "0 0 0 ground\n200 30 0\tred square\n0,0,255,disc\n"),
            ("classes.csv", "name,r,g,b\nground,0,0,0\nred square,200,30,0\ndisc,0,0,255\n"),
            ("class_dict.csv", "Name, R, G, B\n ground, 0, 0, 0\n red square, 200, 30, 0\n disc, 0, 0, 255\n"),
            ("labelmap.txt", "# label:color_rgb:parts:actions\nground:0,0,0::\nred square:200,30,0::\ndisc:0,0,255::\n"),
        ],
    )
    @pytest.mark.parametrize("colored", [True, False])
    def test_with_a_table_of_colors(self, tmp_path: Path, file: str, text: str, colored: bool) -> None:
        plain = make_folder(tmp_path / "plain", test=1)
        same = make_folder(tmp_path / "same", test=1)
        if colored:
            recolor(same, COLORS)
        (same / file).write_text(text)
        table = report_of(same).classes
        assert table.names == ("ground", "red square", "disc")
        assert table.colors == ((0, 0, 0), (200, 30, 0), (0, 0, 255))
        assert all((a == b).all() for a, b in zip(self.labels(plain), self.labels(same), strict=True))

    def test_without_one_the_colors_are_found_and_said(self, tmp_path: Path) -> None:
        plain, root = make_folder(tmp_path / "plain", test=1), recolor(make_folder(tmp_path / "same", test=1), COLORS)
        report = report_of(root)
        assert report.classes.names == ("class #000000", "class #0000ff", "class #c81e00")
        assert report.classes.colors == ((0, 0, 0), (0, 0, 255), (200, 30, 0))
        assert report.classes.written == (0, 1, 2)
        assert "colours" in report.notes[0]
        swap = np.array([0, 2, 1])
        assert all((swap[a] == b).all() for a, b in zip(self.labels(plain), self.labels(root), strict=True))

    @pytest.mark.parametrize("names", [(), ("ground", "square", "disc")])
    def test_index_masks_saved_as_rgb(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        plain = make_folder(tmp_path / "plain", test=1)
        root = make_folder(tmp_path / "same", test=1, classes=names)
        mask = read_mask(root / "masks/img_00.png").copy()
        mask[:3] = 255  # ignored, in RGB too
        for folder in (plain, root):
            write_index(folder / "masks/img_00.png", mask)
        recolor(root, np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1))
        assert report_of(root).classes.written == (0, 1, 2)
        assert all((a == b).all() for a, b in zip(self.labels(plain), self.labels(root), strict=True))

    def test_a_color_outside_the_table_is_named(self, tmp_path: Path) -> None:
        root = recolor(make_folder(tmp_path), COLORS)
        (root / "classes.txt").write_text("ground 0 0 0\nsquare 200 30 1\ndisc 0 0 255\n")
        with pytest.raises(ValueError, match=r"img_0\d\.png holds the value #c81e00 in \d+ pixels.*#000000, #0000ff, #c81e01"):
            report_of(root)

    def test_colors_under_a_list_of_names(self, tmp_path: Path) -> None:
        root = recolor(make_folder(tmp_path, classes=("ground", "square", "disc")), COLORS)
        with pytest.raises(ValueError, match="holds the value #0000ff"):
            report_of(root)

    @pytest.mark.parametrize("names", [(), ("sea", "ship")])
    @pytest.mark.parametrize("colored", [True, False])
    def test_0_and_255_are_two_classes(self, tmp_path: Path, names: tuple[str, ...], colored: bool) -> None:
        root = make_folder(tmp_path, test=1, classes=names)
        for path in (root / "masks").rglob("*.png"):
            binary = np.where(read_mask(path) > 0, 255, 0).astype(np.uint8)
            write_image(path, np.repeat(binary[..., None], 3, axis=2)) if colored else write_index(path, binary)
        report = report_of(root)
        assert report.classes.names == (names or ("background", "foreground"))
        assert report.classes.written == (0, 255)
        assert report.classes.ignored == ()
        assert report.pixels.min() > 0
        assert "0 and 255" in report.notes[0]

    def test_255_beside_other_values_stays_ignored(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path)
        mask = read_mask(root / "masks/img_00.png").copy()
        mask[:3] = 255
        write_index(root / "masks/img_00.png", mask)
        report = report_of(root)
        assert report.classes.written == (0, 1, 2)
        assert report.notes[0].startswith("255 is read as 'not labelled' (2.5 %")

    def test_class_numbers_above_255(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path)
        for path in (root / "masks").rglob("*.png"):
            Image.fromarray(read_mask(path).astype(np.uint16) * 1000).save(path)
        report = report_of(root)
        assert report.classes.names == ("class 0", "class 1000", "class 2000")
        assert report.classes.written == (0, 1, 2)

    @pytest.mark.parametrize("table", ["road 255 255 255\nbackground 0 0 0\n", "sea\nship\nquay\n"])
    def test_a_list_that_knows_better_is_believed(self, tmp_path: Path, table: str) -> None:
        """White is the first class here, or 255 is none of three: not "background and foreground"."""
        root = make_folder(tmp_path)
        (root / "classes.txt").write_text(table)
        for path in (root / "masks").rglob("*.png"):
            binary = np.where(read_mask(path) > 0, 255, 0).astype(np.uint8)
            write_image(path, np.repeat(binary[..., None], 3, axis=2))
        if "quay" in table:
            with pytest.raises(ValueError, match="one class only"):
                report_of(root)
            return
        report = report_of(root)
        white = sum(int((read_mask(p) == pack((255, 255, 255))).sum()) for p in (root / "masks").glob("*.png"))
        assert report.classes.names == ("road", "background")
        assert report.pixels[0] == white

    def test_a_blurred_mask_is_refused(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path)
        mask = Image.fromarray(np.where(read_mask(root / "masks/img_00.png") > 0, 255, 0).astype(np.uint8))
        mask.resize((96, 80), Image.Resampling.BICUBIC).rotate(7, Image.Resampling.BICUBIC).resize((48, 40)).save(
            root / "masks/img_00.png"
        )
        with pytest.raises(ValueError, match=r"different values, .*img_00\.png alone"):
            report_of(root)


def test_a_tiff_whose_header_is_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever shape the reader makes of it."""
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, np.zeros((6, 8), dtype=np.uint16))
    for shape in ((6,), (0, 8)):
        monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda *_, shape=shape: np.zeros(shape, np.uint16))
        for read in (read_mask, read_image):
            with pytest.raises(UnreadableImageError, match="of the shape"):
                read(path)
