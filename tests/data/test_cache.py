"""`--cache DIR`: the same pixels and the same errors as without, whatever becomes of the files and of the cache."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from make_folder import TINY, cut_short, make_folder, write_image
from PIL import Image
from safetensors.torch import load_file

from protoseg.cli import main
from protoseg.data import cache as module
from protoseg.data.cache import _ENTRY, _START, ImageCache, open_cache
from protoseg.data.formats import open_dataset
from protoseg.data.images import PHOTOGRAPH, ImageKind, read_image
from protoseg.data.index import Sample, table_from_values
from protoseg.data.io import UnreadableImageError
from protoseg.data.loader import Geometry, LabeledCrops, UnlabeledCrops
from protoseg.data.sampler import Draw
from protoseg.data.splits import Partition, make_partition


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Images of several sizes and files: PNG, a JPEG that EXIF turns, grey, and one that is cut short."""
    rng = np.random.default_rng(0)
    for i, size in enumerate([(20, 30), (31, 17), (8, 8)]):
        write_image(tmp_path / f"images/{i}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(tmp_path / "images/turned.jpg", exif=turned)
    write_image(tmp_path / "images/grey.png", rng.integers(0, 256, (9, 11), dtype=np.uint8))
    write_image(tmp_path / "images/twin.png", np.asarray(Image.open(tmp_path / "images/0.png")))
    cut_short(write_image(tmp_path / "images/broken.png", rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)))
    (tmp_path / "images/empty.jpg").write_bytes(b"")
    return samples_of(tmp_path)


def samples_of(root: Path) -> list[Sample]:
    return [Sample(path.stem, path, None, "train") for path in sorted((root / "images").iterdir())]


def opened(root: Path, samples: list[Sample], kind: ImageKind = PHOTOGRAPH) -> tuple[ImageCache, list[str]]:
    said = list[str]()
    return open_cache(root / "cache", samples, kind, say=said.append), said


def assert_same(cache: ImageCache, samples: list[Sample]) -> None:
    for sample in samples:
        try:
            expected = read_image(sample.image, PHOTOGRAPH)
        except UnreadableImageError as error:
            with pytest.raises(UnreadableImageError, match=str(error).replace("(", r"\(").replace(")", r"\)")):
                cache.read(sample.image, PHOTOGRAPH)
            continue
        found = cache.read(sample.image, PHOTOGRAPH)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def no_decoding(*_: object) -> None:
    raise AssertionError("an image was decoded")


def test_holds_the_pixels_that_are_read_without_it(tmp_path: Path, samples: list[Sample]) -> None:
    cache, said = opened(tmp_path, samples)
    assert said == [f"cache: 6 of 8 images in {cache.file} (0 MiB)"]
    assert_same(cache, samples)
    assert_same(pickle.loads(pickle.dumps(cache)), samples)  # as a worker process gets it
    assert len(pickle.dumps(cache)) < 2000  # places, no pixels
    with pytest.raises(UnreadableImageError, match="1 channel"):
        cache.read(samples[0].image, ImageKind(1, "uint8"))


def test_decodes_once(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = opened(tmp_path, samples)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.file.name]
    expected = {str(s.image): first.read(s.image) for s in samples if str(s.image) in first.places}
    monkeypatch.setattr(module, "read_image", no_decoding)
    shutil.move(tmp_path / "images", tmp_path / "elsewhere/images")  # names and places do not matter
    moved = samples_of(tmp_path / "elsewhere")
    cache, _ = opened(tmp_path, moved[::-1])
    assert cache.file == first.file
    for path, image in expected.items():
        assert np.array_equal(cache.read(tmp_path / "elsewhere/images" / Path(path).name), image)


def test_a_changed_file_makes_another_cache(tmp_path: Path, samples: list[Sample]) -> None:
    before, _ = opened(tmp_path, samples)
    path, now = samples[0].image, samples[0].image.stat()
    image = read_image(path).copy()
    image[3, 4] = 255 - image[3, 4]
    content = path.read_bytes()
    write_image(path, image)
    os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns))  # a time says nothing
    assert path.read_bytes() != content
    after, _ = opened(tmp_path, samples)
    assert after.file != before.file
    assert_same(after, samples)


def test_another_limit_or_library_makes_another_cache(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {opened(tmp_path, samples)[0].file}
    monkeypatch.setenv("PROTOSEG_MAX_PIXELS", "100")
    cache, _ = opened(tmp_path, samples)
    assert_same(cache, samples)  # most are too large now, and read as such
    files.add(cache.file)
    monkeypatch.setattr(module.PIL, "__version__", "0.0")
    files.add(opened(tmp_path, samples)[0].file)
    assert len(files) == 3


@pytest.mark.parametrize("where", ["magic", "header checksum", "table", "pixel", "last pixel", "short", "long", "empty"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, samples: list[Sample], where: str) -> None:
    file = opened(tmp_path, samples)[0].file
    whole = file.read_bytes()
    places = {"magic": 0, "header checksum": 20, "table": 100, "pixel": len(whole) // 2, "last pixel": len(whole) - 1}
    if where in places:
        content = bytearray(whole)
        content[places[where]] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes({"short": whole[:-1], "long": whole + b"\0", "empty": b""}[where])
    cache, said = opened(tmp_path, samples)
    assert said[0] == f"warning: the cache {file} is damaged; the images are decoded again"
    assert_same(cache, samples)
    assert len(opened(tmp_path, samples)[1]) == 1  # it is whole again


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match=r"cache cannot be written to .No space left"):
            opened(tmp_path, samples)
    assert list((tmp_path / "cache").iterdir()) == []
    file = opened(tmp_path, samples)[0].file
    left = file.with_name(f"{file.stem}-0123abcd.partial")  # by a process that was killed
    left.write_bytes(b"half")
    opened(tmp_path, samples)
    assert list((tmp_path / "cache").iterdir()) == [file]


def test_several_at_once_decode_once(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, read = list[Path](), module.read_image

    def counting(path: Path, kind: ImageKind | None = None) -> object:
        decoded.append(path)
        return read(path, kind)

    monkeypatch.setattr(module, "read_image", counting)
    with ThreadPoolExecutor(4) as pool:
        caches = [cache for cache, _ in pool.map(lambda _: opened(tmp_path, samples), range(4))]
    assert len(decoded) == 7  # one of the twins is not decoded at all
    for cache in caches:
        assert np.array_equal(cache.read(samples[0].image), read(samples[0].image))


def test_is_refused_where_it_does_not_fit(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="images of 8 bits, and these have 1 channel of uint16; leave it out"):
        opened(tmp_path, samples, ImageKind(1, "uint16"))
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: usage(100))
        with pytest.raises(ValueError, match=r"cache has room for 0.0 GiB; make room"):
            opened(tmp_path, samples)
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"takes at most 0.0 GiB: .* leave it out"):
        opened(tmp_path, samples)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    monkeypatch.setattr(module, "_digest", no_decoding)  # of files that are too large no content is looked at
    with pytest.raises(ValueError, match=r"takes at most 0.0 GiB: .* leave it out"):
        opened(tmp_path, samples)


def test_crops_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    make_folder(tmp_path, train=8, labeled=3, size=(24, 30), suffix=".jpg")
    cut_short(tmp_path / "images/img_05.jpg")
    partition: Partition = make_partition(open_dataset(tmp_path))
    cache, _ = opened(tmp_path, [*partition.labeled, *partition.unlabeled])
    assert len(cache.places) == 7
    classes, geometry = table_from_values(range(9)), Geometry(16)
    labeled = [LabeledCrops(partition.labeled, classes, geometry, cache=chosen) for chosen in (None, cache)]
    unlabeled = [UnlabeledCrops(partition.unlabeled, geometry, cache=chosen) for chosen in (None, cache)]
    for draw in [Draw(seed % 3, seed) for seed in range(12)]:
        for plain, cached in (labeled, unlabeled):
            first, second = plain[draw], cached[draw]
            assert first.keys() == second.keys()
            for key, value in first.items():
                assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
    assert unlabeled[1][Draw(2, 0)]["skipped"] == [str(tmp_path / "images/img_05.jpg")]


def test_a_run_is_the_same_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "data", train=6, labeled=3)
    monkeypatch.chdir(tmp_path)
    words = ["train", "data", *TINY, "--no-evaluate", "--log-every", "1"]
    assert main([*words, "--out", "plain"]) == 0
    assert main([*words, "--out", "cached", "--cache", "kept"]) == 0
    assert len(list((tmp_path / "kept").iterdir())) == 1
    rows = [[row.split(",") for row in (tmp_path / run / "metrics.csv").read_text().splitlines()] for run in RUNS]
    assert rows[0][0][1:3] == ["seconds", "images_per_second"]
    assert [row[:1] + row[3:] for row in rows[0]] == [row[:1] + row[3:] for row in rows[1]]
    assert f"cache: {tmp_path / 'kept'}" in (tmp_path / "cached/config.yaml").read_text()
    weights = [load_file(tmp_path / run / "model.safetensors") for run in RUNS]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert str(tmp_path).encode() not in (tmp_path / "cached/model.safetensors").read_bytes()  # of no use to whoever gets it


RUNS = ("plain", "cached")


def test_a_cache_that_was_written_anew_is_not_taken_for_the_one_that_a_run_opened(
    tmp_path: Path, samples: list[Sample]
) -> None:
    cache, _ = opened(tmp_path, samples)
    for_a_worker = pickle.dumps(cache)
    assert_same(pickle.loads(for_a_worker), samples)
    content = bytearray(cache.file.read_bytes())
    content[len(b"protoseg images1") + 3] ^= 1  # of the hash of all places
    cache.file.write_bytes(content)
    with pytest.raises(ValueError, match="was written anew while a run used it"):
        pickle.loads(for_a_worker)


@pytest.mark.parametrize("missing", [False, True])
def test_pixels_are_read_whatever_the_system_gives_at_once(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    """A few bytes of what was asked for; or it lacks the call, as Windows does."""
    cache, _ = opened(tmp_path, samples)
    if missing:
        monkeypatch.delattr(module.os, "preadv")
    else:
        read = module.os.preadv
        monkeypatch.setattr(module.os, "preadv", lambda file, parts, offset: read(file, [parts[0][:7]], offset))
    assert_same(cache, samples)
    assert_same(pickle.loads(pickle.dumps(cache)), samples)


needs_preadv = pytest.mark.skipif(not hasattr(os, "preadv"), reason="an open file stays as it is")


@needs_preadv
def test_a_cache_that_is_deleted_in_a_run(tmp_path: Path, samples: list[Sample]) -> None:
    cache, _ = opened(tmp_path, samples)
    shutil.rmtree(cache.file.parent)
    assert_same(cache, samples)


@needs_preadv
def test_a_cache_that_is_cut_short_in_a_run(tmp_path: Path, samples: list[Sample]) -> None:
    cache, _ = opened(tmp_path, samples)
    os.truncate(cache.file, max(place.offset for place in cache.places.values()) + 3)
    last = max(cache.places, key=lambda path: cache.places[path].offset)
    crops = UnlabeledCrops([sample for sample in samples if str(sample.image) == last], Geometry(16), cache=cache)
    with pytest.raises(ValueError, match="was cut short while a run used it; let the run go on with --resume"):
        crops[Draw(0, 0)]


@pytest.mark.parametrize("offset", [-1, 1 << 40])
def test_a_cache_that_points_elsewhere_is_damaged(tmp_path: Path, samples: list[Sample], offset: int) -> None:
    """Somebody has written it: its hashes fit."""
    cache, _ = opened(tmp_path, samples)
    whole, end = cache.file.read_bytes(), _START + len({sample.image.read_bytes() for sample in samples}) * _ENTRY.itemsize
    entries = np.frombuffer(whole[_START:end], dtype=_ENTRY).copy()
    entries["offset"][np.argmax(entries["height"])] = offset
    table = entries.tobytes()
    cache.file.write_bytes(whole[: _START - 32] + hashlib.sha256(table).digest() + table + whole[end:])
    again, said = opened(tmp_path, samples)
    assert said[0] == f"warning: the cache {cache.file} is damaged; the images are decoded again"
    assert_same(again, samples)
