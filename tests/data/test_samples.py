"""A list of samples in little memory: the same as a plain list, whatever is in it and however it is cut."""

from __future__ import annotations

import json
import pickle
from hashlib import sha256
from pathlib import Path

import pytest

from protoseg.data.index import DataIndex
from protoseg.data.io import path_below, resolver, split_suffix, walk, walk_below
from protoseg.data.masks import MaskFile
from protoseg.data.samples import Sample, Samples, SamplesBuilder
from protoseg.data.splits import Partition


def bare(name: str, image: str) -> Sample:
    return Sample(name, Path(image), None, "train")


MASK = MaskFile(Path("/data/masks/b.png"))
PLAIN = [
    bare("b/2", "/data/images/b/2.jpg"),
    bare("b/1", "/data/images/b/1.JPG"),
    Sample("b", Path("/data/images/b.png"), MASK, "train"),
    Sample("test/x", Path("/data/images/test/x.png"), None, "test"),
    Sample("val/x", Path("/data/images/val/x.png"), MASK, "val"),
    Sample("a", Path("/data/images/a.png"), None, "train", if_listed=MASK),
    bare("a.b.c", "/data/images/a.b.c.tiff"),
    bare("unlabeled:pool/1", "/elsewhere/pool/1.jpg"),
    bare("unlabeled:pool/straße", "/elsewhere/pool/straße.jpg"),
    bare("caf\u00e9", "/data/images/cafe\u0301.png"),  # as macOS stores it
    bare("other name", "/data/images/1.png"),
    bare("relative", "relative.png"),
    bare("top", "/top.png"),
    bare("none", "/data/none"),
    bare(".hidden", "/data/.hidden"),
    bare("broken\udce4", "/data/broken\udce4.png"),
]


def test_holds_what_was_given() -> None:
    samples = Samples(PLAIN)
    assert len(samples) == len(PLAIN)
    assert list(samples) == PLAIN
    assert [samples[i] for i in range(-len(PLAIN), len(PLAIN))] == PLAIN * 2
    assert [sample.image for sample in samples] == [sample.image for sample in PLAIN]
    assert [str(sample.image) for sample in samples] == [str(sample.image) for sample in PLAIN]
    assert list(samples.names()) == [sample.name for sample in PLAIN]
    assert list(samples.images()) == [str(sample.image) for sample in PLAIN]
    assert samples == PLAIN
    assert samples == Samples(PLAIN)
    assert samples != PLAIN[:-1]
    assert samples != PLAIN[1:] + PLAIN[:1]
    with pytest.raises(IndexError):
        samples[len(PLAIN)]
    assert not Samples()
    assert list(pickle.loads(pickle.dumps(samples))) == PLAIN  # as a worker process gets it


@pytest.mark.parametrize("cut", [slice(None), slice(2, 9), slice(None, None, -1), slice(1, None, 3), slice(0, 0)], ids=str)
def test_parts_are_those_of_a_plain_list(cut: slice) -> None:
    samples, plain = Samples(PLAIN)[cut], PLAIN[cut]
    assert list(samples) == plain
    for split in ("train", "val", "test"):
        assert list(samples.of(split)) == [sample for sample in plain if sample.split == split]
    assert list(samples.where(lambda name: "a" in name)) == [sample for sample in plain if "a" in sample.name]
    inside = samples.where(lambda image: image.startswith("/data"), of="image")
    assert list(inside) == [sample for sample in plain if str(sample.image).startswith("/data")]
    assert list(samples.by_name()) == sorted(plain, key=lambda sample: sample.name)
    assert samples.folders() == {sample.image.parent for sample in plain}
    kept = [sample for sample in plain if sample.mask or sample.if_listed or sample.split != "train"]
    assert [sample for sample in samples.whole if sample in kept] == kept
    assert all(sample in plain for sample in samples.whole)
    assert (b"MaskFile" in pickle.dumps(samples)) == any(sample.mask or sample.if_listed for sample in plain)
    both = samples.by_name() + Samples(PLAIN[3:11])[::-1]
    assert list(both) == [*sorted(plain, key=lambda sample: sample.name), *PLAIN[3:11][::-1]]
    assert both.whole == [*samples.by_name().whole, *Samples(PLAIN[3:11])[::-1].whole]


def test_an_image_takes_a_few_bytes() -> None:
    builder = SamplesBuilder()
    for i in range(10_000):
        name = f"survey/day_{i % 100:02d}/IMG_{i:08d}"
        builder.add_image(name, f"/a/long/way/to/the/images/{name}.jpg")
    samples = builder.samples()
    assert len(samples.whole) == 0
    assert samples[1234] == bare("survey/day_34/IMG_00001234", "/a/long/way/to/the/images/survey/day_34/IMG_00001234.jpg")
    assert len(pickle.dumps(samples)) < 10_000 * 32  # 12 of the name, 18 of numbers


def test_hashes_are_those_of_the_whole_lists() -> None:
    labeled, evaluation = (PLAIN[2],), (PLAIN[3], PLAIN[4])
    for unlabeled in ([], PLAIN[:1], PLAIN[6:15]):
        partition = Partition(labeled, unlabeled, evaluation, "test")
        names = [[sample.name for sample in part] for part in (labeled, unlabeled, evaluation)]
        assert partition.hash == sha256(json.dumps(names).encode()).hexdigest()[:12]
        assert partition.unlabeled_hash == sha256(json.dumps(names[1]).encode()).hexdigest()[:12]


def test_an_index_keeps_any_list_so(tmp_path: Path) -> None:
    index = DataIndex(tmp_path, "folder", tuple(PLAIN), None)
    assert isinstance(index.samples, Samples)
    assert index.samples == PLAIN
    assert index.of("val") == [PLAIN[4]]
    assert Path("/top.png") not in [sample.image for sample in index.whole if sample.mask]


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    files = ["a/b/1.png", "a/b.png", "a b/1.png", "a-b/1.png", "a.png", "a/c/.1.png", "a/.c/1.png", "A/ä.png", "a/@eaDir/1.png"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    kept = [tmp_path / file for file in files if file not in {"a/c/.1.png", "a/.c/1.png", "a/@eaDir/1.png"}]
    assert walk(tmp_path) == sorted(kept)
    assert walk_below(tmp_path) == [path.relative_to(tmp_path).as_posix() for path in sorted(kept)]


@pytest.mark.parametrize("name", ["a.jpg", "a.b.JPG", ".a", ".a.png", "a", "a.", "a..png", "..png", "ä.tiff"])
def test_a_suffix_is_what_pathlib_says(name: str) -> None:
    assert split_suffix(name) == (Path(name).stem, Path(name).suffix)


@pytest.mark.parametrize("folder", [".", "/", "a", "/a/b"])
def test_a_path_below_a_folder(folder: str) -> None:
    assert path_below(Path(folder))("b/c.png") == str(Path(folder) / "b/c.png")


def test_links_are_followed_as_pathlib_does(tmp_path: Path) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "real/below/1.png").touch()
    (tmp_path / "folder").symlink_to(tmp_path / "real/below")
    (tmp_path / "real/2.png").symlink_to(tmp_path / "folder/1.png")
    (tmp_path / "real/lost.png").symlink_to(tmp_path / "nowhere.png")
    resolved = resolver()
    for path in ("real/below/1.png", "folder/1.png", "real/2.png", "real/lost.png", "real/missing.png", "folder/1.png"):
        assert resolved(str(tmp_path / path)) == str((tmp_path / path).resolve())
