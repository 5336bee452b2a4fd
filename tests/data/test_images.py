"""Images of every depth and number of channels, as they are stored."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from make_folder import draw_shapes, make_exif, write_image, write_png
from PIL import Image

from protoseg.data.facts import facts_of
from protoseg.data.images import (
    PHOTOGRAPH,
    ImageKind,
    header_size,
    kind_of,
    missing_pixels,
    nodata_share,
    read_image,
    read_picture,
    to_rgb,
)
from protoseg.data.index import Sample
from protoseg.data.io import UnreadableImageError
from protoseg.data.limit import MAX_PIXELS, too_large
from protoseg.data.masks import read_mask

ROTATED = 6  # EXIF orientation: turn clockwise by 90 degrees
RNG = np.random.default_rng(0)


class TestPhotographs:
    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
    def test_every_mode_becomes_rgb(self, tmp_path: Path, mode: str) -> None:
        Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(tmp_path / "image.tif")
        read = read_image(tmp_path / "image.tif")
        assert read.shape == (4, 5, 3)
        assert (read == 255).all()

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
    def test_exif_orientation(self, tmp_path: Path, suffix: str) -> None:
        stored = np.zeros((40, 60, 3), dtype=np.uint8)
        stored[20:, :30] = 255  # bottom left as stored, top left when turned clockwise
        exif = Image.Exif()
        exif[0x0112] = ROTATED
        Image.fromarray(stored).save(tmp_path / f"x{suffix}", exif=exif)
        read = read_image(tmp_path / f"x{suffix}")
        assert read.shape == (60, 40, 3)
        assert read[:25, :15].min() > 200
        assert read[35:].max() < 50
        assert read[:, 25:].max() < 50

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    @pytest.mark.parametrize(
        ("exif", "turns"),
        [
            (b"Exif\0\0no EXIF at all", 0),
            (make_exif((274, 3, 1, b"\6"))[:12], 0),
            (make_exif((274, 3, 1, b"\6"), (296, 4, 1, b"\0\0\7\0")), 1),  # a unit that is larger than its type
            (make_exif((274, 3, 1, b"\6"), (282, 2, 4, b"abc\0")), 1),  # a resolution in letters
            (make_exif((274, 2, 4, b"abc\0")), 0),
        ],
        ids=["garbage", "cut", "number", "letters", "orientation"],
    )
    def test_damaged_exif_is_no_damaged_image(self, tmp_path: Path, suffix: str, exif: bytes, turns: int) -> None:
        stored = np.zeros((40, 60, 3), dtype=np.uint8)
        stored[20:, :30] = 255
        Image.fromarray(stored).save(tmp_path / f"x{suffix}", exif=exif)
        picture = read_picture(tmp_path / f"x{suffix}")
        assert picture.orientation == (ROTATED if turns else 1)
        assert np.abs(picture.image - np.rot90(stored, -turns).astype(int)).mean() < 10

    def test_a_palette_with_transparency(self, tmp_path: Path) -> None:
        image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        image.save(tmp_path / "x.png", transparency=bytes([0, 128, 255]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_image(tmp_path / "x.png").tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]

    def test_png_is_read_to_the_digit(self, tmp_path: Path) -> None:
        image, _ = draw_shapes(np.random.default_rng(0))
        assert (read_image(write_image(tmp_path / "x.png", image)) == image).all()


def tiff(path: Path, image: np.ndarray, **options: object) -> Path:  # type: ignore[type-arg]
    tifffile.imwrite(path, image, **options)  # type: ignore[arg-type]
    return path


class TestOtherImages:
    def test_sixteen_bit_grey_png(self, tmp_path: Path) -> None:
        image = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
        Image.fromarray(image).save(tmp_path / "x.png")
        read = read_image(tmp_path / "x.png")
        assert kind_of(read) == ImageKind(1, "uint16")
        assert (read[..., 0] == image).all()

    @pytest.mark.parametrize(("color", "stored"), [(2, 3), (6, 4), (4, 2)])
    def test_sixteen_bit_color_png(self, tmp_path: Path, color: int, stored: int) -> None:
        """Pillow cuts them to 8 bits without a word. Transparency that is all or nothing is left out, as with 8 bits."""
        image = RNG.integers(0, 65536, (5, 7, stored), dtype=np.uint16)
        if stored in {2, 4}:
            image[..., -1] = 65535 * (image[..., -1] > 20000)
        write_png(tmp_path / "x.png", [row.astype(">u2").tobytes() for row in image], width=7, depth=16, color=color)
        read = read_image(tmp_path / "x.png")
        kept = {2: 1, 3: 3, 4: 3}[stored]
        assert kind_of(read) == ImageKind(kept, "uint16")
        assert (read == image[..., :kept]).all()

    @pytest.mark.parametrize(("color", "stored"), [(6, 4), (4, 2)])
    def test_a_last_band_of_a_sixteen_bit_png_is_kept(self, tmp_path: Path, color: int, stored: int) -> None:
        image = RNG.integers(0, 65536, (5, 7, stored), dtype=np.uint16)
        write_png(tmp_path / "x.png", [row.astype(">u2").tobytes() for row in image], width=7, depth=16, color=color)
        assert (read_image(tmp_path / "x.png") == image).all()

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_a_last_band_of_an_eight_bit_png_is_kept_and_transparency_is_not(self, tmp_path: Path, mode: str) -> None:
        image = RNG.integers(0, 255, (5, 7, len(mode)), dtype=np.uint8)
        Image.fromarray(image, mode).save(tmp_path / "band.png")
        assert (read_image(tmp_path / "band.png") == image).all()
        image[..., -1] = 255 * (image[..., -1] > 100)
        Image.fromarray(image, mode).save(tmp_path / "transparent.png")
        read = read_image(tmp_path / "transparent.png")
        assert kind_of(read) == PHOTOGRAPH
        assert (read[..., 0] == image[..., 0]).all()

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("channels", [4, 5, 12])
    @pytest.mark.parametrize("planar", [True, False])
    def test_many_bands(self, tmp_path: Path, dtype: type, channels: int, planar: bool) -> None:
        """Pillow reads the first band of planar files, or nothing at all."""
        image = (RNG.random((6, 9, channels)) * 200).astype(dtype)
        stored = np.moveaxis(image, -1, 0) if planar else image
        options = {"planarconfig": "separate" if planar else "contig", "photometric": "minisblack"}
        read = read_image(tiff(tmp_path / "x.tif", stored, **options))
        assert kind_of(read) == ImageKind(channels, np.dtype(dtype).name)
        assert (read == image).all()

    def test_pages_are_bands(self, tmp_path: Path) -> None:
        image = RNG.integers(0, 255, (5, 6, 9), dtype=np.uint8)
        assert (read_image(tiff(tmp_path / "x.tif", image)) == np.moveaxis(image, 0, -1)).all()

    @pytest.mark.parametrize("extra", ["unspecified", "unassalpha"])
    def test_a_fourth_band_is_kept_and_transparency_is_not(self, tmp_path: Path, extra: str) -> None:
        image = RNG.integers(0, 255, (6, 9, 4), dtype=np.uint8)
        image[..., 3] = 255 * (image[..., 3] > 100)
        read = read_image(tiff(tmp_path / "x.tif", image, photometric="rgb", extrasamples=[extra]))
        assert (read == image[..., : 4 if extra == "unspecified" else 3]).all()

    @pytest.mark.parametrize("planar", [True, False])
    def test_near_infrared_marked_as_transparency_is_kept(self, tmp_path: Path, planar: bool) -> None:
        """GDAL marks the fourth band of four as transparency, whatever it is."""
        image = RNG.integers(0, 255, (6, 9, 4), dtype=np.uint8)
        stored, config = (np.moveaxis(image, -1, 0), "separate") if planar else (image, "contig")
        path = tiff(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["unassalpha"], planarconfig=config)
        assert (read_image(path) == image).all()

    def test_three_bands_that_are_not_called_colors(self, tmp_path: Path) -> None:
        image = RNG.integers(0, 255, (6, 9, 3), dtype=np.uint8)
        read = read_image(tiff(tmp_path / "x.tif", image, photometric="minisblack", planarconfig="contig"))
        assert kind_of(read) == PHOTOGRAPH
        assert (read == image).all()

    @pytest.mark.parametrize("companion", [1, 4, 5])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_overviews_and_masks_of_valid_pixels_are_no_stack(self, tmp_path: Path, dtype: type, companion: int) -> None:
        image = RNG.integers(0, 255, (32, 48, 3), dtype=dtype)
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            file.write(image, photometric="rgb")
            kind = (bool, "mask") if companion & 4 else (np.uint8, "minisblack")
            file.write(np.zeros((16, 24), kind[0]), photometric=kind[1], subfiletype=companion)
        assert (read_image(tmp_path / "x.tif") == image).all()

    @pytest.mark.parametrize(("dtype", "kept"), [(np.int16, "float32"), (np.uint32, "float32"), (np.float64, "float32")])
    def test_further_types_become_floats(self, tmp_path: Path, dtype: type, kept: str) -> None:
        image = (RNG.random((6, 9)) * 2000 - (1000 if dtype == np.int16 else 0)).astype(dtype)
        read = read_image(tiff(tmp_path / "x.tif", image))
        assert kind_of(read) == ImageKind(1, kept)
        assert (read[..., 0] == image.astype(np.float32)).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_as_pillow_turns_it(self, tmp_path: Path, orientation: int) -> None:
        image = RNG.integers(0, 255, (6, 9, 3), dtype=np.uint8)
        tags = [(274, "H", 1, orientation, True)]
        eight = read_image(tiff(tmp_path / "a.tif", image, photometric="rgb", extratags=tags))
        sixteen = read_image(tiff(tmp_path / "b.tif", image.astype(np.uint16), photometric="rgb", extratags=tags))
        assert eight.dtype == np.uint8
        assert (eight == sixteen).all()

    @pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "packbits"])
    def test_compressed(self, tmp_path: Path, compression: str) -> None:
        image = RNG.integers(0, 65536, (40, 30, 5), dtype=np.uint16)
        path = tiff(tmp_path / "x.tif", image, photometric="minisblack", planarconfig="contig", compression=compression)
        assert (read_image(path) == image).all()

    @pytest.mark.parametrize(
        ("photometric", "compression"),
        [(kind, coding) for coding in ("jpeg2000", "jpegxl", "png") for kind in ("minisblack", "rgb")] + [("rgb", "webp")],
    )
    def test_photographs_in_codings_that_pillow_does_not_know(
        self, tmp_path: Path, photometric: str, compression: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        image = np.full((32, 48, 3 if photometric == "rgb" else 1), 90, dtype=np.uint8)
        image[..., 0] = 200
        path = tiff(tmp_path / "x.tif", image.squeeze(), photometric=photometric, compression=compression)
        read = read_image(path)
        assert kind_of(read) == PHOTOGRAPH
        assert np.abs(read.astype(int) - image).max() <= 3
        assert capfd.readouterr().err == ""

    def test_a_stack_of_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableImageError, match=r"x\.tif is a stack of images"):
            read_image(tiff(tmp_path / "x.tif", np.zeros((4, 6, 9, 3), dtype=np.uint16), photometric="rgb"))

    @pytest.mark.parametrize(
        ("axes", "shape", "is_fine"),
        [("CYX", (3, 6, 9), True), ("ZYX", (3, 6, 9), True), ("TYX", (3, 6, 9), False), ("TZYX", (3, 2, 6, 9), False)],
    )
    def test_pages_that_are_times_are_no_bands(self, tmp_path: Path, axes: str, shape: tuple[int, ...], is_fine: bool) -> None:
        """Three of them would be taken for a photograph."""
        path = tiff(tmp_path / "x.tif", np.zeros(shape, dtype=np.uint8), imagej=True, metadata={"axes": axes})
        if is_fine:
            assert read_image(path).shape == (6, 9, 3)
        else:
            with pytest.raises(UnreadableImageError, match=rf"x\.tif is a stack of images \({axes}"):
                read_image(path)

    @pytest.mark.parametrize("suffix", [".png", ".webp"])
    def test_an_animation_is_refused(self, tmp_path: Path, suffix: str) -> None:
        frames = [Image.new("RGB", (9, 6), color) for color in ("red", "green", "blue")]
        frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(UnreadableImageError, match=rf"^{tmp_path}/x{suffix} holds 3 images; store one in a file$"):
            read_image(tmp_path / f"x{suffix}")

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    @pytest.mark.parametrize(("shape", "dtype"), [((4, 6, 9, 3), np.uint8), ((4, 6, 9, 3), np.uint16)])
    def test_a_stack_under_another_name_is_refused_as_under_its_own(
        self, tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: type
    ) -> None:
        """Pillow reads the first page of the one, and takes the other for no image."""
        path = tiff(tmp_path / "x.tif", np.zeros(shape, dtype), photometric="rgb")
        with pytest.raises(UnreadableImageError, match=r"x\.tif is a stack of images") as caught:
            read_image(path)
        said = str(caught.value)
        path = path.rename(tmp_path / f"x{suffix}")
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        assert str(caught.value) == said.replace("x.tif", path.name)

    @pytest.mark.parametrize("bands", [1, 3, 5])
    @pytest.mark.parametrize("options", [{}, {"photometric": "miniswhite"}, {"bigtiff": True}], ids=str)
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_a_tiff_under_another_name_is_read_as_under_its_own(
        self, tmp_path: Path, bands: int, options: dict[str, object], dtype: type
    ) -> None:
        image = (RNG.random((6, 9, bands)) * 200).astype(dtype)
        kind = {"photometric": "rgb" if bands == 3 else "minisblack"} | options
        extra = {"extrasamples": ["unspecified"] * (bands - 1)} if bands > 1 and kind["photometric"] != "rgb" else {}
        path = tiff(tmp_path / "x.tif", image[..., 0] if bands == 1 else image, planarconfig="contig", **kind, **extra)
        read = read_image(path)
        size = header_size(path)
        path = path.rename(tmp_path / "x.png")
        again = read_image(path)
        assert again.dtype == read.dtype
        assert (again == read).all()
        assert header_size(path) == size == (6, 9)

    def test_a_photograph_of_a_phone_is_the_first_of_its_images(self, tmp_path: Path) -> None:
        """Behind it stand a preview, a map of depth, or what the light was."""
        frames = [Image.new("RGB", (9, 6), color) for color in ("white", "black")]
        frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
        with Image.open(tmp_path / "x.jpg") as image:
            assert image.format == "MPO"
        assert read_image(tmp_path / "x.jpg").min() > 250

    @pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16), (np.uint16, 12)])
    def test_white_that_is_zero(self, tmp_path: Path, dtype: type, bits: int) -> None:
        image = RNG.integers(0, 1 << bits, (6, 8), dtype=dtype)
        path = tiff(tmp_path / "x.tif", image, photometric="miniswhite", bitspersample=bits)
        assert (read_image(path)[..., 0] == (1 << bits) - 1 - image.astype(int)).all()

    def test_white_that_is_zero_in_pages_and_in_the_first_of_two_bands(self, tmp_path: Path) -> None:
        image = RNG.integers(0, 65536, (6, 9, 2), dtype=np.uint16)
        pages = tiff(tmp_path / "a.tif", np.moveaxis(image, -1, 0), photometric="miniswhite")
        assert (read_image(pages) == 65535 - image).all()
        bands = tiff(tmp_path / "b.tif", image, photometric="miniswhite", planarconfig="contig", extrasamples=["unspecified"])
        assert (read_image(bands) == np.stack([65535 - image[..., 0], image[..., 1]], axis=2)).all()

    def test_measurements_have_no_white(self, tmp_path: Path) -> None:
        image = RNG.random((6, 9)).astype(np.float32)
        assert (read_image(tiff(tmp_path / "x.tif", image, photometric="miniswhite"))[..., 0] == image).all()

    def test_complex_numbers_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableImageError, match=r"x\.tif holds complex64"):
            read_image(tiff(tmp_path / "x.tif", np.zeros((6, 9), dtype=np.complex64)))

    def test_another_kind_than_the_others_is_refused(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", np.zeros((6, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig")
        assert read_image(path, ImageKind(5, "uint16")).shape == (6, 9, 5)
        with pytest.raises(
            UnreadableImageError,
            match=r"x\.tif has 5 channels of uint16, but .* have 3 channels of uint8",
        ):
            read_image(path, PHOTOGRAPH)


class TestHugeSizes:
    """What a file says about its size is not believed: no memory is made for it."""

    def test_png(self, tmp_path: Path) -> None:
        path = write_png(tmp_path / "x.png", [bytes(4)], width=4, depth=8, color=0)
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=r"x\.png is an image of 1,099,512 megapixels .* at most 100 are read"):
            read_image(path)

    @pytest.mark.parametrize(
        ("height", "width", "most", "said"),
        [
            (120, 160, 1000, "of 19,200 pixels by its header (160 x 120), and at most 1,000 are read; * --max-pixels 19200"),
            (1200, 1000, 1_100_000, "of 1,200,000 pixels * at most 1,100,000 are read; * --max-pixels 1200000"),
            (3000, 2000, 1000, "of 6,000,000 pixels * at most 1,000 are read; * --max-pixels 6000000"),
            (3000, 2000, 4_000_000, "of 6 megapixels * at most 4 are read; * --max-pixels 6e6"),
        ],
    )
    def test_its_numbers_tell_size_and_limit_apart(
        self, monkeypatch: pytest.MonkeyPatch, height: int, width: int, most: int, said: str
    ) -> None:
        monkeypatch.setenv(MAX_PIXELS, str(most))
        assert re.search(re.escape(said).replace(r"\*", ".*") + "$", too_large(height, width))

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
    @pytest.mark.filterwarnings("error")
    def test_a_limit_for_all_kinds_of_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        Image.new("RGB", (3000, 2000)).save(path)
        said = rf"x{suffix} is an image of 6 megapixels by its header \(3000 x 2000\), and at most 4 .* --max-pixels 6e6$"
        for look in (read_image, header_size, read_mask):
            monkeypatch.setenv(MAX_PIXELS, "4000000")
            if look is read_mask and suffix in {".jpg", ".webp"}:
                continue
            with pytest.raises(UnreadableImageError, match=said):
                look(path)
            monkeypatch.setenv(MAX_PIXELS, "6000000")
            look(path)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
    def test_a_large_tiff_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        image = RNG.integers(0, 255, (48, 32, len(mode)), dtype=np.uint8)
        if mode.endswith("A"):
            image[..., -1] = 255
        options = {"extrasamples": ["unassalpha"]} if mode.endswith("A") else {}
        path = tiff(
            tmp_path / "x.tif",
            image[..., 0] if mode == "L" else image,
            photometric="rgb" if mode.startswith("RGB") else "minisblack",
            planarconfig="contig",
            tile=(16, 16),
            extratags=[(274, "H", 1, ROTATED, True)],
            **options,
        )
        small = read_image(path)
        assert kind_of(small) == PHOTOGRAPH
        monkeypatch.setattr("protoseg.data.images._LARGE", 48 * 32 // 4)
        assert (read_image(path) == small).all()
        assert (read_image(path) == np.rot90(image[..., :3] if len(mode) > 2 else image[..., :1], -1)).all()

    @pytest.mark.parametrize("options", [{"photometric": "miniswhite"}, {"photometric": "ycbcr", "compression": "jpeg"}])
    def test_a_large_tiff_of_other_colors_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
    ) -> None:
        image = np.full((48, 32, 3), (200, 90, 20), dtype=np.uint8)
        path = tiff(tmp_path / "x.tif", image[..., 0] if "compression" not in options else image, tile=(16, 16), **options)
        small = read_image(path).astype(int)
        monkeypatch.setattr("protoseg.data.images._LARGE", 48 * 32 // 4)
        assert np.abs(read_image(path) - small).max() <= 3

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("transparent", [True, False])
    def test_tiff(self, tmp_path: Path, dtype: type, transparent: bool) -> None:
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"]} if transparent else {}
        path = tiff(tmp_path / "x.tif", np.zeros((4, 8, 4) if transparent else (4, 8), dtype=dtype), **options)
        with tifffile.TiffFile(path, mode="r+b") as file:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                file.pages.first.tags[tag].overwrite(1 << 20)
        with pytest.raises(UnreadableImageError, match=r"x\.tif"):
            read_image(path)


def test_a_file_of_a_microscope_does_not_send_the_reader_elsewhere(tmp_path: Path) -> None:
    """NDTiff's index names the files that hold the pixels, by any path."""
    tags = [(256, 4, 1, 9), (257, 4, 1, 6), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 512), (277, 3, 1, 1)]
    tags += [(278, 4, 1, 6), (279, 4, 1, 54), (51123, 2, 3, 480)]  # the last says that it is of Micro-Manager
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = struct.pack("<2sHIIIIII", b"II", 42, 64, 483729, 3, 0, 2355492, 2) + b"{}"
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.tif").write_bytes(((head.ljust(64, b"\0") + page).ljust(480, b"\0") + b"{}").ljust(512, b"\0") + bytes([7]) * 54)
    secret = tiff(tmp_path / "secret.tif", np.full((6, 9), 99, dtype=np.uint8))
    axes, name = b'{"time": 0}', b"../secret.tif"
    entry = struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name + struct.pack("<IiiiiIii", *[0] * 8)
    (data / "NDTiff.index").write_bytes(entry)
    with tifffile.TiffFile(data / "x.tif", is_ome=False) as file:
        assert file.series[0].kind == "ndtiff"  # which has opened the other file
    assert (read_image(data / "x.tif") == 7).all()
    secret.unlink()
    assert header_size(data / "x.tif") == (6, 9)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_a_large_image_is_taken_over_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    picture = Image.fromarray(RNG.integers(0, 255, (48, 32, 3), dtype=np.uint8)).convert(mode)
    picture.save(path := tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"))
    whole = read_image(path)
    monkeypatch.setattr("protoseg.data.images._LARGE", 48)
    monkeypatch.setattr("protoseg.data.images._ROWS", 7)
    np.testing.assert_array_equal(read_image(path), whole)


def test_pillow_does_not_warn_of_what_is_read(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Its own limit is 89 megapixels, below ours."""
    path = write_png(tmp_path / "x.png", [bytes(11_875)] * 1_000, width=95_000, depth=1, color=0)
    header_size(path)
    assert not recwarn.list


@pytest.mark.parametrize("look", [read_image, header_size])
def test_a_program_under_the_name_of_an_image_is_not_run(tmp_path: Path, look: Callable[[Path], object]) -> None:
    """Pillow would hand PostScript to its interpreter."""
    path = tmp_path / "photo.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n0 0 moveto showpage\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(UnreadableImageError, match=r"photo\.png cannot be read as an image: its content is none of JPEG"):
        look(path)


class TestToRgb:
    def test_a_photograph_stays_as_it_is(self) -> None:
        image = RNG.integers(0, 255, (6, 9, 3), dtype=np.uint8)
        assert (to_rgb(image) == image).all()

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_others_go_from_dark_to_bright(self, channels: int) -> None:
        image = np.linspace(-30, 900, 40 * 50 * channels, dtype=np.float32).reshape(40, 50, channels)
        image[0, 0] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shown = to_rgb(image)
        assert shown.shape == (40, 50, 3)
        assert shown.dtype == np.uint8
        assert (shown[1].max(), shown[-1].min()) <= (30, 255)
        assert shown[-1].min() > 225


def test_what_is_read_is_read_without_a_word_of_the_libraries(tmp_path: Path) -> None:
    """In a process of its own: pytest has its own mind about warnings. Each of the files had one printed."""
    grey = Image.new("L", (1000, 1000))
    grey.save(tmp_path / "two orientations.jpg", exif=make_exif((274, 3, 2, b"\6\0\1\0")))
    path = tiff(
        tmp_path / "a tag beyond the end.tif", np.zeros((1000, 1000), np.uint8), extratags=[(51123, "s", 0, "{}" * 9, True)]
    )
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags[51123]
    content = bytearray(path.read_bytes())
    content[tag.offset + 8 : tag.offset + 12] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    code = (
        "import sys, pathlib; from protoseg.data.images import read_image; "
        "print([read_image(path).shape for path in sorted(pathlib.Path(sys.argv[1]).iterdir())])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{[(1000, 1000, 3)] * 2}\n", "")


@pytest.mark.parametrize("stored", [0, 9, (6, 1)])
def test_an_orientation_that_is_none_of_the_eight_turns_nothing(tmp_path: Path, stored: int | tuple[int, int]) -> None:
    image = RNG.integers(0, 255, (6, 9, 5), dtype=np.uint8)
    count = 1 if isinstance(stored, int) else len(stored)
    path = tiff(
        tmp_path / "x.tif", image, photometric="minisblack", planarconfig="contig", extratags=[(274, "H", count, stored, True)]
    )
    picture = read_picture(path)
    assert (picture.image == image).all()
    assert picture.orientation == 1


class TestNoData:
    """GDAL's value for pixels without one."""

    @pytest.mark.parametrize(
        ("dtype", "text"),
        [(np.float32, "-3.4028234663852886e+38"), (np.float64, "-1.7976931348623157e+308"), (np.int16, "-9999")],
    )
    def test_becomes_a_hole(self, tmp_path: Path, dtype: type, text: str, caplog: pytest.LogCaptureFixture) -> None:
        image = RNG.integers(0, 90, (6, 9)).astype(dtype)
        image[2, 3:5] = dtype(float(text))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = read_image(tiff(tmp_path / "x.tif", image, extratags=[(42113, "s", 0, text, True)]))[..., 0]
        assert np.isnan(read).sum() == 2
        assert np.isnan(read[2, 3:5]).all()
        assert np.nanmax(np.abs(read)) < 90
        assert missing_pixels(read[..., None]).sum() == 2
        assert caplog.text == ""

    def test_of_a_type_without_holes_is_only_told(self, tmp_path: Path) -> None:
        image = RNG.integers(0, 90, (6, 9), dtype=np.uint16)
        path = tiff(tmp_path / "x.tif", image, extratags=[(42113, "s", 0, "0", True)])
        assert (read_image(path)[..., 0] == image).all()
        assert read_picture(path).nodata == 0

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_is_compared_with_what_is_stored_where_zero_is_white(self, tmp_path: Path, dtype: type) -> None:
        """Turned round, white would be taken for it."""
        image = RNG.integers(1, 90, (6, 10), dtype=dtype)
        image[2, 3:6] = 0
        image[4] = np.iinfo(dtype).max
        options = {"photometric": "miniswhite", "extratags": [(42113, "s", 0, "0", True)]}
        path = tiff(tmp_path / "x.tif", image, **options)
        assert (read_image(path)[..., 0] == np.iinfo(dtype).max - image).all()
        assert nodata_share(path) == 3 / 60
        sample = Sample("x", path, None, "train")
        assert facts_of(sample, "labeled", read_picture(path), None).nodata == (0, 3 / 60)

    def test_is_a_number_of_the_palette_and_no_color(self, tmp_path: Path) -> None:
        image = np.repeat(np.arange(5, dtype=np.uint8), 2)[None].repeat(4, axis=0)
        colors = np.zeros((3, 256), dtype=np.uint16)  # all black but number 0
        colors[:, 0] = 65535
        path = tiff(tmp_path / "x.tif", image, photometric="palette", colormap=colors, extratags=[(42113, "s", 0, "0", True)])
        assert nodata_share(path) == 8 / 40

    def test_transparency_has_none(self, tmp_path: Path) -> None:
        image = RNG.integers(1, 90, (6, 10, 4), dtype=np.uint8)
        image[..., 3] = 255
        image[0, :6, :3] = 0
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "extratags": [(42113, "s", 0, "0", True)]}
        assert nodata_share(tiff(tmp_path / "x.tif", image, **options)) == 6 / 60

    def test_no_number(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "x.tif", np.zeros((6, 9), np.float32), extratags=[(42113, "s", 0, "none", True)])
        with pytest.raises(UnreadableImageError, match=r"x\.tif declares 'none'"):
            read_image(path)


def test_a_sparse_tiff_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tiff(tmp_path / "x.tif", np.zeros((4, 8), dtype=np.uint16))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages.first.tags[tag].overwrite(60_000)
        file.pages.first.tags["StripByteCounts"].overwrite(0)
    with pytest.raises(UnreadableImageError, match=r"x\.tif says that it is \(60000, 60000\) large, but has \d+ bytes"):
        read_image(path)
