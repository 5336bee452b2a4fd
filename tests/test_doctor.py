"""The doctor finds what is wrong, names the files, and raises no alarm where nothing is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from make_folder import TINY_MODEL, cut_short, make_folder, write_image, write_index
from make_formats import WRITERS, make_pictures
from PIL import Image, ImageEnhance

from protoseg.arguments import parse_train
from protoseg.cli import main
from protoseg.data.doctor import Finding
from protoseg.data.masks import read_mask
from protoseg.doctor import files_named, overfit_losses
from protoseg.nn.small_unet import SmallUNet


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve training images, six of them labelled, and three test images; all of them different pictures."""
    root = make_folder(tmp_path / "data", train=12, labeled=6, test=3, size=(64, 72), classes=("ground", "square", "disc"))
    for i, path in enumerate(sorted((root / "images").rglob("*.png"))):
        noise = np.random.default_rng(i).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        write_image(path, np.asarray(Image.fromarray(noise).resize((72, 64), Image.Resampling.BICUBIC)))
    return root


def examine(data: Path, *words: str, status: int = 0) -> list[dict[str, Any]]:
    out = data.parent / "doctor.json"
    assert main(["doctor", str(data), *TINY_MODEL, "--crop", "64", "--out", str(out), *words]) == status
    found: list[dict[str, Any]] = json.loads(out.read_text())["findings"]
    for finding in found:
        assert finding["severity"] in {"error", "warning", "note"}
        assert finding["advice"]
        assert bool(finding["files"]) != bool(finding["no_files"]), finding["title"]
    return found


def test_healthy_data_is_ready(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = examine(data)
    assert [f["title"] for f in findings if f["severity"] != "note"] == []
    assert "ready to train: 0 errors, 0 warnings" in capsys.readouterr().out


def test_writes_what_it_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examine(data)
    stored = json.loads((data.parent / "doctor.json").read_text())
    masks = [read_mask(path) for path in sorted((data / "masks").glob("*.png"))]
    assert (stored["labeled"], stored["unlabeled"], stored["evaluation"], stored["format"]) == (6, 6, 3, "folder")
    for value, row in enumerate(stored["classes"]):
        assert row["pixel_share"] == pytest.approx(float(np.mean([(mask == value).mean() for mask in masks])))
        assert row["labeled_images"] == sum((mask == value).any() for mask in masks)
    assert "square" in capsys.readouterr().out


def truncated_image(data: Path) -> Path:
    return cut_short(data / "images/img_01.png")


def truncated_mask(data: Path) -> Path:
    return cut_short(data / "masks/img_01.png")


def other_size(data: Path) -> Path:
    return write_index(data / "masks/img_01.png", np.zeros((72, 64), dtype=np.uint8))


def unknown_value(data: Path) -> Path:
    mask = read_mask(data / "masks/img_01.png").copy()
    mask[:2, :2] = 77
    return write_index(data / "masks/img_01.png", mask)


def unreadable_unlabeled(data: Path) -> Path:
    return cut_short(data / "images/img_09.png")


def leak(data: Path) -> Path:
    Image.open(data / "images/img_08.png").save(data / "images/test/test_02.png")
    return data / "images/test/test_02.png"


def twice_labeled(data: Path) -> Path:
    Image.open(data / "images/img_00.png").save(data / "images/img_05.png")
    return data / "images/img_05.png"


def copy_of_a_labelled_one(data: Path) -> Path:
    Image.open(data / "images/img_00.png").save(data / "images/img_07.png")
    return data / "images/img_07.png"


def saved_again(data: Path) -> Path:
    """Or the next frame: the perceptual hash cannot tell."""
    (data / "images/img_07.png").unlink()
    Image.open(data / "images/img_00.png").save(data / "images/img_07.jpg", quality=60)
    return data / "images/img_07.jpg"


def nearly_twice_labeled(data: Path) -> Path:
    pixels = np.array(Image.open(data / "images/img_00.png"))
    pixels[0, 0] ^= 1
    return write_image(data / "images/img_05.png", pixels)


def picture_of_a_mask_with_white(data: Path) -> Path:
    (data / "classes.txt").unlink()
    for path in (data / "masks").rglob("*.png"):
        write_index(path, np.array([0, 128, 255], dtype=np.uint8)[read_mask(path)])
    return Path()


def nothing_to_score_on(data: Path) -> Path:
    for kind in ("images", "masks"):
        shutil.rmtree(data / kind / "test")
    return Path()


def rare_class(data: Path) -> Path:
    for path in (data / "masks").glob("*.png"):
        write_index(path, np.minimum(read_mask(path), 1))
    mask = read_mask(data / "masks/img_03.png").copy()
    mask[0, 0] = 2
    write_index(data / "masks/img_03.png", mask)
    return data / "images/img_03.png"


def stray_value(data: Path) -> Path:
    """Three pixels that become a class, because nothing says which values are classes."""
    (data / "classes.txt").unlink()
    mask = read_mask(data / "masks/img_02.png").copy()
    mask[1, 4:7] = 254
    return write_index(data / "masks/img_02.png", mask)


def mostly_ignored(data: Path) -> Path:
    for path in (data / "masks").glob("*.png"):
        mask = read_mask(path).copy()
        mask[mask == 0] = 255
        mask[:2] = 0
        write_index(path, mask)
    return Path()


def small_images(data: Path) -> Path:
    for folder in ("images", "masks"):
        path = data / folder / "img_02.png"
        Image.open(path).crop((0, 0, 50, 40)).save(path)
    return data / "images/img_02.png"


def darker(data: Path) -> Path:
    """The last one most."""
    for i in range(6, 12):
        path = data / f"images/img_{i:02d}.png"
        ImageEnhance.Brightness(Image.open(path)).enhance(0.2 if i < 11 else 0.05).save(path)
    return data / "images/img_11.png"


def sixteen_bits(data: Path) -> Path:
    Image.fromarray(np.zeros((64, 72), dtype=np.uint16)).save(data / "images/img_10.png")
    return data / "images/img_10.png"


def picture_of_a_mask(data: Path) -> Path:
    (data / "classes.txt").unlink()
    for path in (data / "masks").rglob("*.png"):
        write_index(path, np.array([0, 100, 200], dtype=np.uint8)[read_mask(path)])
    return Path()


def binary_with_a_stray_mask(data: Path) -> Path:
    for i, path in enumerate(sorted((data / "masks").rglob("*.png"))):
        write_index(path, np.where(read_mask(path) > 0, 1 if i == 0 else 255, 0).astype(np.uint8))
    return Path()


def mask_without_image(data: Path) -> Path:
    return write_index(data / "masks/img_99.png", read_mask(data / "masks/img_00.png"))


def one_class_alone(data: Path) -> Path:
    for path in (data / "masks").glob("*.png"):
        write_index(path, np.zeros((64, 72), dtype=np.uint8))
    return Path()


def nothing_but_ignored(data: Path) -> Path:
    (data / "classes.txt").unlink()
    for path in (data / "masks").rglob("*.png"):
        write_index(path, np.full((64, 72), 255, dtype=np.uint8))
    return Path()


def largest_value(data: Path) -> Path:
    """-1 in 16 bits."""
    (data / "classes.txt").unlink()
    for path in (data / "masks").rglob("*.png"):
        mask = read_mask(path).astype(np.uint16)
        mask[:4] = 65535
        Image.fromarray(mask).save(path)
    return Path()


def image_to_score_on_without_mask(data: Path) -> Path:
    (data / "masks/test/test_01.png").unlink()
    return data / "images/test/test_01.png"


def mirrored(data: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 2
    Image.open(data / "images/img_04.png").save(data / "images/img_04.png", exif=exif)
    return data / "images/img_04.png"


def declared_no_data(data: Path) -> Path:
    path = data / "images/img_03.png"
    image = np.array(Image.open(path))
    image[:9] = 0
    path.unlink()
    tifffile.imwrite(path.with_suffix(".tif"), image, photometric="rgb", extratags=[(42113, "s", 0, "0", True)])
    return path.with_suffix(".tif")


CASES: list[tuple[Callable[[Path], Path], str, str]] = [
    (truncated_image, "error", "cannot be used"),
    (truncated_mask, "error", "cannot be used"),
    (other_size, "error", "not of the image's size"),
    (unknown_value, "error", "no class (77)"),
    (one_class_alone, "error", "hold one class only, the value 0"),
    (nothing_but_ignored, "error", "are ignored (255) everywhere; label some pixels"),
    (image_to_score_on_without_mask, "note", "1 evaluation image has no mask"),
    (unreadable_unlabeled, "warning", "1 unlabelled image cannot be read"),
    (leak, "warning", "1 of 3 evaluation images looks nearly the same"),
    (twice_labeled, "note", "1 pair of labelled images is the same picture"),
    (copy_of_a_labelled_one, "note", "1 unlabelled image is the same picture as a labelled one"),
    (saved_again, "note", "1 unlabelled image looks nearly the same as a labelled one"),
    (nearly_twice_labeled, "note", "1 pair of labelled images looks nearly the same"),
    (picture_of_a_mask_with_white, "warning", "the mask values 0, 128 and 255 are far apart, as in pictures of masks, and 255"),
    (nothing_to_score_on, "note", "there is no image to score on"),
    (rare_class, "warning", "disc is rare: 0.00 % of the labelled pixels, in 1 of 6 images"),
    (stray_value, "warning", "the mask value 254 is probably an error"),
    (largest_value, "warning", "the mask value 65535 is a class of its own, in 6.2 % of the labelled pixels"),
    (mostly_ignored, "warning", "of the labelled pixels are ignored"),
    (small_images, "note", "1 of 12 training images is smaller than the crop (40 < 64 px)"),
    (darker, "warning", "unlabelled images look different"),
    (sixteen_bits, "warning", "1 image has 1 channel of uint16 where 14 have 3 channels of uint8"),
    (binary_with_a_stray_mask, "warning", "255 counts as 'not labelled', but the masks look binary"),
    (mask_without_image, "warning", "1 mask belongs to no image"),
    (mirrored, "warning", "1 image with a mask is turned or mirrored as the EXIF data says"),
    (declared_no_data, "warning", "1 image holds 0, declared as the value for no data"),
    (picture_of_a_mask, "warning", "the mask values 0, 100, 200 are far apart"),
]


@pytest.mark.parametrize(("spoil", "severity", "title"), CASES, ids=[case[0].__name__ for case in CASES])
def test_finds(
    data: Path, spoil: Callable[[Path], Path], severity: str, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoil(data)
    findings = examine(data, status=1 if severity == "error" else 0)
    found = [f for f in findings if title in f["title"]]
    assert len(found) == 1, [f["title"] for f in findings]
    assert found[0]["severity"] == severity
    assert found[0]["advice"]
    if path != Path():
        assert found[0]["files"] == [str(path)] or str(path) in found[0]["title"]
    printed = capsys.readouterr().out
    assert title in printed
    assert ("not ready to train" in printed) == (severity == "error")


def test_the_first_file_is_printed_where_the_sentence_names_none(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = other_size(data)
    examine(data, status=1)
    assert f"the first 64x72 for 72x64 [{path}]\n" in capsys.readouterr().out
    shutil.copy(path, data / "masks/img_02.png")
    examine(data, status=1)
    assert f"the first 64x72 for 72x64 [2 files, the first {path}]\n" in capsys.readouterr().out


def test_without_one_readable_mask_there_is_no_table_of_classes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data / "masks").glob("*.png"):
        cut_short(path)
    findings = examine(data, status=1)
    assert [f["title"][:37] for f in findings if f["severity"] == "error"] == ["6 labelled or evaluation images canno"]
    assert "labelled pixels" not in capsys.readouterr().out
    assert json.loads((data.parent / "doctor.json").read_text())["classes"] == []


def test_a_last_band_that_may_be_transparency_is_said(data: Path) -> None:
    for i, path in enumerate(sorted((data / "images").rglob("*.png"))):
        band = np.random.default_rng(i).integers(0, 256, (64, 72), dtype=np.uint8)
        Image.fromarray(np.dstack([np.asarray(Image.open(path)), band])).save(path)
    (found,) = [f for f in examine(data) if "soft transparency" in f["title"]]
    assert "15 images have 4 channels of uint8" in found["title"]


def test_every_copy_of_a_labelled_image_is_counted(data: Path) -> None:
    for i in (7, 8, 9):
        (data / f"images/img_0{i}.png").unlink()
        Image.open(data / "images/img_00.png").save(data / f"images/img_0{i}.jpg", quality=60)
    (found,) = [f for f in examine(data) if "look nearly the same as a labelled one" in f["title"]]
    copies = [str(data / f"images/img_0{i}.jpg") for i in (7, 8, 9)]
    original = str(data / "images/img_00.png")
    assert found["files"] == [copies[0], original, *copies[1:]]
    assert found["details"] == [f"{copy} ~ {original}" for copy in copies]
    assert "remove" not in found["advice"]


@pytest.mark.parametrize("spoil", [leak, twice_labeled, copy_of_a_labelled_one])
def test_of_pictures_that_stand_twice_both_are_named(data: Path, spoil: Callable[[Path], Path]) -> None:
    changed = str(spoil(data))
    found = [f for f in examine(data) if any(" = " in detail for detail in f["details"])]
    assert len(found) == 1
    (detail,) = found[0]["details"]
    assert detail.split(" = ") == found[0]["files"]
    assert len(found[0]["files"]) == 2
    assert changed in found[0]["files"]


def test_of_looking_alike_nothing_is_called_the_same_picture(data: Path) -> None:
    saved_again(data)
    nearly_twice_labeled(data)
    assert not [f for f in examine(data) if "the same picture" in f["title"]]


def test_many_rare_classes_are_one_finding(data: Path) -> None:
    (data / "classes.txt").write_text("ground\nsquare\ndisc\n" + "".join(f"c{i}\n" for i in range(23)))
    for count, titles in ((3, ["c0 is rare", "c1 is rare", "c2 is rare"]), (23, ["23 of 26 classes are rare"])):
        mask = read_mask(data / "masks/img_01.png").copy()
        mask[0] = 0
        mask[0, :count] = np.arange(3, 3 + count)
        write_index(data / "masks/img_01.png", mask)
        found = [f for f in examine(data) if " rare" in f["title"]]
        assert [f["title"][: len(t)] for f, t in zip(found, titles, strict=True)] == titles
    assert "images of 6): c0 0.00 % in 1, c1 0.00 % in 1, " in found[0]["title"]
    assert found[0]["title"].endswith("c19 0.00 % in 1 and 3 more")
    assert found[0]["files"] == [str(data / "images/img_01.png")]
    assert found[0]["details"] == [f"c{i} 0.00 % in 1" for i in range(23)]


def test_no_doubt_about_what_the_settings_ignore(data: Path) -> None:
    def said(*words: str) -> list[str]:
        return [f["title"] for f in examine(data, *words) if "labelled pixels are ignored" in f["title"]]

    assert said("--classes.ignore", "[disc]") == said() == []
    path = data / "masks/img_01.png"
    mask = read_mask(path).copy()
    mask[:32] = 255
    write_index(path, mask)
    assert said() == ["8.3 % of the labelled pixels are ignored"]  # half of one mask of six
    assert said("--classes.ignore", "[disc]") == ["8.3 % of the labelled pixels are ignored besides what the settings ignore"]


def test_nor_about_a_background_that_the_settings_ignore(data: Path) -> None:
    (data / "classes.txt").write_text("background\nsquare\ndisc\n")
    titles = [f["title"] for f in examine(data, "--classes.background", "ignore")]
    assert not [title for title in titles if "labelled pixels are ignored" in title]


def test_greys_of_a_picture_are_doubted_only_without_names(data: Path) -> None:
    picture_of_a_mask_with_white(data)
    named = ("--classes.names", "[a, b]", "--classes.ids", "[0, 128]")
    assert not [f for f in examine(data, *named) if "far apart" in f["title"]]
    for path in (data / "masks").rglob("*.png"):  # VOC's numbers of background and person, as a few of its masks hold them
        mask = read_mask(path).copy()
        mask[mask == 128] = 15
        write_index(path, mask)
    assert not [f for f in examine(data) if "far apart" in f["title"]]


def test_the_headline_counts_as_the_table_does(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examine(data)
    assert "6 labelled, 6 unlabelled, 3 evaluation images\n" in capsys.readouterr().out
    for kind in ("images", "masks"):
        (data / kind / "val").mkdir()
        shutil.copy(data / kind / "test/test_00.png", data / kind / "val/val_00.png")
    examine(data)
    said = "4 evaluation images (3 test + 1 val; training scores on test)"
    assert said in " ".join(capsys.readouterr().out.split())


def test_train_says_before_it_that_nothing_is_scored(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(data), *TINY_MODEL, "--steps", "2", "--batch", "2", "--crop", "32", "--workers", "0", "--dry-run"]
    assert main(["train", *words]) == 0
    assert "no image to score on" not in capsys.readouterr().out
    nothing_to_score_on(data)
    assert main(["train", *words]) == 0
    assert "there is no image to score on, so the training will end without mIoU" in capsys.readouterr().out


def test_a_class_that_fills_much_of_few_images_is_not_rare(data: Path) -> None:
    """And an image that cannot be read is none that lacks it."""
    for i in range(6):
        if i < 3:
            write_index(data / f"masks/img_0{i}.png", np.resize(np.array([0, 0, 2 if i else 1], dtype=np.uint8), (64, 72)))
        else:
            (data / f"masks/img_0{i}.png").unlink()
    assert [f["title"] for f in examine(data) if "is rare" in f["title"]] == []
    cut_short(data / "masks/img_02.png")
    assert [f["title"] for f in examine(data, status=1) if "is rare" in f["title"]] == []


def test_every_mask_is_listed_with_value_and_pixels(data: Path) -> None:
    paths = [data / f"masks/img_0{i}.png" for i in (1, 2)]
    for value, path in zip((77, 78), paths, strict=True):
        mask = read_mask(path).copy()
        mask[0, :value] = value
        write_index(path, mask)
    (found,) = [f for f in examine(data, status=1) if "no class" in f["title"]]
    assert found["details"] == [f"{paths[0]}: 77 in 72 pixels", f"{paths[1]}: 78 in 72 pixels"]


@pytest.mark.parametrize("with_colors", [False, True])
def test_colors_under_a_list_of_names(data: Path, with_colors: bool) -> None:
    for path in (data / "masks").rglob("*.png"):
        write_image(path, np.array([[0, 0, 0], [200, 30, 0], [0, 0, 255]], dtype=np.uint8)[read_mask(path)])
    (data / "classes.txt").write_text(
        "ground #000000\nsquare #c81e00\ndisc #0000ff\n" if with_colors else "ground\nsquare\ndisc\n"
    )
    found = [f["advice"] for f in examine(data, status=0 if with_colors else 1) if "no class" in f["title"]]
    hint = "the masks hold colours and the class list none: write them into it (`ground R G B` and so on)"
    assert found == ([] if with_colors else [hint])


@pytest.mark.parametrize(("shift", "is_said"), [(1, True), (2, False)])
def test_masks_that_count_from_one(data: Path, shift: int, is_said: bool) -> None:
    for path in (data / "masks").rglob("*.png"):
        write_index(path, read_mask(path) + np.uint8(shift))
    (found,) = [f for f in examine(data, status=1) if "no class" in f["title"]]
    assert ("the masks count from 1" in found["advice"]) == is_said
    if is_said:
        (data / "classes.txt").write_text("1 ground\n2 square\n3 disc\n")  # as it says
        assert not any("no class" in f["title"] for f in examine(data))


def test_the_share_of_ignored_pixels_is_always_said(data: Path) -> None:
    mask = read_mask(data / "masks/img_01.png").copy()
    mask[:32] = 255
    write_index(data / "masks/img_01.png", mask)
    (found,) = [f for f in examine(data) if "pixels are ignored" in f["title"]]
    assert found["severity"] == "note"
    assert found["title"].startswith("8.3 %")
    assert found["files"] == [str(data / "masks/img_01.png")]
    stored = json.loads((data.parent / "doctor.json").read_text())
    assert stored["ignored_share"] == pytest.approx(1 / 12)
    assert stored["ignored_share_of"] == {str(data / f"images/img_0{i}.png"): 0.5 * (i == 1) for i in range(6)}


def test_pixels_of_unknown_values_are_not_ignored_ones(data: Path) -> None:
    unknown_value(data)
    assert not any("pixels are ignored" in f["title"] for f in examine(data, status=1))
    assert json.loads((data.parent / "doctor.json").read_text())["ignored_share"] == 0


def test_the_images_that_look_most_different_come_first(data: Path) -> None:
    darker(data)
    (found,) = [f for f in examine(data) if "look different" in f["title"]]
    assert found["files"][0] == str(data / "images/img_11.png")
    assert set(found["files"]) <= {str(data / f"images/img_{i:02d}.png") for i in range(6, 12)}


@pytest.mark.parametrize(("dtype", "scale"), [("uint16", 10), ("float32", 1e-4)])
@pytest.mark.parametrize("factor", [1.0, 0.2])
def test_brightness_of_other_images_than_photographs(data: Path, dtype: str, scale: float, factor: float) -> None:
    """They may fill any part of their type's scale. The fourth channel of the unlabelled ones is darker, or nothing is."""
    for i, path in enumerate(sorted((data / "images").rglob("*.png"))):
        photo = np.asarray(Image.open(path)).astype(np.float64)
        bands = scale * np.dstack([photo, photo[..., :1] * (factor if 6 <= i < 12 else 1)])
        tifffile.imwrite(path.with_suffix(".tif"), bands.astype(dtype), photometric="minisblack", planarconfig="contig")
        path.unlink()
    found = [f["title"] for f in examine(data) if "look different" in f["title"]]
    assert len(found) == (factor < 1)
    assert all("their mean of channel 4 is" in title for title in found)


def test_a_finding_names_files_or_says_why_not() -> None:
    with pytest.raises(ValueError, match="too dark"):
        Finding("note", "too dark", "light it")
    with pytest.raises(ValueError, match="too dark"):
        Finding("note", "too dark", "light it", ("a.png",), no_files="it is dark")


def test_a_class_without_labels_that_is_scored(data: Path) -> None:
    for path in (data / "masks").glob("*.png"):
        write_index(path, np.minimum(read_mask(path), 1))
    (found,) = [f for f in examine(data) if "no labelled image holds disc" in f["title"]]
    assert found["severity"] == "warning"
    holding = [path for path in sorted((data / "masks/test").iterdir()) if (read_mask(path) == 2).any()]
    assert found["files"] == [str(data / "images/test" / path.name) for path in holding]
    assert f"{len(holding)} evaluation images do, e.g. {found['files'][0]}" in found["title"]


def test_a_class_that_no_image_shows(data: Path) -> None:
    (data / "classes.txt").write_text("ground\nsquare\ndisc\nstar\n")
    (found,) = [f for f in examine(data) if "no labelled image holds star" in f["title"]]
    assert (found["severity"], found["files"]) == ("note", [])
    assert found["no_files"] == "no image with a mask holds these classes"


def test_many_classes_that_no_image_shows_are_one_finding(data: Path) -> None:
    (data / "classes.txt").write_text("ground\nsquare\ndisc\n" + "\n".join(f"c{i}" for i in range(7)))
    (found,) = [f for f in examine(data) if "no labelled image holds" in f["title"]]
    assert found["title"] == "no labelled image holds c0, c1, c2, c3, c4 and 2 more"


def test_nothing_unlabeled(data: Path) -> None:
    for path in [*(data / "images").glob("*.png")]:
        if not (data / "masks" / path.name).is_file():
            path.unlink()
    (found,) = [f for f in examine(data) if "no unlabelled images" in f["title"]]
    assert (found["severity"], found["files"]) == ("warning", [])


def a_class_of_255(data: Path) -> tuple[Sequence[str], list[Path]]:
    for path in (data / "masks").rglob("*.png"):
        write_index(path, np.array([0, 1, 255], dtype=np.uint8)[read_mask(path)])
    words = ["--classes.names", "[ground, square, disc]", "--classes.ids", "[0, 1, 255]"]
    return words, [path for path in (data / "masks").rglob("*.png") if (read_mask(path) == 255).any()]


def nothing_labelled(data: Path) -> tuple[Sequence[str], list[Path]]:
    return [], [write_index(data / "masks/img_02.png", np.full((64, 72), 255, dtype=np.uint8))]


def zero_and_255_ignored(data: Path) -> tuple[Sequence[str], list[Path]]:
    path = data / "masks/img_01.png"
    write_index(path, np.where(read_mask(path) == 2, 255, read_mask(path)).astype(np.uint8))
    return ["--classes.ignore", "[ground]"], [data / f"masks/img_0{i}.png" for i in range(6)]


def far_apart(data: Path) -> tuple[Sequence[str], list[Path]]:
    picture_of_a_mask(data)
    return [], sorted((data / "masks").glob("*.png")) + sorted((data / "masks/test").glob("*.png"))


def stray(data: Path) -> tuple[Sequence[str], list[Path]]:
    binary_with_a_stray_mask(data)
    return [], [data / "masks/img_00.png"]


def large_images(data: Path) -> tuple[Sequence[str], list[Path]]:
    return ["--crop", "8"], sorted(data.glob("images/*.png"))  # those of test/ are never cropped


@pytest.mark.parametrize(
    ("change", "title"),
    [
        (a_class_of_255, "the mask value 255 is a class here"),
        (nothing_labelled, "1 labelled mask is ignored everywhere"),
        (zero_and_255_ignored, "both 0 and 255 are ignored"),
        (far_apart, "are far apart"),
        (stray, "look binary"),
        (large_images, "more than four times as large"),
    ],
)
def test_files_of_findings_on_the_whole(
    data: Path, change: Callable[[Path], tuple[Sequence[str], list[Path]]], title: str
) -> None:
    words, files = change(data)
    (found,) = [f for f in examine(data, *words) if title in f["title"]]
    assert set(found["files"]) == set(map(str, files))


def test_no_mask_of_an_unlabelled_image_is_opened(data: Path) -> None:
    (data / "list.txt").write_text("img_00\nimg_01\nimg_02\n")
    for i in (3, 4, 5):
        (data / f"masks/img_{i:02d}.png").write_text("no image")
    assert not any(f["severity"] == "error" for f in examine(data, "--labels", str(data / "list.txt")))


def test_masks_without_a_table_are_a_finding(data: Path) -> None:
    write_image(data / "masks/img_00.png", np.array(Image.open(data / "images/img_00.png")))
    (data / "classes.txt").unlink()
    (found,) = [f for f in examine(data, status=1) if f["severity"] == "error"]
    assert "different values" in found["title"]
    assert found["files"] == [str(data / "masks/img_00.png")]


def test_the_files_that_a_sentence_happens_to_name_are_not_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mask in (data / "masks").glob("*.png"):
        mask.rename(mask.with_name(f"{mask.stem}_mask.png"))
    (found,) = examine(data, status=1)
    assert len(found["files"]) == 2  # the first mask, and the image that it may be of; all six are meant
    assert "files]" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["nowhere"], ["--stpes", "3"], ["--labels", "no.txt"], ["--unlabeled", "no"]])
def test_nothing_to_examine(data: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = words if words == ["nowhere"] else [str(data), *words]
    assert main(["doctor", *arguments, "--out", str(tmp_path / "x.json")]) == 2
    assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(("out", "said"), [("no/x.json", "there is no folder"), ("data", "is a folder; give another file")])
def test_where_nothing_can_be_written_nothing_is_read(
    data: Path, tmp_path: Path, out: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("protoseg.doctor.examine", lambda *_, **__: pytest.fail("read"))
    assert main(["doctor", str(data), *TINY_MODEL, "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert f"--out {tmp_path / out}" in error
    assert said in error
    assert "Errno" not in error


class TestFilesNamed:
    def test_in_their_order_each_once(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("my photos/b.json", "my photos/a.png", "list.txt")]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        text = f"{paths[2]}, line 3: {paths[0]} is like {paths[1]}; see {paths[0]}. Not {tmp_path / 'gone.png'}"
        assert files_named(text, [str(tmp_path)]) == tuple(map(str, [paths[2], paths[0], paths[1]]))
        assert files_named(text, [str(tmp_path / "my photos"), str(paths[2])]) == files_named(text, [str(tmp_path)])
        assert files_named(text, [str(tmp_path / "other")]) == ()

    def test_the_longer_of_two(self, tmp_path: Path) -> None:
        for name in ("a.png", "a.png.txt"):
            (tmp_path / name).write_text("")
        assert files_named(f"look at {tmp_path}/a.png.txt {'x' * 9000}", [str(tmp_path)]) == (f"{tmp_path}/a.png.txt",)


class TestOverfit:
    def test_weights_that_are_missing_leave_the_report(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out, network = data.parent / "doctor.json", ["--model.arch", "fpn", "--model.encoder", "resnet18"]
        words = ["doctor", str(data), *network, "--model.weights", "no/such.pth", "--crop", "64", "--out", str(out)]
        assert main([*words, "--overfit"]) == 1
        findings = json.loads(out.read_text())["findings"]
        (found,) = [f for f in findings if f["severity"] == "error"]
        assert found["title"].startswith("--overfit was not tried, because no training can begin: there is no weights file no/")
        assert any("GiB" in f["title"] for f in findings)
        assert "not ready to train: 1 error" in capsys.readouterr().out

    def test_errors_are_to_be_mended_first(self, data: Path) -> None:
        unknown_value(data)
        (found,) = [f for f in examine(data, "--overfit", status=1) if "overfit" in f["title"]]
        assert found["title"] == "--overfit was not tried, because of the errors"

    def test_one_image_is_learned_by_heart(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        findings = examine(data, "--overfit", "--model.width", "16")
        (found,) = [f for f in findings if "on one crop of" in f["title"]]
        assert found["severity"] == "note", found["title"]

    def test_what_cannot_learn_is_said(self) -> None:
        """Two equal images with opposite masks."""
        torch.manual_seed(0)
        image = torch.randn(1, 3, 32, 32).repeat(2, 1, 1, 1)
        mask = torch.stack([torch.zeros(32, 32), torch.ones(32, 32)]).long()
        losses = overfit_losses(SmallUNet(2, width=8), image, mask, steps=30)
        assert losses[-1] > 0.6
        same = overfit_losses(SmallUNet(2, width=8), image, mask[:1].repeat(2, 1, 1))
        assert same[-1] < 0.1


class TestMemory:
    def test_the_count_without_numbers_is_that_with_numbers(self) -> None:
        from protoseg.doctor import saved_bytes

        network = SmallUNet(3, width=8).train()
        real = saved_bytes(network, torch.randn(2, 3, 64, 64))
        assert saved_bytes(SmallUNet(3, width=8).to("meta").train(), torch.zeros(2, 3, 64, 64, device="meta")) == real
        assert saved_bytes(network, torch.randn(4, 3, 64, 64)) > 1.7 * real

    def test_grows_with_crop_and_batch(self, data: Path) -> None:
        def needed(*words: str) -> float:
            (found,) = [f for f in examine(data, *words) if "GiB" in f["title"]]
            return float(found["title"].split("needs about ")[1].split()[0])

        wide = ("--model.width", "64", "--batch", "64")
        assert needed(*wide, "--crop", "256") > 3 * needed(*wide, "--crop", "128") > 0
        assert needed(*wide, "--crop", "256") > needed("--model.width", "64", "--batch", "16", "--crop", "256")

    def test_counts_every_network_and_view_of_the_method(self, data: Path) -> None:
        def needed(method: str) -> tuple[str, float]:
            words = ("--method", method, "--batch", "8", "--model.width", "64", "--crop", "768")
            (found,) = [f for f in examine(data, *words) if "GiB" in f["title"]]
            return found["title"].split(" of ")[1].split()[0], float(found["title"].split("needs about ")[1].split()[0])

        needs = {method: needed(method) for method in ("supervised", "fixmatch", "unimatch", "cps")}
        crops = {method: count for method, (count, _) in needs.items()}
        assert crops == {"supervised": "8", "fixmatch": "16", "unimatch": "24", "cps": "32"}
        first, *others = (gibibytes for _, gibibytes in needs.values())
        assert [other / first for other in others] == pytest.approx([2, 3, 4], rel=0.1)

    def test_counts_the_snapshots_of_prevmatch(self, data: Path) -> None:
        (found,) = [f for f in examine(data, "--method", "prevmatch") if "GiB" in f["title"]]
        assert "10 copies of them" in found["title"]  # student, teacher and eight earlier states


def test_train_says_the_cheap_part(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rare_class(data)
    words = [str(data), *TINY_MODEL, "--steps", "2", "--batch", "2", "--crop", "32", "--workers", "0"]
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 0
    assert "warning: disc is rare" in capsys.readouterr().out


def test_so_it_says_a_stray_value(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stray_value(data)
    words = [str(data), *TINY_MODEL, "--steps", "2", "--batch", "2", "--crop", "32", "--workers", "0"]
    assert main(["train", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"warning: the mask value 254 is probably an error: {path} holds it in 3 pixels, and it becomes a class" in said
    assert "class 254 is rare" not in said  # once is enough


@pytest.mark.parametrize(("pixels", "masks", "named"), [(30, 1, False), (3, 1, True), (20, 6, False)])
def test_a_small_class_is_no_stray_value(data: Path, pixels: int, masks: int, named: bool) -> None:
    """More than a handful of pixels, a name, or a share of all that is more than a slip."""
    names = (data / "classes.txt").read_text()
    (data / "classes.txt").unlink()
    if named:
        (data / "classes.txt").write_text(names.rstrip() + "\nball\n")
    for i in range(masks):
        mask = read_mask(data / f"masks/img_0{i}.png").copy()
        mask[1, :pixels] = 3
        write_index(data / f"masks/img_0{i}.png", mask)
    assert not any("probably an error" in finding["title"] for finding in examine(data))


def test_settings_of_train_count(data: Path) -> None:
    assert parse_train([str(data), "--classes.ignore", "[disc]"]).classes.ignore == ["disc"]
    rare_class(data)
    assert not any("disc" in f["title"] for f in examine(data, "--classes.ignore", "[disc]"))


def test_both_evaluation_parts_are_read(data: Path) -> None:
    """A broken file of `val` comes to light although `test` is what is scored."""
    for kind in ("images", "masks"):
        (data / kind / "val").mkdir()
        shutil.copy(data / kind / "test/test_00.png", data / kind / "val/val_00.png")
    cut_short(data / "images/val/val_00.png")
    (broken,) = [finding for finding in examine(data, status=1) if finding["severity"] == "error"]
    assert broken["files"] == [str(data / "images/val/val_00.png")]


def test_a_broken_annotation_file_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the images cannot be listed the verdict says why, and doctor.json is there."""
    root = tmp_path / "data"
    WRITERS["labelme"][1](root, make_pictures())
    broken = next(iter(sorted(root.rglob("*.json"))))
    broken.write_text(broken.read_text()[:-20])
    (found,) = examine(root, status=1)
    assert found["severity"] == "error"
    assert str(broken) in found["title"]
    assert found["files"] == [str(broken)]
    assert "not ready to train" in capsys.readouterr().out


def test_a_drive_that_does_not_answer_is_a_finding(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(5, "Input/output error", str(data / "images"))

    monkeypatch.setattr("protoseg.doctor.build_partition", fail)
    (found,) = examine(data, status=1)
    assert found["severity"] == "error"
    assert str(data / "images") in found["title"]


def test_a_folder_that_is_missing_is_a_finding_like_any_other(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One style and one status, whatever is wrong with the data."""
    shutil.rmtree(data / "masks")
    (found,) = examine(data, status=1)
    assert f"{data} has no masks/ folder" in found["title"]
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"error: {found['title']}\n    try: {found['advice']}\n" in captured.out
    assert "not ready to train: 1 error, 0 warnings, 0 notes" in captured.out


def test_a_mask_that_keeps_the_holdout_from_being_drawn(data: Path) -> None:
    """It is a finding among all others."""
    cut_short(data / "masks/img_01.png")
    shutil.rmtree(data / "images/test")
    shutil.rmtree(data / "masks/test")
    findings = examine(data, "--holdout", "1/3", status=1)
    first, second = (finding["title"] for finding in findings if finding["severity"] == "error")
    assert first.startswith("the images to keep back cannot be drawn")
    assert second.startswith("1 labelled or evaluation image cannot be used")
    assert "img_01.png" in first
    assert findings[0]["files"] == [str(data / "masks/img_01.png")]
