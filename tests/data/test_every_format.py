"""One data set, written in every layout, is one data set again: the same images, splits and labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from make_formats import NAMES, NO_IGNORED, PLACES, WRITERS, Picture, known, make_pictures

from protoseg.data.check import check_labels, read_pair
from protoseg.data.formats import FORMATS, open_dataset
from protoseg.data.index import Sample
from protoseg.data.splits import make_partition

PICTURES = make_pictures()


@pytest.fixture(params=sorted(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """The name of the way it was written, and where."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    WRITERS[request.param][1](root, PICTURES)
    return request.param, root


def picture_of(sample: Sample) -> Picture:
    return next(p for p in PICTURES if p.stem in sample.name)


def test_every_format_is_written_here() -> None:
    assert {name for name, _ in WRITERS.values()} == {*FORMATS, "folder"}


def test_is_recognised(written: tuple[str, Path]) -> None:
    name, root = written
    assert open_dataset(root).format == WRITERS[name][0]


def test_can_be_asked_for(written: tuple[str, Path]) -> None:
    name, root = written
    assert open_dataset(root, format=WRITERS[name][0]) == open_dataset(root)


def test_the_same_images_in_the_same_splits(written: tuple[str, Path]) -> None:
    """In the order of their names, which are their paths as the layout has them."""
    index = open_dataset(written[1])
    train, val = PLACES.get(written[0], PLACES[index.format])
    expected = [((val if p.split == "val" else train).format(p.stem), p.split, p.label is not None) for p in PICTURES]
    assert [(sample.name, sample.split, sample.mask is not None) for sample in index.samples] == sorted(expected)
    assert [sample.image.stem for sample in index.samples] == [sample.name.rsplit("/", 1)[-1] for sample in index.samples]
    assert all(sample.image.is_file() for sample in index.samples)


def test_the_same_labels_under_the_same_names(written: tuple[str, Path]) -> None:
    name, root = written
    index = open_dataset(root)
    classes = check_labels(index, make_partition(index)).classes
    assert classes.names[:3] == NAMES[name]
    for sample in index.samples:
        if sample.mask is None:
            continue
        picture = picture_of(sample)
        image, mask = read_pair(sample)
        assert image.shape == picture.image.shape
        expected = known(picture) if name in NO_IGNORED else picture.label
        assert (classes.encode(mask) == expected).all(), sample.name


def test_a_list_names_images_in_any_of_the_usual_ways(written: tuple[str, Path], tmp_path: Path) -> None:
    index = open_dataset(written[1])
    chosen = [s for s in index.of("train") if s.mask is not None][1]
    below_root = chosen.image.relative_to(index.root)
    lines = [chosen.name, chosen.image.stem, chosen.image.name, str(below_root), f"{below_root} some/{chosen.image.stem}.png"]
    if index.format in {"folder", "cityscapes"}:  # in a plain folder the mask has to be the one that is read
        lines[-1] = f"{below_root} {Path(str(chosen.mask)).relative_to(index.root)}"
    for line in lines:
        (tmp_path / "list.txt").write_text(line + "\n")
        partition = make_partition(index, labels=str(tmp_path / "list.txt"))
        assert [s.name for s in partition.labeled] == [chosen.name], line
        assert len(partition.unlabeled) == 4


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_without_labelled_training_images_it_says_what_it_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    unlabeled = [p if p.split == "val" else dataclasses.replace(p, label=None) for p in PICTURES]
    WRITERS[name][1](tmp_path / "data", unlabeled)
    assert open_dataset(tmp_path / "data", for_training=False).of("val")[0].mask is not None
    with pytest.raises(ValueError, match=r"no training image in .* has a mask") as caught:
        open_dataset(tmp_path / "data")
    assert str(tmp_path) in str(caught.value)


def test_a_format_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no format 'pascal'.*folder.*voc"):
        open_dataset(tmp_path, format="pascal")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_format_that_does_not_fit(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"not laid out as {name}: it needs .{{10}}"):
        open_dataset(tmp_path, format=name)
