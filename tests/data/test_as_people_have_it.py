"""Data as strangers bring it: what their tools, machines and habits make of one and the same small data set."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_folder import Pixels, make_folder, write_image
from make_formats import WRITERS, make_pictures
from PIL import Image

from protoseg.data.check import LabelReport, check_labels
from protoseg.data.formats import open_dataset
from protoseg.data.index import DataIndex
from protoseg.data.masks import read_mask
from protoseg.data.splits import make_partition

COLORS = np.array([[0, 0, 0], [200, 30, 0], [0, 0, 255]], dtype=np.uint8)
Save = Callable[[Path, Pixels], None]


def report_of(root: Path, labels: Path | None = None) -> tuple[DataIndex, LabelReport]:
    index = open_dataset(root)
    return index, check_labels(index, make_partition(index, labels=labels and str(labels)))


class TestNames:
    IMAGES = ("Größe 1.JPG", "日本 x.Png", "it's (2).v1.JPEG")
    MASKS = ("Größe 1.PNG", "日本 x.png", "it's (2).v1.Png")

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = make_folder(tmp_path / "my data (ä)", train=4, labeled=3)
        for i in range(3):
            old = root / f"images/img_0{i}.png"
            with Image.open(old) as image:
                image.save(root / "images" / self.IMAGES[i], "PNG" if "Png" in self.IMAGES[i] else "JPEG")
            old.unlink()
            (root / f"masks/img_0{i}.png").rename(root / "masks" / self.MASKS[i])
        return root

    def test_suffixes_in_any_case_blanks_and_letters_of_any_alphabet(self, root: Path) -> None:
        index, report = report_of(root)
        assert [s.name for s in index.samples if s.mask] == ["Größe 1", "it's (2).v1", "日本 x"]
        assert report.pixels.sum() == 3 * 40 * 48
        assert index.left_out == ()

    @pytest.mark.parametrize("line", [0, 1, 2])
    def test_in_a_list_from_windows(self, root: Path, tmp_path: Path, line: int) -> None:
        (tmp_path / "list.txt").write_bytes(f"\ufeffimages\\{self.IMAGES[line]}\r\n\r\n".encode())
        index = open_dataset(root)
        (labeled,) = make_partition(index, labels=str(tmp_path / "list.txt")).labeled
        assert labeled.image.name == self.IMAGES[line]


def opaque(path: Path, label: Pixels) -> None:
    Image.fromarray(np.dstack([COLORS[label], np.full(label.shape, 255, dtype=np.uint8)])).save(path)


def palette(path: Path, label: Pixels) -> None:
    """Number 0 is transparent, number 1 half."""
    image = Image.fromarray(label)
    image.putpalette(COLORS.flatten().tolist())
    image.save(path, transparency=bytes([0, 128, 255]))


def grey_with_a_transparent_number(path: Path, label: Pixels) -> None:
    Image.fromarray(label).save(path, transparency=0)


def grey_and_opaque(path: Path, label: Pixels) -> None:
    Image.fromarray(np.dstack([label, np.full_like(label, 255)])).save(path)


def sixteen_bits(path: Path, label: Pixels) -> None:
    Image.fromarray(label.astype(np.uint16)).save(path)


def tiff_of_floats(path: Path, label: Pixels) -> None:
    Image.fromarray(label.astype(np.float32)).save(path, "TIFF")


@pytest.mark.parametrize(
    "save", [opaque, palette, grey_with_a_transparent_number, grey_and_opaque, sixteen_bits, tiff_of_floats]
)
def test_masks_as_programs_save_them(tmp_path: Path, save: Save) -> None:
    root = make_folder(tmp_path, labeled=3)
    expected = report_of(root)[1].pixels.tolist()
    for path in (root / "masks").glob("*.png"):
        save(path, read_mask(path).astype(np.uint8))
    assert sorted(report_of(root)[1].pixels.tolist()) == sorted(expected)


@pytest.mark.parametrize("colored", [True, False])
def test_one_bit_masks_are_two_classes(tmp_path: Path, colored: bool) -> None:
    root = make_folder(tmp_path, labeled=3)
    inside = sum(int((read_mask(path) > 0).sum()) for path in (root / "masks").glob("*.png"))
    for path in (root / "masks").glob("*.png"):
        image = Image.fromarray(read_mask(path) > 0)
        if colored:
            image = image.convert("P", palette=Image.Palette.WEB)
            image = Image.fromarray(np.asarray(image) > 0).convert("L").point(lambda value: min(value, 1))
            image.putpalette([255, 255, 255, 200, 0, 0])
        image.save(path, bits=1)
    assert report_of(root)[1].pixels.tolist() == [3 * 40 * 48 - inside, inside]


def test_a_mask_that_is_transparent_where_nothing_is_says_what_to_do(tmp_path: Path) -> None:
    root = make_folder(tmp_path, labeled=3)
    path = root / "masks/img_01.png"
    label = read_mask(path).astype(np.uint8)
    write_image(path, np.dstack([COLORS[label], np.where(label > 0, 255, 0).astype(np.uint8)]))
    with pytest.raises(ValueError, match=r"img_01\.png is transparent in places; save the mask without an alpha channel"):
        report_of(root)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".jpg"])
def test_masks_of_a_kind_that_is_not_read_are_named(tmp_path: Path, suffix: str) -> None:
    root = make_folder(tmp_path, labeled=3)
    for path in (root / "masks").glob("*.png"):
        path.rename(path.with_suffix(suffix))
    with pytest.raises(ValueError, match=rf"are no PNG, BMP or TIFF files \(the first is img_00\{suffix}\).*as PNG"):
        open_dataset(root)


def test_a_mask_of_voc_in_jpeg_is_refused(tmp_path: Path) -> None:
    """Its folders are read by the suffixes of images."""
    WRITERS["voc"][1](tmp_path, make_pictures())
    path = tmp_path / "SegmentationClass/scene_0.png"
    with Image.open(path) as image:
        image.convert("L").save(path.with_suffix(".jpg"))
    path.unlink()
    with pytest.raises(ValueError, match=r"scene_0\.jpg is a JPEG image, which blurs class numbers"):
        report_of(tmp_path)


@pytest.mark.parametrize("name", ["classes.txt", "Classes.txt", "CLASSES.TXT", "Classes.CSV"])
def test_class_lists_from_windows(tmp_path: Path, name: str) -> None:
    root = make_folder(tmp_path, labeled=3)
    lines = ["name,r,g,b", "straße,0,0,0", "square,1,1,1", "disc,2,2,2"] if "CSV" in name else ["straße", "square", "disc"]
    (root / name).write_bytes(("\ufeff" + "\r\n".join([*lines, "", ""])).encode())
    assert report_of(root)[1].classes.names == ("straße", "square", "disc")


class TestTools:
    def test_labelme_of_another_machine(self, tmp_path: Path) -> None:
        """Windows paths, the image inside the file, fields sorted so that it comes first, a byte order mark, line ends."""
        WRITERS["labelme"][1](tmp_path, make_pictures())
        expected = report_of(tmp_path)[1].pixels.tolist()
        for path in tmp_path.rglob("*.json"):
            content = json.loads(path.read_text())
            image = next(tmp_path.rglob(f"{path.stem}.png"))
            content["imageData"] = base64.b64encode(image.read_bytes()).decode()
            content["imagePath"] = f"C:\\Users\\Anna\\My Pictures\\{image.name}"
            text = json.dumps(content, indent=2, sort_keys=True).replace("\n", "\r\n")
            path.write_bytes(("\ufeff" + text).encode())
        index, report = report_of(tmp_path)
        assert (index.format, report.pixels.tolist()) == ("labelme", expected)

    def test_labelme_without_its_images(self, tmp_path: Path) -> None:
        WRITERS["labelme"][1](tmp_path, make_pictures())
        path = tmp_path / "train/images/scene_0.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"imageData": "aGVsbG8="}))
        path.with_suffix(".png").unlink()
        with pytest.raises(FileNotFoundError, match=r"no such image is in .*labelme_export_json writes it out"):
            open_dataset(tmp_path)

    def test_coco_with_ids_as_text(self, tmp_path: Path) -> None:
        WRITERS["coco"][1](tmp_path, make_pictures())
        expected = report_of(tmp_path)[1].pixels.tolist()
        for path in (tmp_path / "annotations").glob("instances_*.json"):
            content = json.loads(path.read_text())
            for image in content["images"]:
                image["id"] = f"scene {image['id']}"
            for annotation in content["annotations"]:
                annotation["image_id"] = f"scene {annotation['image_id']}"
            path.write_text(json.dumps(content))
        assert report_of(tmp_path)[1].pixels.tolist() == expected

    @pytest.mark.parametrize("above", ["job", "downloads/job 12"])
    def test_cvat_in_a_zip_with_folders_above(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        root = tmp_path / "packed" / above
        WRITERS["cvat"][1](root, make_pictures())
        for path in root.rglob("*.txt"):
            path.write_bytes(("\ufeff" + path.read_text().replace("\n", "\r\n")).encode())
        shutil.make_archive(str(tmp_path / "task"), "zip", tmp_path / "packed")
        index, report = report_of(tmp_path / "task.zip")
        assert index.format == "cvat"
        assert (len(index.of("train")), len(index.of("val"))) == (5, 2)
        assert report.classes.names == ("background", "red square", "disc")
