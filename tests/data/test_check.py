"""Every labelled file is decoded before training; each fault names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_folder import cut_short, draw_shapes, make_folder, write_image, write_index

from protoseg.data.check import LabelReport, check_labels, classes_in, mask_values, read_pair
from protoseg.data.formats import open_dataset
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import UnreadableImageError
from protoseg.data.masks import MaskFile, read_mask
from protoseg.data.splits import make_partition


def check(root: Path, **options: str) -> LabelReport:
    index = open_dataset(root)
    return check_labels(index, make_partition(index, **options))  # type: ignore[arg-type]


def put(mask: Path, value: int, pixels: int = 3) -> None:
    """Set some pixels of a mask file."""
    content = read_mask(mask).copy()
    content.flat[:pixels] = value
    write_index(mask, content)


def fill(folder: Path, values: tuple[int, ...]) -> None:
    """Let all masks of a folder hold these values alone, in rows."""
    for mask in folder.rglob("*.png"):
        shape = read_mask(mask).shape
        rows = np.array(values, dtype=np.uint8)[np.arange(shape[0]) % len(values)]
        write_index(mask, np.repeat(rows[:, None], shape[1], axis=1))


def test_counts_what_it_saw(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=4, labeled=3, test=1, size=(40, 48))
    image, mask = draw_shapes(np.random.default_rng(9), (30, 50))
    mask[0] = 255
    write_image(root / "images/wide.jpg", image)
    write_index(root / "masks/wide.png", mask)
    report = check(root)
    masks = [read_mask(path) for path in sorted((root / "masks").glob("*.png"))]  # without test/
    assert report.classes.written == (0, 1, 2)
    assert report.pixels.tolist() == [sum(int((m == value).sum()) for m in masks) for value in (0, 1, 2)]
    assert list(report.sizes.items()) == [((40, 48), 3), ((30, 50), 1)]


def test_a_class_list_may_hold_classes_that_do_not_occur(tmp_path: Path) -> None:
    report = check(make_folder(tmp_path, classes=("ground", "square", "disc", "unseen")))
    assert report.classes.names[3] == "unseen"
    assert report.pixels[3] == 0


def test_classes_come_from_the_masks_in_use(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=4, labeled=None)
    put(root / "masks/img_03.png", 9)
    (tmp_path / "list.txt").write_text("img_00\nimg_01\n")
    assert check(root, labels=str(tmp_path / "list.txt")).classes.written == (0, 1, 2)
    assert check(root).classes.written == (0, 1, 2, 9)


@pytest.mark.parametrize(
    "which", ["images/img_01.png", "masks/img_01.png", "images/test/test_00.png", "masks/test/test_00.png"]
)
def test_a_truncated_file(tmp_path: Path, which: str) -> None:
    root = make_folder(tmp_path, test=1)
    cut_short(root / which)
    with pytest.raises(UnreadableImageError) as caught:
        check(root)
    assert str(root / which) in str(caught.value)


@pytest.mark.parametrize("which", ["img_01", "test/test_00"])
def test_a_mask_of_another_size(tmp_path: Path, which: str) -> None:
    root = make_folder(tmp_path, test=1, size=(40, 48))
    write_index(root / f"masks/{which}.png", np.zeros((48, 40), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"is 40x48 but its image .* is 48x40") as caught:
        check(root)
    assert f"masks/{which}.png" in str(caught.value)
    assert f"images/{which}.png" in str(caught.value)


@pytest.mark.parametrize("which", ["img_01", "test/test_00"])
def test_a_value_outside_the_class_list(tmp_path: Path, which: str) -> None:
    root = make_folder(tmp_path, test=1, classes=("ground", "square", "disc"))
    put(root / f"masks/{which}.png", 7, pixels=5)
    with pytest.raises(ValueError, match=rf"masks/{which}\.png holds the value 7 in 5 pixels.*0-2, 255"):
        check(root)


def test_a_value_that_only_an_evaluation_mask_holds(tmp_path: Path) -> None:
    root = make_folder(tmp_path, test=2)
    put(root / "masks/test/test_01.png", 7, pixels=5)
    with pytest.raises(ValueError, match=r"masks/test/test_01\.png holds the value 7 in 5 pixels"):
        check(root)


def test_ignored_pixels_are_no_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path, test=1)
    put(root / "masks/img_01.png", 255)
    put(root / "masks/test/test_00.png", 255)
    report = check(root)
    assert report.classes.written == (0, 1, 2)
    assert report.pixels.sum() == 3 * 40 * 48 - 3


class TestOneClass:
    @pytest.mark.parametrize("classes", [(), ("ground", "thing")])
    @pytest.mark.parametrize("values", [(0,), (1, 255)])
    def test_stops(self, tmp_path: Path, values: tuple[int, ...], classes: tuple[str, ...]) -> None:
        """With a class list too: where the masks hold one class, there is nothing to tell apart."""
        root = make_folder(tmp_path, classes=classes)
        fill(root / "masks", values)
        with pytest.raises(ValueError, match="one class") as caught:
            check(root)
        assert "masks" in str(caught.value)
        assert str(root) in str(caught.value)

    def test_0_and_255_under_three_names_is_one_class_and_ignored(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, classes=("ground", "thing", "other"))
        fill(root / "masks", (0, 255))
        with pytest.raises(ValueError, match="one class"):
            check(root)

    def test_a_class_list_of_one(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, classes=("thing",))
        fill(root / "masks", (0,))
        with pytest.raises(ValueError, match="one class"):
            check(root)

    @pytest.mark.parametrize("classes", [(), ("ground", "thing")])
    def test_nothing_but_ignored_pixels(self, tmp_path: Path, classes: tuple[str, ...]) -> None:
        root = make_folder(tmp_path, classes=classes)
        fill(root / "masks", (255,))
        with pytest.raises(ValueError, match=r"ignored|one class"):
            check(root)


class TestNearlyBinary:
    """Masks of 0 and 255 and a few other pixels: nobody but the user knows whether 255 is a class."""

    def spoil(self, root: Path, how: str) -> None:
        fill(root / "masks", (0, 255))
        if how == "one mask of 0 and 1":
            fill(root / "masks/a", (0, 1))
        else:
            put(root / "masks/a/m.png", int(how), pixels=1)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = make_folder(tmp_path)
        for kind in ("images", "masks"):
            (root / kind / "a").mkdir()
            (root / kind / "img_01.png").rename(root / kind / "a/m.png")
        return root

    @pytest.mark.parametrize("how", ["254", "1", "one mask of 0 and 1"])
    def test_stops_and_says_both_ways_out(self, root: Path, how: str) -> None:
        self.spoil(root, how)
        with pytest.raises(ValueError, match=r"2 of 3 hold 0 and 255 alone, and .*m\.png the value .*--classes\.ids"):
            check(root)

    def test_one_stray_pixel_in_every_mask(self, root: Path) -> None:
        fill(root / "masks", (0, 255))
        for mask in (root / "masks").rglob("*.png"):
            put(mask, 254, pixels=1)
        with pytest.raises(ValueError, match="0 of 3 hold 0 and 255 alone"):
            check(root)

    def test_under_names_it_is_said(self, root: Path) -> None:
        self.spoil(root, "one mask of 0 and 1")
        (root / "classes.txt").write_text("ground\nthing\n")
        report = check(root)
        assert report.pixels[1] > 0
        assert "the masks look binary" in report.notes[0]

    def test_scribbles_are_no_doubt(self, root: Path) -> None:
        """Nearly everything is unlabelled, but the first class is as small as the others."""
        for mask in (root / "masks").rglob("*.png"):
            content = np.full((40, 48), 255, dtype=np.uint8)
            content[0, :9] = np.arange(9) // 3
            write_index(mask, content)
        assert check(root).classes.written == (0, 1, 2)

    def test_ignored_borders_are_no_doubt(self, root: Path) -> None:
        for mask in (root / "masks").rglob("*.png"):
            put(mask, 255, pixels=1000)
        fill(root / "masks/a", (0, 255))
        assert not any("binary" in note for note in check(root).notes)


def test_an_image_turned_by_exif_fits_its_mask(tmp_path: Path) -> None:
    from PIL import Image

    root = make_folder(tmp_path, train=2, labeled=1)
    image, mask = draw_shapes(np.random.default_rng(3), (30, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees, which is how people draw its mask
    Image.fromarray(image).save(root / "images/turned.jpg", exif=exif)
    write_index(root / "masks/turned.png", np.rot90(mask, -1).copy())
    read, label = read_pair(Sample("turned", root / "images/turned.jpg", MaskFile(root / "masks/turned.png"), "train"))
    assert read.shape[:2] == label.shape == (50, 30)
    assert check(root).sizes == {(40, 48): 1, (50, 30): 1}


def test_classes_of_a_draw(tmp_path: Path) -> None:
    """Ignored values are no class, merged ones are one class, and a value outside the table is kept apart."""
    path = write_index(tmp_path / "m.png", np.array([[0, 3, 4], [7, 255, 9]], dtype=np.uint8))
    table = ClassTable(("road", "car"), ((0,), (3, 4)), ((0, 0, 0), (1, 1, 1)), ignored=(7, 255))
    sample = Sample("m", path, MaskFile(path), "train")
    found = classes_in(table)(sample)
    assert {0, 1} < found
    assert len(found) == 3
    assert classes_in(None)(sample) == {0, 3, 4, 7, 9}


def test_mask_values_leave_out_255(tmp_path: Path) -> None:
    mask = write_index(tmp_path / "m.png", np.array([[0, 3], [255, 3]], dtype=np.uint8))
    assert mask_values(Sample("m", mask, MaskFile(mask), "train")) == {0, 3}


@pytest.mark.parametrize(
    ("listed", "hint"),
    [("#b83df4", "; #b83df5 is within 1 step of #b83df4, the colour of 'disc'. Correct"), ("#b83dff", "'ignore' are")],
)
def test_a_colour_that_is_nearly_one_of_the_class_list(tmp_path: Path, listed: str, hint: str) -> None:
    rgb = np.zeros((8, 8, 3), dtype=np.uint8)
    rgb[2:6] = (0xB8, 0x3D, 0xF5)
    write_image(tmp_path / "images/a.png", rgb)
    write_image(tmp_path / "masks/a.png", rgb)
    (tmp_path / "classes.txt").write_text(f"ground #000000\ndisc {listed}\n")
    index = open_dataset(tmp_path)
    with pytest.raises(ValueError, match="holds the value #b83df5 in 32 pixels, which is no class") as caught:
        check_labels(index, make_partition(index))
    assert hint in str(caught.value)
    assert ("within" in str(caught.value)) == (listed == "#b83df4")
