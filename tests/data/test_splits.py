"""Labelled, unlabelled and kept back: three lists that never share an image."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from make_folder import draw_shapes, make_folder, write_image, write_index
from make_formats import WRITERS, make_pictures
from rich.console import Console

from protoseg.config import build_partition
from protoseg.data.check import check_labels, mask_values
from protoseg.data.formats import open_dataset
from protoseg.data.index import DataIndex, Sample
from protoseg.data.splits import Partition, make_partition
from protoseg.settings import TrainConfig
from protoseg.split import split_data


def sample(name: str, split: str = "train", *, masked: bool = True) -> Sample:
    mask = Path(f"masks/{name}.png") if masked else None
    return Sample(name, Path(f"images/{name}.jpg"), mask, split)  # type: ignore[arg-type]


def index_of(*samples: Sample) -> DataIndex:
    return DataIndex(Path(), "folder", samples, None)


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.name for sample in samples]


TEN = index_of(*(sample(f"a{i}") for i in range(8)), sample("b0", masked=False), sample("b1", masked=False))
SCORED = index_of(*TEN.samples, sample("test/t", "test"), sample("test/u", "test", masked=False), sample("val/v", "val"))
NESTED = index_of(
    sample("a"), sample("x/a"), sample("x/b"), sample("y/b"), sample("y/c", masked=False), sample("test/t", "test")
)


@pytest.fixture
def listed(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Writes a list file."""

    def write(*lines: str, end: str = "\n") -> str:
        path = tmp_path / "list.txt"
        path.write_bytes(end.join(lines).encode())
        return str(path)

    return write


class TestMaskColumn:
    """`image mask` lines: the mask is the one that is read, or it is said, or it stops."""

    def labels(self, root: Path, line: str) -> Partition:
        (root / "list.txt").write_text(line + "\n")
        return make_partition(open_dataset(root), labels=str(root / "list.txt"))

    @pytest.mark.parametrize("mask", ["masks/img_01.png", "/masks/img_01.png", "img_01.png", "1", "-1", ""])
    def test_the_one_that_is_read(self, tmp_path: Path, mask: str) -> None:
        partition = self.labels(make_folder(tmp_path), f"images/img_01.png {mask}")
        assert names(partition.labeled) == ["img_01"]
        assert partition.notes == ()

    @pytest.mark.parametrize(
        "line",
        [
            "images\\img_01.png masks\\img_01.png",
            "./images/img_01.png ./masks/img_01.png",
            "ROOT/images/img_01.png ROOT/masks/img_01.png",
        ],
    )
    def test_paths_of_windows_of_find_and_whole_ones(self, tmp_path: Path, line: str) -> None:
        assert names(self.labels(make_folder(tmp_path), line.replace("ROOT", str(tmp_path))).labeled) == ["img_01"]

    @pytest.mark.parametrize("mask", ["masks_fine/img_01.png", "NoSuch/xyz.png", "masks/img_02.png"])
    def test_another_one(self, tmp_path: Path, mask: str) -> None:
        with pytest.raises(
            ValueError, match=rf"line 1: .* names the mask {mask}, but the mask of .* here is .*/masks/img_01\.png"
        ):
            self.labels(make_folder(tmp_path), f"images/img_01.png {mask}")

    @pytest.mark.parametrize("word", ["12", "+1", "00", "x", "img_01", "7 8"])
    def test_what_is_no_mask_stops(self, tmp_path: Path, word: str) -> None:
        """Rather the line names another image, or is of another kind of list."""
        with pytest.raises(ValueError, match=rf"list\.txt, line 1: 'img_01 {re.escape(word)}' .* is no mask; write the name"):
            self.labels(make_folder(tmp_path), f"img_01 {word}")

    def test_published_lists_name_the_masks_of_another_copy(self, tmp_path: Path) -> None:
        WRITERS["voc, augmented"][1](tmp_path, make_pictures())
        line = "JPEGImages/scene_1.png SegmentationClass/{}.png"
        partition = self.labels(tmp_path, line.format("scene_1"))
        assert str(partition.labeled[0].mask).endswith("SegmentationClassAug/scene_1.png")
        assert "1 line of" in partition.notes[0]
        assert "names a mask that is not read" in partition.notes[0]
        with pytest.raises(ValueError, match="names the mask"):
            self.labels(tmp_path, line.format("scene_2"))


class TestMasksBesideTheLists:
    """UniMatch's copy of VOC: original lists, and the masks of SBD in `SegmentationClass` beside those of VOC."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """One image of train.txt, one of val.txt, two more with a mask and one without."""
        image, label = draw_shapes(np.random.default_rng(0), (40, 48))
        root = tmp_path / "VOC2012"
        for name in ("2007_000032", "2007_000033", "2008_000002", "2010_004493", "2011_000001"):
            write_image(root / f"JPEGImages/{name}.jpg", image)
            if name != "2011_000001":
                write_index(root / f"SegmentationClass/{name}.png", label)
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n")
        (root / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
        return root

    @pytest.mark.parametrize("line", ["JPEGImages/{0}.jpg SegmentationClass/{0}.png", "{0}"], ids=["UniMatch", "U2PL"])
    def test_a_published_list_names_them(self, root: Path, listed, line: str) -> None:  # type: ignore[no-untyped-def]
        index = open_dataset(root)
        partition = make_partition(index, labels=listed(line.format("2010_004493"), line.format("2007_000032"), ""))
        assert names(partition.labeled) == ["2007_000032", "2010_004493"]
        assert str(partition.labeled[1].mask) == str(root / "SegmentationClass/2010_004493.png")
        assert (names(partition.unlabeled), names(partition.evaluation)) == ([], ["2007_000033"])
        assert len(partition.notes) == 1
        assert f"stands in no list of {root} itself" in partition.notes[0]
        with pytest.raises(ValueError, match="it names an evaluation image, which never trains"):
            make_partition(index, labels=listed(line.format("2007_000033")))
        with pytest.raises(ValueError, match="has no mask; give it one where the data set keeps them"):
            make_partition(index, labels=listed(line.format("2011_000001").split()[0]))

    def test_they_are_all_that_there_is_to_learn_from(self, root: Path, listed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        """Where val.txt is the only list, the user's own says which images are labelled."""
        (root / "ImageSets/Segmentation/train.txt").unlink()
        with pytest.raises(ValueError, match=r"and 3 more with masks stand in no list: .* or into a list for --labels"):
            open_dataset(root)
        config = TrainConfig(data=str(root), labels=listed("2010_004493", "2007_000032"))
        partition = build_partition(config)[1]
        assert names(partition.labeled) == ["2007_000032", "2010_004493"]
        assert (names(partition.unlabeled), names(partition.evaluation)) == ([], ["2007_000033"])
        partition = build_partition(replace(config, unlabeled=str(root / "JPEGImages")))[1]
        assert names(partition.unlabeled) == ["unlabeled:JPEGImages/2008_000002", "unlabeled:JPEGImages/2011_000001"]
        with pytest.raises(ValueError, match="stand in no list"):
            build_partition(replace(config, labels="2"))
        drawn = split_data(
            root, "1", within=Path(listed("2010_004493")), out=tmp_path / "drawn.txt", console=Console(quiet=True)
        )
        assert drawn.read_text() == "2010_004493\n"

    def test_train_only_where_a_list_names_them(self, root: Path) -> None:
        partition = make_partition(open_dataset(root))
        assert names([*partition.labeled, *partition.unlabeled]) == ["2007_000032"]

    def test_neither_come_in_again_by_the_further_folder(self, root: Path, listed) -> None:  # type: ignore[no-untyped-def]
        """Nor do those that a holdout keeps back."""
        index = open_dataset(root, unlabeled=root / "JPEGImages")
        assert names(make_partition(index).unlabeled) == [
            f"unlabeled:JPEGImages/{name}" for name in ("2008_000002", "2010_004493", "2011_000001")
        ]
        partition = make_partition(index, labels=listed("2008_000002"))
        assert "unlabeled:JPEGImages/2008_000002" not in names(partition.unlabeled)
        assert len(partition.unlabeled) == 3
        partition = make_partition(index, holdout=listed("2010_004493"))
        assert (names(partition.labeled), names(partition.evaluation)) == (["2007_000032"], ["2010_004493"])
        assert names(partition.unlabeled) == ["unlabeled:JPEGImages/2008_000002", "unlabeled:JPEGImages/2011_000001"]


class TestImagesWithoutAnnotation:
    """Published lists of COCO hold images in which there is nothing: who lists them has looked at them."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        WRITERS["coco"][1](tmp_path, make_pictures())
        (tmp_path / "list.txt").write_text("scene_1\nscene_3\n")
        return tmp_path

    def test_are_background_where_a_list_names_them(self, root: Path) -> None:
        index = open_dataset(root)
        partition = make_partition(index, labels=str(root / "list.txt"))
        listed = partition.labeled[1]
        assert listed.image.stem == "scene_3"
        assert listed.mask is not None
        assert not listed.mask.read().any()
        assert "1 image of" in partition.notes[0]
        assert "background" in check_labels(index, partition).notes[0]

    def test_and_unlabelled_without_one(self, root: Path) -> None:
        assert "scene_3" in {s.image.stem for s in make_partition(open_dataset(root)).unlabeled}

    def test_an_image_that_no_file_lists_still_stops(self, root: Path) -> None:
        write_image(root / "train2017/new.png", make_pictures()[0].image)
        (root / "list.txt").write_text("new\n")
        with pytest.raises(ValueError, match="'new' has no mask"):
            make_partition(open_dataset(root), labels=str(root / "list.txt"))


class TestLabels:
    def test_all_masks_by_default(self) -> None:
        partition = make_partition(TEN)
        assert names(partition.labeled) == [f"a{i}" for i in range(8)]
        assert names(partition.unlabeled) == ["b0", "b1"]
        assert partition.evaluation == ()
        assert partition.evaluation_name == ""

    @pytest.mark.parametrize(("labels", "count"), [("3", 3), ("8", 8), ("1/8", 1), ("1/3", 3), ("1/100", 1), ("1/1", 8)])
    def test_a_number_or_a_fraction_of_the_masks(self, labels: str, count: int) -> None:
        partition = make_partition(TEN, labels=labels)
        assert len(partition.labeled) == count
        assert all(s.mask is not None for s in partition.labeled)
        assert sorted(names(partition.labeled) + names(partition.unlabeled)) == sorted(names(TEN.samples))

    @pytest.mark.parametrize("labels", ["0", "9", "0/8", "1/0", "3/2", "/8"])
    def test_a_number_that_cannot_be_is_refused(self, labels: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=f"--labels {labels}"):
            make_partition(TEN, labels=labels)

    def test_a_list_of_stems_paths_and_file_names(self, listed) -> None:  # type: ignore[no-untyped-def]
        partition = make_partition(NESTED, labels=listed("x/a", "  y/b.jpg ", "", "x/a"))
        assert names(partition.labeled) == ["x/a", "y/b"]
        assert names(partition.unlabeled) == ["a", "x/b", "y/c"]

    def test_windows_line_ends_and_a_byte_order_mark(self, listed) -> None:  # type: ignore[no-untyped-def]
        assert names(make_partition(TEN, labels=listed("\ufeffa1", "a2", "", end="\r\n")).labeled) == ["a1", "a2"]

    @pytest.mark.parametrize("name", ["x y 1", " x", "x ", "x\\y", "./x", "# x", "-1", "x.jpg", "\u2028x".strip()])
    def test_what_is_drawn_can_be_read_again(self, listed, name: str) -> None:  # type: ignore[no-untyped-def]
        """Whatever an image is called."""
        assert names(make_partition(index_of(sample(name), sample("y")), labels=listed(name)).labeled) == [name]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("nothing", "fits no training image"),
            ("a9.jpg", "fits no training image"),
            ("b", "fits x/b and y/b"),
            ("b.jpg", "fits x/b and y/b"),
            ("test/t", "evaluation image"),
            ("test/t.jpg", "evaluation image"),
            ("t", "evaluation image"),
            ("y/c", "has no mask"),
        ],
    )
    def test_a_line_that_does_not_fit_one_labeled_image_stops(self, listed, line: str, message: str) -> None:  # type: ignore[no-untyped-def]
        path = listed("x/a", line)
        with pytest.raises(ValueError, match=message) as caught:
            make_partition(NESTED, labels=path)
        assert f"{path}, line 2: {line!r}" in str(caught.value)
        assert "images/" not in str(caught.value)  # which most layouts do not have

    @pytest.mark.parametrize("line", ["a", "a.jpg"])
    def test_a_whole_path_is_not_ambiguous(self, listed, line: str) -> None:  # type: ignore[no-untyped-def]
        """`a` is the path of one image and the stem of another: there is no other way to write the first."""
        assert names(make_partition(NESTED, labels=listed(line)).labeled) == ["a"]

    @pytest.mark.parametrize("line", ["a1", "a1.jpg"])
    def test_images_of_another_folder_are_not_meant(self, listed, line: str) -> None:  # type: ignore[no-untyped-def]
        more = Sample("more:a1", Path("more/a1.jpg"), None, "train")  # from --unlabeled
        partition = make_partition(index_of(*TEN.samples, more), labels=listed(line))
        assert names(partition.labeled) == ["a1"]
        assert "more:a1" in names(partition.unlabeled)

    def test_a_missing_empty_or_binary_list_is_named(self, listed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
            make_partition(TEN, labels=str(tmp_path / "nowhere.txt"))
        with pytest.raises(ValueError, match=r"list\.txt"):
            make_partition(TEN, labels=listed("", " "))
        (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
        with pytest.raises(ValueError, match=r"image\.png"):
            make_partition(TEN, labels=str(tmp_path / "image.png"))


class TestEvaluation:
    def test_labeled_images_of_the_split(self) -> None:
        assert names(make_partition(SCORED).evaluation) == ["test/t"]
        assert make_partition(SCORED).evaluation_name == "test"
        assert names(make_partition(SCORED, split="val").evaluation) == ["val/v"]
        assert make_partition(SCORED, split="val").evaluation_name == "val"

    def test_val_scores_where_there_is_no_test(self) -> None:
        index = index_of(*TEN.samples, sample("val/v", "val"))
        assert make_partition(index).evaluation_name == "val"
        assert names(make_partition(index).evaluation) == ["val/v"]

    def test_what_is_asked_for_has_to_be_there(self) -> None:
        index = index_of(*TEN.samples, sample("val/v", "val"))
        with pytest.raises(ValueError, match="no labelled test image"):
            make_partition(index, split="test")
        with pytest.raises(ValueError, match="both say which images"):
            make_partition(index, split="val", holdout="2")

    def test_nothing_is_scored_on_images_that_train(self) -> None:
        assert make_partition(TEN).evaluation == ()


class TestHoldout:
    @pytest.mark.parametrize(("holdout", "count"), [("2", 2), ("1/4", 2), ("1/2", 4)])
    def test_kept_back_images_are_in_neither_list(self, holdout: str, count: int) -> None:
        partition = make_partition(TEN, holdout=holdout)
        assert len(partition.evaluation) == count
        assert partition.evaluation_name == "holdout"
        assert_disjoint(partition)
        assert len(partition.labeled) == 8 - count
        assert names(partition.unlabeled) == ["b0", "b1"]

    def test_a_list(self, listed) -> None:  # type: ignore[no-untyped-def]
        partition = make_partition(TEN, holdout=listed("a3", "a1"))
        assert names(partition.evaluation) == ["a1", "a3"]
        assert_disjoint(partition)

    @pytest.mark.parametrize(
        ("kept", "said"),
        [
            (["a1"], "1 of the 3 images of --labels is held out by --holdout {} and not trained on"),
            (["a0", "a1", "a3"], "2 of the 3 images of --labels are held out by --holdout {} and not trained on"),
            (["a0", "a4"], None),
        ],
    )
    def test_lists_that_overlap_are_said(self, kept: list[str], said: str | None, tmp_path: Path) -> None:
        labels, holdout = tmp_path / "labels.txt", tmp_path / "holdout.txt"
        labels.write_text("a1\na2\na3\n")
        holdout.write_text("\n".join(kept))
        partition = make_partition(TEN, labels=str(labels), holdout=str(holdout))
        assert partition.notes == (() if said is None else (said.format(holdout),))
        assert names(partition.labeled) == [name for name in ("a1", "a2", "a3") if name not in kept]

    def test_comes_out_of_a_list_of_labels(self, listed) -> None:  # type: ignore[no-untyped-def]
        partition = make_partition(TEN, labels=listed("a1", "a2", "a3"), holdout="1")
        assert sorted(names(partition.evaluation) + names(partition.labeled)) == ["a1", "a2", "a3"]
        assert len(partition.evaluation) == 1
        assert_disjoint(partition)

    def test_leaves_the_asked_number_of_labels(self) -> None:
        partition = make_partition(TEN, labels="3", holdout="2")
        assert (len(partition.labeled), len(partition.evaluation), len(partition.unlabeled)) == (3, 2, 5)
        assert_disjoint(partition)

    @pytest.mark.parametrize("holdout", ["8", "9", "0", "1/1", "5/4"])
    def test_more_than_can_be_spared_is_refused(self, holdout: str) -> None:
        with pytest.raises(ValueError, match="--holdout"):
            make_partition(TEN, holdout=holdout)

    def test_holding_back_every_listed_image_is_refused(self, listed) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ValueError, match="no labelled image is left"):
            make_partition(TEN, holdout=listed(*(f"a{i}" for i in range(8))))

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(
        ("count", "classes"),
        [
            (3, [{0}, {0}, {0}, {0}, {0, 1}, {0, 1}, {0, 2}, {0, 2}]),  # two rare classes, each in two images
            (2, [{0}, {0}, {0}, {0}, {0}, {0, 1}, {0, 1}, {0, 2}]),  # class 2 occurs once: it is learned from
            (1, [{0}, {0}, {0}, {0}, {0}, {0}, {0, 1, 2}, {0, 1, 2}]),  # one image can show everything
            (2, [{0}, {0}, {0, 1}, {0, 1}, {0, 2}, {0, 2}, {0, 1, 3}, {0, 3}]),  # class 2, and 1 and 3 together
        ],
    )
    def test_every_class_on_both_sides(self, seed: int, count: int, classes: list[set[int]]) -> None:
        values = {f"a{i}": frozenset(found) for i, found in enumerate(classes)}
        partition = make_partition(TEN, holdout=str(count), seed=seed, classes_in=lambda s: values[s.name])
        assert len(partition.evaluation) == count
        learned = set().union(*(values[name] for name in names(partition.labeled)))
        scored = set().union(*(values[name] for name in names(partition.evaluation)))
        occurs = list(chain.from_iterable(classes))
        assert learned == set(occurs)
        assert scored == {value for value in occurs if occurs.count(value) > 1}


class TestSeedAndHash:
    @pytest.mark.parametrize("options", [{"labels": "3"}, {"holdout": "3"}, {"labels": "1/2", "holdout": "1/4"}])
    def test_the_seed_decides(self, options: dict[str, str]) -> None:
        partitions = [make_partition(TEN, seed=seed, **options) for seed in (0, 0, 1, 2, 3)]  # type: ignore[arg-type]
        assert partitions[0] == partitions[1]
        assert len({p.hash for p in partitions}) > 2

    def test_the_order_of_the_files_does_not(self) -> None:
        assert make_partition(TEN, labels="3").hash == make_partition(index_of(*TEN.samples), labels="3").hash
        plain = make_partition(TEN)
        assert make_partition(index_of(*reversed(TEN.samples))).hash == plain.hash

    @pytest.mark.parametrize("part", ["labeled", "unlabeled", "evaluation"])
    def test_the_hash_changes_with_each_list(self, part: str) -> None:
        partition = make_partition(SCORED)
        assert len(partition.hash) == 12
        fewer = replace(partition, **{part: getattr(partition, part)[1:]})
        assert fewer.hash != partition.hash

    def test_a_pool_is_told_by_its_names_alone(self) -> None:
        """Whatever is labelled beside it and scored."""
        pool = make_partition(TEN, labels="3")
        assert len(pool.unlabeled_hash) == 12
        assert replace(pool, labeled=pool.labeled[1:], evaluation=SCORED.samples[-1:]).unlabeled_hash == pool.unlabeled_hash
        assert replace(pool, unlabeled=pool.unlabeled[1:]).unlabeled_hash != pool.unlabeled_hash

    def test_moving_an_image_from_one_list_to_another_changes_the_hash(self) -> None:
        partition = make_partition(SCORED)
        moved = replace(partition, labeled=partition.labeled[:-1], unlabeled=(partition.labeled[-1], *partition.unlabeled))
        assert moved.hash != partition.hash

    def test_the_place_of_the_data_set_does_not_change_it(self) -> None:
        moved = index_of(*(replace(s, image=Path("/elsewhere") / s.image) for s in SCORED.samples))
        assert make_partition(moved).hash == make_partition(SCORED).hash


class TestUnlabeledMasksStayShut:
    """No mask is ever opened for an unlabelled image, even where there is one."""

    @pytest.mark.parametrize("options", [{"labels": "3"}, {"labels": "LIST"}, {"labels": "LIST", "holdout": "1"}])
    def test_a_corrupt_one_changes_nothing(self, tmp_path: Path, options: dict[str, str]) -> None:
        root = make_folder(tmp_path / "data", train=8, labeled=None, test=2)
        (tmp_path / "list.txt").write_text("img_01\nimg_04\nimg_06\n")
        options = {key: value.replace("LIST", str(tmp_path / "list.txt")) for key, value in options.items()}
        first = make_partition(open_dataset(root), classes_in=mask_values, **options)  # type: ignore[arg-type]
        masks = [s.mask for s in first.unlabeled if s.mask is not None]
        assert len(masks) == 5
        for mask in masks:
            Path(str(mask)).write_text("no image")
        index = open_dataset(root)
        again = make_partition(index, classes_in=mask_values, **options)  # type: ignore[arg-type]
        assert again == first
        assert check_labels(index, again).classes.written == (0, 1, 2)

    def test_not_even_to_draw_a_holdout(self) -> None:
        opened: set[str] = set()

        def look(sample: Sample) -> frozenset[int]:
            opened.add(sample.name)
            return frozenset({0})

        partition = make_partition(TEN, labels="2", holdout="2", classes_in=look)
        assert not opened & set(names(partition.unlabeled))


def assert_disjoint(partition: Partition) -> None:
    every = [*partition.labeled, *partition.unlabeled, *partition.evaluation]
    assert len({s.name for s in every}) == len(every)


@pytest.mark.parametrize(
    ("labels", "meant"),
    [
        ("0.25", "1/4"),
        (".125", "1/8"),
        ("25%", "1/4"),
        ("12.5 %", "1/8"),
        ("1.0", "1/1"),
        ("1.5", ""),
        ("0.0", ""),
        ("0.2a", ""),
    ],
)
def test_a_share_that_is_written_in_another_way(tmp_path: Path, labels: str, meant: str) -> None:
    make_folder(tmp_path)
    said = f"there is no such file; for that share of the images, write {meant}$" if meant else r"\(and it is no number"
    with pytest.raises(FileNotFoundError, match=said):
        make_partition(open_dataset(tmp_path), labels=labels)
