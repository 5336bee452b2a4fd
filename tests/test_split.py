"""Drawing lists of labelled images, and finding pictures that training and evaluation share."""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_folder import Pixels, draw_shapes, make_folder, write_image, write_index
from make_formats import WRITERS, make_pictures
from PIL import Image, ImageFilter

from protoseg.arguments import parse_train
from protoseg.cli import main
from protoseg.data.duplicates import Look, find_doubles, look_at, look_at_all, near_pairs, perceptual_hash
from protoseg.data.formats import open_dataset
from protoseg.data.splits import make_partition
from protoseg.files import append_text, write_text


def photo(seed: int, size: tuple[int, int] = (90, 120)) -> Pixels:
    """Smooth random light and dark, as photographs have."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))


def flat(grey: int) -> Pixels:
    return np.full((30, 40, 3), grey, dtype=np.uint8)


def sky(brightest: int) -> Pixels:
    """Nothing changes from left to right."""
    rows = np.linspace(0, brightest, 30).astype(np.uint8)
    return np.broadcast_to(rows[:, None, None], (30, 40, 3)).copy()


def seen(hashes: dict[str, int]) -> dict[str, Look]:
    """Different pictures with these perceptual hashes."""
    return {name: Look(name.encode(), value) for name, value in hashes.items()}


def split(root: Path, *words: str) -> Path:
    assert main(["split", str(root), *words]) == 0
    return root


def test_names_and_recipes_are_utf_8_whatever_the_machine_takes_for_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, or in a container without a locale."""
    root = make_folder(tmp_path / "data", train=3, labeled=None)
    for part in ("images", "masks"):
        (root / part / "img_00.png").rename(root / part / "Größe.png")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("crop: 32  # für Bilder\n", encoding="utf-8")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, _=2: "ascii" if encoding is None else encoding)
    with pytest.raises(UnicodeEncodeError):
        (tmp_path / "x.txt").write_text("Größe")
    (found,) = (split(root, "--labels", "3") / "splits").glob("*.txt")
    assert len(make_partition(open_dataset(root), labels=str(found)).labeled) == 3
    assert parse_train(["data", "--recipe", str(recipe)]).crop == 32
    write_text(tmp_path / "metrics.csv", "Größe")
    append_text(tmp_path / "metrics.csv", "n\n")
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "Größen\n"


class TestDraw:
    @pytest.mark.parametrize("words", [("--labels", "1/4"), ("--labels", "3"), ("--labels", "1/4", "--balanced")])
    def test_writes_a_list_that_train_reads(
        self, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = split(make_folder(tmp_path, train=12, labeled=None), *words)
        found = list((root / "splits").glob("*.txt"))
        assert len(found) == 1
        partition = make_partition(open_dataset(root), labels=str(found[0]))
        assert len(partition.labeled) == 3
        printed = capsys.readouterr().out
        assert partition.hash in printed
        assert f"--labels {found[0]}" in printed

    @pytest.mark.parametrize("balanced", [[], ["--balanced"]])
    def test_draws_of_one_seed_are_nested_and_others_differ(self, tmp_path: Path, balanced: list[str]) -> None:
        root = make_folder(tmp_path, train=24, labeled=None)

        @functools.cache
        def drawn(labels: str, seed: int) -> set[str]:
            out = tmp_path / f"{labels.replace('/', '_')}-{seed}.txt"
            split(root, "--labels", labels, "--seed", str(seed), "--out", str(out), *balanced)
            return set(out.read_text().split())

        assert drawn("1/8", 0) < drawn("1/4", 0) < drawn("1/2", 0) == drawn("12", 0)
        assert drawn("1/4", 1) != drawn("1/4", 0)

    def test_a_balanced_draw_finds_rare_classes(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, train=40, labeled=None)
        for i in range(40):
            values = [0, 1] if i not in (11, 29) else [0, 5 if i == 11 else 6]
            write_index(root / f"masks/img_{i:02d}.png", np.resize(np.array(values, dtype=np.uint8), (40, 48)))
        for seed in range(3):
            out = tmp_path / f"{seed}.txt"
            split(root, "--labels", "3", "--seed", str(seed), "--balanced", "--out", str(out))
            assert {"img_11", "img_29"} < set(out.read_text().split())

    def test_a_balanced_draw_takes_each_class_about_equally_often(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, train=60, labeled=None)
        for i in range(60):
            value = 0 if i < 50 else 1 if i < 56 else 2
            write_index(root / f"masks/img_{i:02d}.png", np.full((40, 48), value, dtype=np.uint8))
        split(root, "--labels", "12", "--balanced", "--out", str(tmp_path / "list.txt"))
        numbers = [int(name[4:]) for name in (tmp_path / "list.txt").read_text().split()]
        assert Counter(0 if n < 50 else 1 if n < 56 else 2 for n in numbers) == {0: 4, 1: 4, 2: 4}

    @pytest.mark.parametrize("seed", range(4))
    def test_a_balanced_draw_takes_images_that_bring_most_classes(self, tmp_path: Path, seed: int) -> None:
        """Two images hold all four classes, five more hold one each: two are enough."""
        root = make_folder(tmp_path, train=7, labeled=None)
        for i, values in enumerate(([0, 1], [2, 3], [0], [1], [2], [3], [0])):
            write_index(root / f"masks/img_{i:02d}.png", np.resize(np.array(values, dtype=np.uint8), (40, 48)))
        split(root, "--labels", "2", "--seed", str(seed), "--balanced", "--out", str(tmp_path / "list.txt"))
        assert set((tmp_path / "list.txt").read_text().split()) == {"img_00", "img_01"}

    def test_classes_that_find_no_place_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """By their names where there are some; values that are ignored are not missed."""
        root = make_folder(tmp_path, train=3, labeled=None, classes=("road", "car", "pole"))
        for i, value in enumerate((0, 1, 255)):
            write_index(root / f"masks/img_{i:02d}.png", np.full((40, 48), value, dtype=np.uint8))
        split(root, "--labels", "1", "--balanced", "--out", str(tmp_path / "list.txt"))
        assert "missing: car. Take more --labels" in capsys.readouterr().out
        split(root, "--labels", "3", "--balanced", "--out", str(tmp_path / "all.txt"))
        (root / "classes.txt").unlink()
        write_index(root / "masks/img_02.png", np.full((40, 48), 7, dtype=np.uint8))
        split(root, "--labels", "1", "--balanced", "--out", str(tmp_path / "second.txt"))
        assert "missing: mask value 1, mask value 7. Take" in capsys.readouterr().out

    def test_within_an_earlier_list(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, train=12, labeled=None)
        (tmp_path / "first.txt").write_text("img_01\nimg_03\nimg_05\nimg_07\n")
        split(root, "--labels", "1/2", "--within", str(tmp_path / "first.txt"), "--out", str(tmp_path / "second.txt"))
        second = set((tmp_path / "second.txt").read_text().split())
        assert len(second) == 2
        assert second < {"img_01", "img_03", "img_05", "img_07"}

    def test_how_an_earlier_list_was_read_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """As `train` does: the second word of a line names masks of another copy."""
        WRITERS["voc, augmented"][1](tmp_path / "data", make_pictures())
        (tmp_path / "first.txt").write_text("JPEGImages/scene_1.png SegmentationClass/scene_1.png\nscene_2\n")
        words = ("--labels", "1", "--within", str(tmp_path / "first.txt"), "--out", str(tmp_path / "second.txt"))
        split(tmp_path / "data", *words)
        assert f"note: 1 line of {tmp_path / 'first.txt'} names a mask that is not read" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--labels", "13"], "12 images with a mask are there"),
            (["--labels", "3/2"], "not a fraction"),
            (["--labels", "some"], "neither a number nor a fraction"),
            (["--labels", "1/4", "--within", "nowhere.txt"], "nowhere.txt"),
        ],
    )
    def test_what_cannot_be_drawn(
        self, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = make_folder(tmp_path, train=12, labeled=None)
        assert main(["split", str(root), *words]) == 2
        assert message in capsys.readouterr().err
        assert not (root / "splits").exists()

    def test_a_list_is_never_overwritten(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = split(make_folder(tmp_path, train=12, labeled=None), "--labels", "1/4")
        (path,) = (root / "splits").glob("*.txt")
        before = path.read_text()
        assert main(["split", str(root), "--labels", "1/4"]) == 2
        assert str(path) in capsys.readouterr().err
        assert path.read_text() == before


class TestDuplicates:
    @pytest.mark.parametrize("seed", range(20))
    def test_a_copy_is_near_and_another_picture_is_not(self, seed: int) -> None:
        image = Image.fromarray(photo(seed))
        own = {"own": look_at(np.asarray(image))}
        saved = io.BytesIO()
        image.save(saved, "JPEG", quality=40)
        changed = {
            "smaller": image.resize((70, 50)),
            "blurred": image.filter(ImageFilter.GaussianBlur(1)),
            "brighter": image.point(lambda value: min(255, int(1.15 * value))),
            "saved again": Image.open(saved),
        }
        copies = {name: look_at(np.asarray(other)) for name, other in changed.items()}
        others = {f"other {i}": look_at(photo(1000 + 20 * seed + i)) for i in range(20)}
        found = near_pairs(copies | others, own)
        assert {pair.first for pair in found} == set(changed)

    def test_counts_the_bits_that_differ(self) -> None:
        rng = np.random.default_rng(0)
        first = {f"a{i}": int(value) for i, value in enumerate(rng.integers(0, 2**64, 9, dtype=np.uint64))}
        second = {f"b{i}": value ^ (2**i - 1) for i, value in enumerate(first.values())}
        slow = [min((((x ^ y).bit_count(), b) for b, y in second.items())) for x in first.values()]
        expected = [(a, b, bits) for a, (bits, b) in zip(first, slow, strict=True) if bits <= 5]
        found = near_pairs(seen(first), seen(second))
        assert sorted(found) == sorted(expected)
        assert [pair.bits for pair in found] == [0, 1, 2, 3, 4, 5]

    def test_an_image_is_no_copy_of_itself(self) -> None:
        assert near_pairs(seen({"a": 5, "b": 5}), seen({"a": 5})) == [("b", "a", 0)]
        assert near_pairs({}, seen({"a": 5})) == near_pairs(seen({"a": 5}), {}) == []
        assert near_pairs({"a": look_at(flat(90))}, {"a": look_at(flat(90))}) == []

    @pytest.mark.parametrize("picture", [flat, sky])
    def test_copies_are_found_however_flat_and_others_are_not(self, picture: Callable[[int], Pixels]) -> None:
        assert perceptual_hash(picture(90)) is None
        stock = {f"{grey}": look_at(picture(grey)) for grey in (80, 89, 90, 91, 92)}
        assert near_pairs({"copy": look_at(picture(90))}, stock) == [("copy", "90", 0)]
        assert near_pairs({"taller": look_at(np.tile(picture(90), (2, 1, 1)))}, stock) == []

    def test_the_copy_comes_before_what_only_looks_alike(self) -> None:
        stock = {"alike": Look(b"0", 5), "copy": Look(b"1", 5)}
        assert near_pairs({"own": Look(b"1", 5)}, stock) == [("own", "copy", 0)]

    def test_every_further_copy_among_the_labelled_is_counted(self) -> None:
        looks = {name: look_at(flat(7)) for name in "cab"} | {"d": look_at(photo(0))}
        twice = find_doubles(labeled=looks, unlabeled={}, evaluation={}).labeled
        assert twice == [("b", "a", 0), ("c", "a", 0)]

    def test_only_equal_pixels_are_a_copy(self) -> None:
        """Frames of a camera that stands still often have one hash."""
        labeled = {"a": Look(b"0", 5), "b": Look(b"1", 2**63), "c": Look(b"2", 5)}
        unlabeled = {"copy": Look(b"1", 2**63), "frame": Look(b"3", 4), "other": Look(b"4", 2**33 - 1)}
        found = find_doubles(labeled=labeled, unlabeled=unlabeled, evaluation={})
        assert (found.labeled, found.alike_labeled) == ([], [("c", "a", 0)])
        assert (found.unlabeled, found.alike_unlabeled) == ([("copy", "b", 0)], [("frame", "a", 1)])

    def test_unreadable_pictures_are_left_out(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path, train=3, labeled=1)
        (root / "images/img_02.png").write_text("no image")
        assert sorted(look_at_all(open_dataset(root).samples)) == ["img_00", "img_01"]

    def test_a_leak_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = make_folder(tmp_path, train=8, labeled=None, test=2)
        for i, path in enumerate(sorted((root / "images").rglob("*.png"))):
            write_image(path, photo(i))
            write_index(root / "masks" / path.relative_to(root / "images"), draw_shapes(np.random.default_rng(i), (90, 120))[1])
        split(root, "--labels", "2", "--out", str(tmp_path / "a.txt"))
        assert "warning" not in capsys.readouterr().out
        Image.fromarray(photo(3)).save(root / "images/test/test_01.png")  # the fourth training image, under another name
        split(root, "--labels", "2", "--out", str(tmp_path / "b.txt"))
        printed = capsys.readouterr().out
        assert "1 evaluation image looks nearly the same" in printed
        assert "test_01.png" in printed
        assert "img_03.png" in printed

    def test_a_flat_leak_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = make_folder(tmp_path, train=6, labeled=None, test=2, size=(30, 40))
        write_image(root / "images/img_03.png", sky(200))
        write_image(root / "images/test/test_01.png", sky(200))
        split(root, "--labels", "2", "--out", str(tmp_path / "a.txt"))
        assert "1 evaluation image looks nearly the same" in capsys.readouterr().out

    def test_equal_file_names_are_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Of an evaluation and a training image, and of a labelled image and one of the further folder."""
        root = make_folder(tmp_path / "data", train=6, labeled=2, test=2)
        more = tmp_path / "more"
        write_image(more / "img_01.png", photo(1))
        write_image(more / "img_77.png", photo(2))
        words = ("--labels", "2", "--unlabeled", str(more), "--out")
        split(root, *words, str(tmp_path / "a.txt"))
        printed = capsys.readouterr().out
        images = f"{root / 'images/img_01.png'} and {more / 'img_01.png'}"
        assert f"note: 1 image of the further folder has the file name of a labelled image, e.g. {images}" in printed
        assert "called like a training image" not in printed
        for kind in ("images", "masks"):
            (root / kind / "test/test_01.png").rename(root / kind / "test/img_05.png")
        (more / "img_01.png").unlink()
        split(root, *words, str(tmp_path / "b.txt"))
        printed = capsys.readouterr().out
        images = f"{root / 'images/img_05.png'} and {root / 'images/test/img_05.png'}"
        assert f"note: 1 evaluation image is called like a training image (e.g. {images}), but show" in printed
        assert "warning" not in printed
        assert "further folder" not in printed

    def test_an_evaluation_image_named_like_one_of_the_further_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Too dark for a copy, but the same scene; a labelled image of that name shows another one."""
        root = make_folder(tmp_path / "data", train=4, labeled=2, test=2, size=(90, 120))
        for i, path in enumerate(sorted((root / "images").rglob("*.png"))):
            write_image(path, photo(i))
        for kind in ("images", "masks"):
            (root / kind / "test/test_01.png").rename(root / kind / "test/img_01.png")
        more, test = tmp_path / "more", root / "images/test/img_01.png"
        more.mkdir()
        Image.open(test).point(lambda v: v // 4).save(more / "img_01.png")
        split(root, "--labels", "2", "--unlabeled", str(more))
        printed = capsys.readouterr().out
        said = "1 evaluation image is called like a training image (e.g. {} and {}), {}"
        assert "warning: " + said.format(more / "img_01.png", test, "and may be the same scene") in printed
        assert "note: " + said.format(root / "images/img_01.png", test, "but show something else") in printed

    def test_an_image_that_the_lists_of_voc_pass_over_is_compared_too(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = tmp_path / "data"
        for i, name in enumerate(("a", "b", "c", "v")):
            write_image(root / f"JPEGImages/{name}.png", photo(0 if name == "v" else i))
            write_index(root / f"SegmentationClass/{name}.png", draw_shapes(np.random.default_rng(i), (90, 120))[1])
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "ImageSets/Segmentation/train.txt").write_text("b\n")
        (root / "ImageSets/Segmentation/val.txt").write_text("v\n")
        (tmp_path / "list.txt").write_text("a\nb\nc\n")
        split(root, "--labels", "3", "--within", str(tmp_path / "list.txt"))
        leak = f"{root / 'JPEGImages/v.png'} and {root / 'JPEGImages/a.png'}"
        assert f"1 evaluation image looks nearly the same as a training image: {leak}" in capsys.readouterr().out

    @pytest.mark.parametrize("change", ["cut out", "darker"])
    def test_a_version_of_a_training_image_under_its_name(
        self, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Too far from it for a copy, and too near for another scene."""
        root = make_folder(tmp_path / "data", train=4, labeled=2, test=2, size=(90, 120))
        for i, path in enumerate(sorted((root / "images").rglob("*.png"))):
            write_image(path, photo(i))
        test = root / "images/test/test_01.png"
        image = Image.open(root / "images/img_03.png")
        changed = image.crop((6, 4, 116, 87)).resize(image.size) if change == "cut out" else image.point(lambda v: v // 4)
        changed.save(test.with_name("img_03.png"))
        test.unlink()
        (root / "masks/test/test_01.png").rename(root / "masks/test/img_03.png")
        split(root, "--labels", "2")
        printed = capsys.readouterr().out
        images = f"{root / 'images/img_03.png'} and {root / 'images/test/img_03.png'}"
        assert f"warning: 1 evaluation image is called like a training image (e.g. {images}), and may be the same" in printed

    def test_unlabelled_copies_of_labelled_images_are_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Also those of a further folder."""
        root = make_folder(tmp_path / "data", train=4, labeled=2)
        for i, path in enumerate(sorted((root / "images").rglob("*.png"))):
            write_image(path, photo(i))
            if (mask := root / "masks" / path.relative_to(root / "images")).exists():
                write_index(mask, draw_shapes(np.random.default_rng(i), (90, 120))[1])
        (tmp_path / "more").mkdir()
        Image.fromarray(photo(0)).save(tmp_path / "more/again.jpg", quality=80)
        split(root, "--labels", "2", "--out", str(tmp_path / "a.txt"))
        assert "the same picture" not in capsys.readouterr().out
        split(root, "--labels", "2", "--out", str(tmp_path / "b.txt"), "--unlabeled", str(tmp_path / "more"))
        printed = capsys.readouterr().out
        assert "1 unlabelled image looks nearly the same as a labelled one (neighbouring frames, or a saved copy" in printed
        assert "the same picture" not in printed
        assert "again.jpg" in printed
        assert "img_00.png" in printed
        Image.fromarray(photo(0)).save(tmp_path / "more/again.png")
        (tmp_path / "more/again.jpg").unlink()
        split(root, "--labels", "2", "--out", str(tmp_path / "c.txt"), "--unlabeled", str(tmp_path / "more"))
        printed = capsys.readouterr().out
        assert "1 unlabelled image is the same picture as a labelled one" in printed
        assert "nearly the same" not in printed
