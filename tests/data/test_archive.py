"""Zip files are unpacked into the cache and nowhere else."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import time
import zipfile
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from make_folder import make_folder

from protoseg.data.archive import opened, unpack
from protoseg.data.formats import open_dataset
from protoseg.data.index import EXTRA


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_is_unpacked_once(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a/b.txt": b"one", "c.txt": b"two"})
    folder = unpack(path)
    assert folder.is_relative_to(cache)
    assert (folder / "a/b.txt").read_bytes() == b"one"
    (folder / "a/b.txt").write_bytes(b"touched")
    assert (unpack(path) / "a/b.txt").read_bytes() == b"touched"
    assert sorted(tmp_path.iterdir()) == [cache, path]


def test_the_only_folder_is_the_data_set(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"data/images/b.txt": b"one", "data/c.txt": b"two", "__MACOSX/._c": b""})
    assert sorted(p.name for p in unpack(path).iterdir()) == ["c.txt", "images"]
    assert unpack(path).name == "data"


def test_the_only_folder_in_the_only_folder_is_the_data_set(tmp_path: Path, cache: Path) -> None:
    """As where the folder that a download was unpacked into is packed again."""
    path = write_zip(tmp_path / "x.zip", {"task 12/export/data/images/b.txt": b"one", "task 12/export/data/c.txt": b"two"})
    assert sorted(p.name for p in unpack(path).iterdir()) == ["c.txt", "images"]
    path = write_zip(tmp_path / "y.zip", {"data/images/b.txt": b"one"})
    assert unpack(path).name == "data"  # images/ is what a data set consists of


@pytest.mark.parametrize("above", ["", "data/"])
def test_a_folder_of_evaluation_images_keeps_its_name(tmp_path: Path, cache: Path, above: str) -> None:
    path = write_zip(tmp_path / "x.zip", {f"{above}Test/images/a.png": b"", f"{above}Test/masks/a.png": b""})
    assert [sample.split for sample in open_dataset(path, for_training=False).samples] == ["test"]
    path = write_zip(tmp_path / "y.zip", {f"{above}train/images/a.png": b"", f"{above}train/masks/a.png": b""})
    assert [sample.split for sample in open_dataset(path).samples] == ["train"]


def test_names_with_backslashes_are_paths(tmp_path: Path, cache: Path) -> None:
    """As some programs for Windows write them."""
    path = write_zip(tmp_path / "x.zip", {"data\\images\\": b"", "data\\images\\a.txt": b"one", "data\\b.txt": b"two"})
    assert (unpack(path) / "images/a.txt").read_bytes() == b"one"
    assert (unpack(path) / "b.txt").read_bytes() == b"two"


def test_another_content_is_unpacked_anew(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.txt": b"one"})
    first = unpack(path)
    write_zip(path, {"a.txt": b"another"})
    assert (unpack(path) / "a.txt").read_bytes() == b"another"
    assert (first / "a.txt").read_bytes() == b"one"


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt", "C:/evil.txt"]
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, cache: Path, name: str) -> None:
    path = write_zip(tmp_path / "x.zip", {"fine.txt": b"", name: b"evil"})
    with pytest.raises(ValueError, match=r"x\.zip holds .*evil\.txt.*leads out"):
        unpack(path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_link_is_refused(tmp_path: Path, cache: Path) -> None:
    link = zipfile.ZipInfo("images")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(ValueError, match=r"x\.zip holds the link 'images'"):
        unpack(tmp_path / "x.zip")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "x.zip"]


FAULTS: list[tuple[str, list[str], str]] = [
    ("a path that leads out", ["../a.txt"], r"x\.zip holds '\.\./a\.txt', which leads out of it"),
    ("a file where another needs a folder", ["a", "a/b.txt"], r"x\.zip holds 'a/b\.txt', which cannot be unpacked into"),
    ("a file where there is a folder", ["a/b.txt", "a"], r"x\.zip holds 'a', which cannot be unpacked into"),
    ("a name of 300 letters", ["c" * 300], r"x\.zip holds 'c{40}\.\.\.', which cannot be unpacked into .*name"),
]


@pytest.mark.parametrize(("fault", "names", "message"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_names_that_are_not_unpacked(tmp_path: Path, cache: Path, fault: str, names: list[str], message: str) -> None:
    path = write_zip(tmp_path / "x.zip", dict.fromkeys(names, b"one"))
    with pytest.raises(ValueError, match=message) as caught:
        unpack(path)
    assert str(cache / "protoseg/unpacked/x-") not in str(caught.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_another_process_that_is_faster(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the trainings of a bench that start together."""
    path = write_zip(tmp_path / "x.zip", {"a.txt": b"one"})
    rename = Path.rename

    def late(partial: Path, target: Path) -> Path:
        shutil.copytree(partial, target)
        return rename(partial, target)

    monkeypatch.setattr(Path, "rename", late)
    assert (unpack(path) / "a.txt").read_bytes() == b"one"
    assert len(list((cache / "protoseg/unpacked").iterdir())) == 1


def age(folder: Path, days: float) -> Path:
    """Let a folder look as if it had been used last so many days ago."""
    then = time.time() - days * 24 * 3600
    os.utime(folder, (then, then))
    return folder


class TestWhatIsNotUsedForLong:
    @pytest.fixture
    def old(self, tmp_path: Path, cache: Path) -> Path:
        """A zip file that was unpacked 31 days ago."""
        path = write_zip(tmp_path / "old.zip", {"a/b.txt": b"one", "c.txt": b"two"})
        age(unpack(path), 31)
        return path

    def kept(self, cache: Path) -> list[str]:
        return sorted(path.name.rsplit("-", 1)[0] for path in (cache / "protoseg/unpacked").iterdir())

    def test_goes_when_another_is_unpacked(self, tmp_path: Path, cache: Path, old: Path) -> None:
        age(unpack(write_zip(tmp_path / "late.zip", {"a.txt": b""})), 29)
        assert self.kept(cache) == ["late"]

    def test_comes_again(self, tmp_path: Path, old: Path) -> None:
        unpack(write_zip(tmp_path / "new.zip", {"a.txt": b""}))
        assert (unpack(old) / "a/b.txt").read_bytes() == b"one"

    def test_stays_where_it_is_used_again(self, tmp_path: Path, cache: Path, old: Path) -> None:
        unpack(old)
        unpack(write_zip(tmp_path / "new.zip", {"a.txt": b""}))
        assert self.kept(cache) == ["new", "old"]

    def test_what_was_left_half_goes_too(self, tmp_path: Path, cache: Path, old: Path) -> None:
        for name in ("half-x1", ".old-x2"):
            (cache / "protoseg/unpacked" / name / "part").mkdir(parents=True)
            age(cache / "protoseg/unpacked" / name, 31)
        unpack(write_zip(tmp_path / "new.zip", {"a.txt": b""}))
        assert self.kept(cache) == ["new"]

    def test_cleaning_waits_for_who_takes(self, tmp_path: Path, cache: Path, old: Path) -> None:
        """One process has just looked whether a folder is there; another one cleans before the first has noted its use."""
        context = multiprocessing.get_context("spawn")
        looked, done = context.Event(), context.Event()
        taker = context.Process(target=_unpack_slowly, args=(old, looked, done))
        taker.start()
        assert looked.wait(60)
        unpack(write_zip(tmp_path / "new.zip", {"a.txt": b""}))
        assert done.is_set()
        taker.join()
        assert self.kept(cache) == ["new", "old"]

    def test_without_locks_nothing_goes(self, tmp_path: Path, cache: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_locks(*_: object) -> None:
            raise OSError("no locks")

        monkeypatch.setattr("protoseg.files.fcntl.flock", no_locks)
        unpack(write_zip(tmp_path / "new.zip", {"a.txt": b""}))
        assert self.kept(cache) == ["new", "old"]


def _unpack_slowly(path: Path, looked: Event, done: Event) -> None:
    """Find a zip file unpacked, and pause before its folder is marked."""
    really = os.utime

    def late(path: Path) -> None:
        looked.set()
        time.sleep(0.5)
        done.set()
        really(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "utime", late)
        unpack(path)


def test_a_zip_file_by_a_long_name(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / f"{'x' * 250}.zip", {"a.txt": b"one"})
    assert (unpack(path) / "a.txt").read_bytes() == b"one"


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ValueError, match=r"x\.zip cannot be unpacked into .*XDG_CACHE_HOME"):
        unpack(write_zip(tmp_path / "x.zip", {"a.txt": b"one"}))


def test_a_disk_without_room_is_named_before_anything_is_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": bytes(3 << 20)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    with pytest.raises(ValueError, match=r"x\.zip would unpack to 3 MiB, and .* has room for 2 MiB; make room"):
        unpack(path)


def test_a_bomb_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoseg.data.archive._SMALL", 1 << 20)
    path = write_zip(tmp_path / "x.zip", {"a": bytes(1 << 21)})
    with pytest.raises(ValueError, match=r"x\.zip would unpack to 2 MiB"):
        unpack(path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_name_that_is_no_text(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"ä.txt": b"one"})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    with pytest.raises(ValueError, match=r"x\.zip cannot be unpacked"):
        unpack(path)


@pytest.mark.parametrize(("mib", "is_fine"), [(50, True), (100, False)])
def test_what_shrinks_a_thousand_times(tmp_path: Path, cache: Path, mib: int, is_fine: bool) -> None:
    """Plain masks of a small data set do; a data set of this size does not."""
    path = write_zip(tmp_path / "x.zip", {"a": bytes(mib << 20)})
    if is_fine:
        assert (unpack(path) / "a").stat().st_size == mib << 20
    else:
        with pytest.raises(ValueError, match=r"would unpack to 100 MiB"):
            unpack(path)


@pytest.mark.parametrize("cut", [0.3, 0.7])
def test_a_damaged_file_is_named_and_leaves_nothing(tmp_path: Path, cache: Path, cut: float) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.txt": bytes(range(256)) * 40, "b.txt": b"two"})
    content = bytearray(path.read_bytes())
    content[int(cut * 300) : int(cut * 300) + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.zip cannot be unpacked"):
        unpack(path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_zip_file_of_unlabelled_images(tmp_path: Path, cache: Path) -> None:
    make_folder(tmp_path / "data")
    image = (tmp_path / "data/images/img_00.png").read_bytes()
    path = write_zip(tmp_path / "more.zip", {"x.png": image, "y/z.png": image})
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
        path = path.rename(tmp_path / folder / path.name)
        more = [s for s in open_dataset(tmp_path / "data", unlabeled=path).samples if s.name.startswith(EXTRA)]
        assert [sample.name for sample in more] == [f"{EXTRA}more/x", f"{EXTRA}more/y/z"]
        assert all(sample.image.is_relative_to(cache) for sample in more)


def test_all_but_a_zip_file_is_where_it_is(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a.png", tmp_path / "missing.zip"):
        assert opened(path) == path
    assert not cache.exists()
