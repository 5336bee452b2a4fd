"""Which files become which samples."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from make_folder import Layout, draw_shapes, make_folder, write_image, write_index
from make_formats import WRITERS, make_pictures

from protoseg.data.annotations import split_of
from protoseg.data.formats import open_dataset
from protoseg.data.formats.camvid import CLASSES
from protoseg.data.index import DataIndex
from protoseg.data.masks import MaskFile
from protoseg.data.splits import make_partition


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def names(index: DataIndex, split: str, *, masked: bool | None = None) -> list[str]:
    return [s.name for s in index.samples if s.split == split and (masked is None or (s.mask is not None) == masked)]


def test_an_image_with_a_mask_is_labeled_and_one_without_is_not(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=3, labeled=2)
    index = open_dataset(root)
    assert [(s.name, s.split, s.image, s.mask) for s in index.samples] == [
        ("img_00", "train", root / "images/img_00.png", MaskFile(root / "masks/img_00.png")),
        ("img_01", "train", root / "images/img_01.png", MaskFile(root / "masks/img_01.png")),
        ("img_02", "train", root / "images/img_02.png", None),
    ]
    assert index.classes is None
    assert index.format == "folder"


@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFC"), ("NFC", "NFC", "NFD")])
def test_names_from_macos_and_from_elsewhere_are_the_same_names(tmp_path: Path, forms: tuple[str, str, str]) -> None:
    """Of an image, its mask, and a list: all are called Größe ä."""
    root = make_folder(tmp_path, train=3, labeled=2)
    image, mask, line = (unicodedata.normalize(form, "Größe ä") for form in forms)
    (root / "images/img_01.png").rename(root / f"images/{image}.png")
    (root / "masks/img_01.png").rename(root / f"masks/{mask}.png")
    (tmp_path / "list.txt").write_text(f"{line}.png\n", encoding="utf-8")
    (found,) = make_partition(open_dataset(root), labels=str(tmp_path / "list.txt")).labeled
    assert found.mask is not None
    assert (found.name, found.image.is_file(), found.mask.read().shape) == ("Größe ä", True, (40, 48))


def test_an_image_that_an_annotation_file_names_in_the_form_of_macos(tmp_path: Path) -> None:
    WRITERS["labelme"][1](tmp_path, make_pictures())
    image = tmp_path / "train/images/scene_1.png"
    image.rename(image.with_stem("Größe"))
    file = image.with_suffix(".json")
    file.write_text(file.read_text().replace("scene_1.png", unicodedata.normalize("NFD", "Größe") + ".png"))
    assert "train/images/Größe" in names(open_dataset(tmp_path), "train", masked=True)


@pytest.mark.parametrize("name", ["coco", "labelme", "label studio"])
def test_json_files_in_capital_letters(tmp_path: Path, name: str) -> None:
    WRITERS[name][1](tmp_path, make_pictures())
    expected = open_dataset(tmp_path)
    for path in list(tmp_path.rglob("*.json")):
        path.rename(path.with_suffix(".JSON"))
    found = open_dataset(tmp_path)
    assert found.format == expected.format
    assert [(s.name, s.split, s.mask is None) for s in found.samples] == [
        (s.name, s.split, s.mask is None) for s in expected.samples
    ]


@pytest.mark.parametrize("layout", ["inside", "beside"])
def test_evaluation_images_never_train(tmp_path: Path, layout: str) -> None:
    index = open_dataset(make_folder(tmp_path, train=3, labeled=2, test=2, val=1, layout=layout))  # type: ignore[arg-type]
    assert names(index, "train") == ["img_00", "img_01", "img_02"]
    assert names(index, "test", masked=True) == ["test/test_00", "test/test_01"]
    assert names(index, "val", masked=True) == ["val/val_00"]
    mask = next(s.mask for s in index.samples if s.name == "test/test_01")
    assert str(mask) == str(tmp_path) + ("/masks/test/test_01.png" if layout == "inside" else "/test/masks/test_01.png")


@pytest.mark.parametrize(("folder", "split"), [("Validation", "val"), ("valid", "val"), ("dev", "val"), ("Testing", "test")])
@pytest.mark.parametrize("layout", ["inside", "beside"])
def test_evaluation_folders_by_other_names(tmp_path: Path, folder: str, split: str, layout: str) -> None:
    root = make_folder(tmp_path, train=2, labeled=1, val=1, layout=layout)  # type: ignore[arg-type]
    for path in [root / "val"] if layout == "beside" else [root / "images/val", root / "masks/val"]:
        path.rename(path.with_name(folder))
    index = open_dataset(root)
    assert names(index, split, masked=True) == [f"{folder}/val_00"]
    assert names(index, "train") == ["img_00", "img_01"]


@pytest.mark.parametrize(("title", "split"), [("Validation", "val"), ("valid", "val"), ("TEST", "test")])
def test_evaluation_lists_of_voc_by_other_names(tmp_path: Path, title: str, split: str) -> None:
    for i in range(2):
        write_image(tmp_path / f"JPEGImages/{i}.jpg", draw_shapes(_rng())[0])
        write_index(tmp_path / f"SegmentationClass/{i}.png", draw_shapes(_rng())[1])
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("0\n")
    (tmp_path / f"ImageSets/Segmentation/{title}.txt").write_text("1\n")
    index = open_dataset(tmp_path)
    assert (names(index, "train"), names(index, split)) == (["0"], ["1"])


@pytest.mark.parametrize("written", [name for name in WRITERS if "zip" not in name])
def test_hidden_files_of_macos(tmp_path: Path, written: str) -> None:
    """Beside each file that a Mac copies to another disk it writes one that begins with `._`."""
    WRITERS[written][1](tmp_path, make_pictures())
    before = open_dataset(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert open_dataset(tmp_path) == before


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_two_files_of_one_name_in_voc(tmp_path: Path, folder: str) -> None:
    WRITERS["voc"][1](tmp_path, make_pictures())
    first = min((tmp_path / folder).iterdir())
    other = shutil.copy(first, first.with_suffix(".bmp"))
    with pytest.raises(ValueError, match=f"{other} and {first} have the same name"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "line", ["{}", "{} 1", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "JPEGImages\\{}.JPG", "{}.jpeg"]
)
def test_lines_of_a_list_of_voc(tmp_path: Path, line: str, form: str) -> None:
    write_image(tmp_path / "JPEGImages/Größe.jpg", draw_shapes(_rng())[0])
    write_image(tmp_path / "JPEGImages/other.jpg", draw_shapes(_rng())[0])
    write_index(tmp_path / f"SegmentationClass/{unicodedata.normalize(form, 'Größe')}.png", draw_shapes(_rng())[1])
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_bytes(line.replace("{}", "Größe").encode() + b"\r\n")
    index = open_dataset(tmp_path)
    assert names(index, "train", masked=True) == names(index, "train") == ["Größe"]
    (unlisted,) = index.left_out
    assert unlisted.files == (tmp_path / "JPEGImages/other.jpg",)
    assert f"--unlabeled {tmp_path / 'JPEGImages'}" in unlisted.advice


def test_lines_of_a_list_of_voc_with_blanks(tmp_path: Path) -> None:
    for name in ("my scene 1", "my scene 1 b", "my"):
        write_image(tmp_path / f"JPEGImages/{name}.png", draw_shapes(_rng())[0])
        write_index(tmp_path / f"SegmentationClass/{name}.png", draw_shapes(_rng())[1])
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    path = tmp_path / "ImageSets/Segmentation/train.txt"
    path.write_text("JPEGImages/my scene 1.png SegmentationClass/my scene 1.png\nmy scene 1 b 1\n")
    assert names(open_dataset(tmp_path), "train") == ["my scene 1", "my scene 1 b"]
    path.write_text("my scenes 1\n")
    assert names(open_dataset(tmp_path), "train") == ["my"]
    path.write_text("JPEGImages/lost.png SegmentationClass/lost.png\n")
    with pytest.raises(FileNotFoundError, match=r"lists JPEGImages/lost\.png, or has a mask of it, but"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [("valid/a", "val"), ("x/Validation/a", "val"), ("testing/a", "test"), ("validated/a", "train"), ("test", "train")],
)
def test_split_of_an_annotated_image(name: str, split: str) -> None:
    assert split_of(name) == split


def test_evaluation_images_below_sub_folders(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=2, labeled=1)
    for layout in ("images/test/city/x.png", "test/images/town/y.png"):
        write_image(root / layout, draw_shapes(_rng())[0])
    index = open_dataset(root)
    assert names(index, "test") == ["test/city/x", "test/town/y"]
    assert names(index, "train") == ["img_00", "img_01"]


def test_where_images_train_exists_it_alone_trains(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=3, labeled=2, test=1, train_folder=True)
    write_image(root / "images/loose.png", draw_shapes(_rng())[0])
    write_image(root / "images/other/loose.png", draw_shapes(_rng())[0])
    index = open_dataset(root)
    assert names(index, "train") == ["train/img_00", "train/img_01", "train/img_02"]
    assert names(index, "test") == ["test/test_00"]
    assert len(index.samples) == 4


def test_any_depth_and_suffix_aside(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=4, labeled=None, nested=True, suffix=".JPG")
    assert names(open_dataset(root), "train", masked=True) == ["a/b/img_00", "a/b/img_02", "c/img_01", "c/img_03"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    """Large data sets are often put together from links."""
    disk = make_folder(tmp_path / "disk", train=3, labeled=2, test=1, train_folder=True)
    root = tmp_path / "data"
    for folder in ("images/train", "images/test", "masks/train", "masks/test"):
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(disk / folder)
    index = open_dataset(root)
    assert names(index, "train", masked=True) == ["train/img_00", "train/img_01"]
    assert names(index, "test") == ["test/test_00"]


def test_train_and_test_folders_of_images_and_masks(tmp_path: Path) -> None:
    plain = open_dataset(make_folder(tmp_path / "plain", train=3, labeled=2, test=1, layout="beside"))
    root = make_folder(tmp_path / "data", train=3, labeled=2, test=1, layout="beside")
    (root / "train").mkdir()
    for kind in ("images", "masks"):
        (root / kind).rename(root / "train" / kind)
    index = open_dataset(root)
    assert [(s.name, s.split, s.mask is None) for s in index.samples] == [
        (s.name, s.split, s.mask is None) for s in plain.samples
    ]
    (root / "images").mkdir()
    with pytest.raises(ValueError, match=r"images and .*train/images both hold training images"):
        open_dataset(root)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif"])
def test_masks_that_are_blurred(tmp_path: Path, suffix: str) -> None:
    root = make_folder(tmp_path)
    for path in (root / "masks").iterdir():
        path.rename(path.with_suffix(suffix))
    with pytest.raises(ValueError, match=rf"masks are no PNG, BMP or TIFF files \(the first is img_00\{suffix}\).*as PNG"):
        open_dataset(root)


@pytest.mark.parametrize("broken", ["images/img\udcff.png", "images/caf\udce9/img.png"])  # Python's spelling of such bytes
def test_a_name_that_is_no_text(tmp_path: Path, broken: str) -> None:
    root = make_folder(tmp_path)
    (root / broken).parent.mkdir(exist_ok=True)
    (root / "images/img_05.png").rename(root / broken)
    with pytest.raises(
        ValueError, match=r"the name '(img\\xff\.png|caf\\xe9)' in the folder .*/images is not UTF-8; rename"
    ) as caught:
        open_dataset(root)
    str(caught.value).encode()  # can be printed


def test_a_name_that_is_no_text_where_no_folder_is_walked(tmp_path: Path) -> None:
    """Cityscapes are listed by the patterns of their names."""
    root = tmp_path / "data"
    WRITERS["cityscapes"][1](root, make_pictures())
    folder = root / "leftImg8bit/train/bonn"
    next(folder.glob("*.png")).rename(folder / "caf\udce9_leftImg8bit.png")
    with pytest.raises(ValueError, match=r"the name 'caf\\xe9_leftImg8bit\.png' in the folder .*/bonn is not UTF-8"):
        open_dataset(root, format="cityscapes")


def test_dots_in_a_name_belong_to_it(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=1, labeled=1)
    image, mask = draw_shapes(_rng())
    write_image(root / "images/a.left.jpg", image)
    write_image(root / "images/a.right.jpg", image)
    write_index(root / "masks/a.left.png", mask)
    index = open_dataset(root)
    assert names(index, "train", masked=True) == ["a.left", "img_00"]
    assert names(index, "train", masked=False) == ["a.right"]


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=2, labeled=1)
    for name in ("images/._img_00.png", "images/.cache/x.png", "images/Thumbs.db", "images/notes.txt", "masks/.x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert names(open_dataset(root), "train") == ["img_00", "img_01"]


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_name(tmp_path: Path, folder: str) -> None:
    root = make_folder(tmp_path, train=2, labeled=2)
    other = ".jpg" if folder == "images" else ".bmp"
    shutil.copy(root / folder / "img_01.png", root / folder / f"img_01{other}")
    with pytest.raises(ValueError, match="same name") as caught:
        open_dataset(root)
    assert f"img_01{other}" in str(caught.value)
    assert "img_01.png" in str(caught.value)


def test_one_evaluation_image_in_both_layouts(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=2, labeled=1, test=1)
    shutil.copytree(root / "images/test", root / "test/images")
    shutil.copytree(root / "masks/test", root / "test/masks")
    with pytest.raises(ValueError, match="same evaluation image"):
        open_dataset(root)


def test_a_train_folder_on_its_own_is_a_folder_like_any_other(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=2, labeled=1, train_folder=True)
    write_image(root / "images/more/x.png", draw_shapes(_rng())[0])
    assert names(open_dataset(root), "train") == ["more/x", "train/img_00", "train/img_01"]
    (root / "images/val").mkdir()
    assert names(open_dataset(root), "train") == ["train/img_00", "train/img_01"]


class TestUnlabeledFolder:
    def test_its_images_train_and_its_masks_do_not_count(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=2, labeled=1)
        more = tmp_path / "more"
        write_image(more / "deep/x.jpg", draw_shapes(_rng())[0])
        write_image(more / "img_00.png", draw_shapes(_rng())[0])  # a name that the data set has too
        index = open_dataset(root, unlabeled=more)
        assert names(index, "train", masked=True) == ["img_00"]
        assert names(index, "train", masked=False) == ["img_01", "unlabeled:more/deep/x", "unlabeled:more/img_00"]
        assert [s.image for s in index.samples if s.name == "unlabeled:more/deep/x"] == [more / "deep/x.jpg"]

    def test_a_missing_or_empty_one_stops(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=2, labeled=1)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            open_dataset(root, unlabeled=tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="empty"):
            open_dataset(root, unlabeled=tmp_path / "empty")

    @pytest.mark.parametrize("folder", ["images", "images/test", "test/images", "."])
    def test_never_brings_back_a_labeled_or_evaluation_image(self, tmp_path: Path, folder: str) -> None:
        """`--unlabeled data/images` is an easy thing to write."""
        layout: Layout = "beside" if folder == "test/images" else "inside"
        root = make_folder(tmp_path, train=4, labeled=2, test=2, val=1, layout=layout)
        index = open_dataset(root, unlabeled=root / folder)
        unlabeled = {s.image.resolve() for s in index.samples if s.split == "train" and s.mask is None}
        others = {s.image.resolve() for s in index.samples if s.split != "train" or s.mask is not None}
        assert not unlabeled & others
        trained = [s.image.resolve() for s in index.samples if s.split == "train"]
        assert len(set(trained)) == len(trained)


class TestFaults:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            open_dataset(tmp_path / "nowhere")

    def test_no_images_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="images/"):
            open_dataset(tmp_path)

    def test_no_masks_folder(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        with pytest.raises(FileNotFoundError, match="masks/"):
            open_dataset(tmp_path)

    def test_no_mask(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no mask in .*masks"):
            open_dataset(make_folder(tmp_path, labeled=0))

    def test_no_image_in_common(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, train=2, labeled=0)
        write_index(root / "masks/other.png", draw_shapes(_rng())[1])
        with pytest.raises(ValueError, match=r"masks/other\.png"):
            open_dataset(root)

    def test_masks_of_evaluation_images_only(self, tmp_path: Path) -> None:
        """The message may not give test/test_00 as a mask without an image: it has one."""
        with pytest.raises(ValueError, match="mask") as caught:
            open_dataset(make_folder(tmp_path, train=2, labeled=0, test=1))
        assert "test_00" not in str(caught.value)


class TestCamVid:
    def write(self, root: Path) -> Path:
        image, mask = draw_shapes(_rng())
        mask[0] = 11
        for split in ("train", "val", "test"):
            write_image(root / split / f"{split}_0.png", image)
            write_index(root / f"{split}annot" / f"{split}_0.png", mask)
        write_image(root / "train/train_1.png", image)  # without a mask
        return root

    def test_is_recognised(self, tmp_path: Path) -> None:
        index = open_dataset(self.write(tmp_path))
        assert index.format == "camvid"
        assert names(index, "train", masked=True) == ["train/train_0"]
        assert names(index, "train", masked=False) == ["train/train_1"]
        assert names(index, "val") == ["val/val_0"]
        assert names(index, "test") == ["test/test_0"]
        assert index.of("val")[0].mask == MaskFile(tmp_path / "valannot/val_0.png")

    def test_void_is_ignored(self) -> None:
        assert len(CLASSES) == 11
        assert CLASSES.names[3] == "road"
        assert CLASSES.colors[8] == (64, 0, 128)  # car, as in the tutorial
        assert CLASSES.ignored == (11, 255)
        assert len(set(CLASSES.colors)) == 11


@pytest.mark.data
def test_shared_camvid_is_recognised_without_a_flag(camvid: Path) -> None:
    index = open_dataset(camvid)
    assert [len(index.of(split)) for split in ("train", "val", "test")] == [367, 101, 233]
    assert all(sample.mask is not None for sample in index.samples)
    assert index.classes is not None
    assert index.classes.names == CLASSES.names


def test_training_data_in_a_folder_of_its_own(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", train=2)
    make_folder(tmp_path / "valid", train=3)
    index = open_dataset(tmp_path)
    assert [len(index.of(split)) for split in ("train", "val", "test")] == [2, 3, 0]
    assert index.left_out == ()


def test_voc_with_evaluation_images_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "JPEGImages/0.jpg", draw_shapes(_rng())[0])
    write_index(tmp_path / "SegmentationClass/0.png", draw_shapes(_rng())[1])
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("0\n")
    with pytest.raises(ValueError, match=r"all of 1 image with masks are for evaluation .* add a list") as caught:
        open_dataset(tmp_path)
    assert "stand in no list" not in str(caught.value)


class TestLeftOut:
    """What looks like data and is not used is named."""

    def of(self, root: Path) -> dict[str, list[str]]:
        return {o.many: [path.relative_to(root).as_posix() for path in o.files] for o in open_dataset(root).left_out}

    def test_nothing_in_a_plain_data_set(self, tmp_path: Path) -> None:
        (make_folder(tmp_path, test=1, val=1, layout="beside") / "images/notes.txt").write_text("x")
        assert self.of(tmp_path) == {}

    def test_masks_without_images_and_of_other_kinds(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, test=1, layout="beside")
        write_index(root / "masks/img_99.png", draw_shapes(_rng())[1])
        write_image(root / "masks/img_04.webp", draw_shapes(_rng())[0])
        write_index(root / "test/masks/other.png", draw_shapes(_rng())[1])
        assert [o.files[0].name for o in open_dataset(root).left_out] == ["img_99.png", "img_04.webp", "other.png"]

    @pytest.mark.parametrize("name", ["labels.txt", "Classes.json", "_classes.csv"])
    def test_class_lists_by_other_names(self, tmp_path: Path, name: str) -> None:
        root = make_folder(tmp_path, classes=("ground", "square", "disc"))
        (root / name).write_text("ground\nsquare\ndisc\n")
        assert self.of(root) == {}  # beside one that is read they are copies
        (root / "classes.txt").unlink()
        assert self.of(root) == {"files may list the classes and are not read": [name]}

    def test_files_of_the_system_are_no_data(self, tmp_path: Path) -> None:
        """Synology writes a smaller copy of every image into such a folder beside it."""
        root = make_folder(tmp_path)
        for folder in ("images/@eaDir/img_00.png", "masks/@eaDir/img_00.png", "images/__MACOSX"):
            write_image(root / folder / "SYNOFILE_THUMB_M.png", draw_shapes(_rng())[0])
        assert len(open_dataset(root).samples) == 6
        assert self.of(root) == {}

    def test_images_of_other_kinds(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path)
        for name in ("images/x.GIF", "images/scans/y.jp2"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"x")
        assert sorted(file for files in self.of(root).values() for file in files) == ["images/scans/y.jp2", "images/x.GIF"]

    def test_images_outside_images_train(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, train_folder=True, val=1)
        write_image(root / "images/unlabeled/a.png", draw_shapes(_rng())[0])
        write_image(root / "images/extra.png", draw_shapes(_rng())[0])
        write_index(root / "masks/extra.png", draw_shapes(_rng())[1])
        found = self.of(root)
        assert found["images stand outside images/train and the evaluation folders, and are not used"] == [
            "images/extra.png",
            "images/unlabeled/a.png",
        ]
        assert found["masks belong to no image"] == ["masks/extra.png"]

    @pytest.mark.parametrize("suffix", [".JPG", ".png", ".tif"])
    @pytest.mark.parametrize(
        ("image", "mask", "format"),
        [("images/training", "annotations/training", "ade20k"), ("train", "trainannot", "camvid")],
    )
    def test_every_kind_of_image_in_public_layouts(
        self, tmp_path: Path, suffix: str, image: str, mask: str, format: str
    ) -> None:
        write_image(tmp_path / image / f"a{suffix}", draw_shapes(_rng())[0])
        for name in ("a", "b"):
            write_index(tmp_path / mask / f"{name}.PNG", draw_shapes(_rng())[1])
        index = open_dataset(tmp_path)
        assert index.format == format
        assert [(s.image.name, str(s.mask)) for s in index.samples] == [(f"a{suffix}", str(tmp_path / mask / "a.PNG"))]
        assert self.of(tmp_path) == {"masks belong to no image": [f"{mask}/b.PNG"]}


def test_of_a_data_set_as_further_folder_the_training_images_count(tmp_path: Path) -> None:
    """Its masks are no pictures to learn from, and its evaluation images are to be scored on."""
    root = make_folder(tmp_path / "data", train=3, labeled=2)
    make_folder(tmp_path / "other", train=4, labeled=2, test=2)
    index = open_dataset(root, unlabeled=tmp_path / "other")
    more = [sample.image for sample in index.samples if sample.name.startswith("unlabeled:")]
    assert more == sorted((tmp_path / "other/images").glob("*.png"))
    assert len(more) == 4


@pytest.mark.parametrize("format", ["folder", "camvid"])
def test_another_layout_than_the_one_that_was_asked_for(tmp_path: Path, format: str) -> None:
    WRITERS["voc"][1](tmp_path, make_pictures())
    expected = f"is not laid out as {format}, it looks like voc: leave out --format, or give --format voc"
    with pytest.raises(FileNotFoundError, match=expected):
        open_dataset(tmp_path, format=format)


def test_cityscapes_without_the_masks_of_class_numbers(tmp_path: Path) -> None:
    WRITERS["cityscapes"][1](tmp_path, make_pictures())
    for mask in (tmp_path / "gtFine").rglob("*_labelIds.png"):
        mask.rename(mask.with_name(mask.name.replace("labelIds", "color")))
    expected = (
        r"no \*_gtFine_labelIds\.png and no \*_gtFine_labelTrainIds\.png in .*gtFine, but e\.g\. .*_gtFine_color\.png: make"
    )
    with pytest.raises(ValueError, match=expected):
        open_dataset(tmp_path)
