"""A drive that is away for a while: its files are read again, and one that gives none is taken for lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import make_folder

from protoseg.data import cache, check, loader, patience
from protoseg.data.formats import open_dataset
from protoseg.data.index import table_from_values
from protoseg.data.io import DamagedImageError, UnreadableImageError
from protoseg.data.loader import Geometry, LabeledCrops, UnlabeledCrops, make_loader
from protoseg.data.patience import AwayError, patiently
from protoseg.data.sampler import Draw, StreamSampler
from protoseg.data.splits import make_partition

CROP = Geometry(16)
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that does not answer is a pipe here")
needs_preadv = pytest.mark.skipif(not hasattr(os, "preadv"), reason="a cache is read by this call")
Crops = LabeledCrops | UnlabeledCrops


def readers() -> int:
    return sum(thread.name == "protoseg reader" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_reader_is_left() -> Iterator[None]:
    """But those that wait for the next file, as many as before."""
    before = readers() - len(patience._free)
    yield
    deadline = time.monotonic() + 10
    while readers() - len(patience._free) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert readers() - len(patience._free) == before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_WAITS", (0.5, 2.5))  # what a busy machine needs to read a small file


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A file that does not answer before the end of the test."""
    path = tmp_path / "silent"
    os.mkfifo(path)
    yield path
    answering = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    path.unlink()  # nobody begins to wait again
    os.close(answering)  # whoever waits reads the end


@pytest.fixture
def crops(tmp_path: Path) -> dict[str, Any]:
    partition = make_partition(open_dataset(make_folder(tmp_path / "set", train=8, labeled=2, size=(24, 30))))
    labeled = LabeledCrops(partition.labeled, table_from_values([0, 1, 2]), CROP)
    return {"labeled": labeled, "unlabeled": UnlabeledCrops(partition.unlabeled, CROP)}


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Has a function called with the path of each image before it is read, in whatever process."""

    def look_and_read(look: Callable[[Path], None], read: Callable[..., Any], path: Path, *rest: Any) -> Any:
        look(path)
        return read(path, *rest)

    def before_each(look: Callable[[Path], None]) -> None:
        for module, name in ((loader, "read_image"), (check, "read_picture")):
            monkeypatch.setattr(module, name, partial(look_and_read, look, getattr(module, name)))

    return before_each


def batches(crops: Crops, workers: int, count: int = 3) -> list[dict[str, Any]]:
    sampler = StreamSampler(len(crops.samples), 4, seed=0, stream="some")
    return list(islice(make_loader(crops, sampler, workers=workers), count))


def test_answers_and_faults_come_as_they_are() -> None:
    fault = ValueError("no image")

    def damaged() -> None:
        raise fault

    assert patiently(lambda: 3, "x") == 3
    with pytest.raises(ValueError, match="no image") as caught:
        patiently(damaged, "x")
    assert caught.value is fault


def test_one_thread_reads_all_files() -> None:
    assert len({patiently(threading.get_ident, "x") for _ in range(20)} - {threading.get_ident()}) == 1


def test_threads_do_not_wait_for_one_another() -> None:
    together, found = threading.Barrier(3), list[int]()
    asking = [threading.Thread(target=lambda: found.append(patiently(lambda: together.wait(10), "x"))) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert sorted(found) == [0, 1, 2]


AWAY = (
    *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EREMOTEIO", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
    *("ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
)
KNOWN = [name for name in AWAY if hasattr(errno, name)]  # on this platform


@pytest.mark.parametrize(
    ("times", "name", "comes"),
    [(2, "ESTALE", True), *((3, name, False) for name in KNOWN), (1, "EACCES", False)],
)
@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_errors_that_pass(
    crops: dict[str, Crops],
    part: str,
    opening: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    name: str,
    comes: bool,
) -> None:
    chosen, calls, passes = crops[part], [0], name in AWAY
    expected, path = chosen[Draw(0, 5)], chosen.samples[0].image

    def away(_: Path) -> None:
        calls[0] += 1
        if calls[0] <= times:
            raise DamagedImageError(f"{path} cannot be read as an image") from OSError(getattr(errno, name), "away")

    opening(away)
    monkeypatch.setattr(patience, "_PAUSES", (0, 0))
    if comes or part == "unlabeled":
        crop = chosen[Draw(0, 5)]
        assert torch.equal(crop["image"], expected["image"]) is comes
        assert crop.get("skipped", []) == ([] if comes else [str(path)])
    else:
        with pytest.raises(UnreadableImageError, match=str(path)) as caught:
            chosen[Draw(0, 5)]
        assert isinstance(caught.value, AwayError) is passes
        assert ("(away, 3 times); look whether its drive is there" in str(caught.value)) is passes
    assert calls[0] == times + (comes or part == "unlabeled")


@needs_fifo
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_the_second_try_succeeds(
    tmp_path: Path,
    silent: Path,
    crops: dict[str, Crops],
    part: str,
    opening: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """A file that does not answer at first: the batches are those of a drive that always does."""
    monkeypatch.setattr(patience, "_WAITS", (0.3, 30.0))
    expected = batches(crops[part], workers=0)
    slow, tried = crops[part].samples[1].image, tmp_path / "tried"

    def stall(path: Path) -> None:
        if path == slow and not tried.exists():
            tried.touch()
            silent.read_bytes()

    opening(stall)
    found = batches(crops[part], workers)
    assert tried.exists()
    for before, after in zip(expected, found, strict=True):
        assert torch.equal(before["image"], after["image"])
        assert before["seed"] == after["seed"]
        assert before.get("skipped") == after.get("skipped")


@needs_fifo
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_labelled_file_that_never_answers(silent: Path, crops: dict[str, Crops], workers: int) -> None:
    lost = crops["labeled"].samples[0].image
    lost.unlink()
    lost.symlink_to(silent)
    with pytest.raises(AwayError) as caught:
        batches(crops["labeled"], workers)
    said = f"{lost} or its mask {crops['labeled'].samples[0].mask} cannot be read (no answer for 3 seconds); "
    assert str(caught.value) == f"{said}look whether its drive is there"


@needs_fifo
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unlabelled_file_that_never_answers(silent: Path, crops: dict[str, Crops], workers: int) -> None:
    """It is replaced as a damaged one is."""
    lost = crops["unlabeled"].samples[2].image
    lost.write_bytes(b"damaged")
    expected = batches(crops["unlabeled"], workers=0)
    lost.unlink()
    lost.symlink_to(silent)
    found = batches(crops["unlabeled"], workers)
    assert {name for batch in found for names in batch["skipped"] for name in names} == {str(lost)}
    for before, after in zip(expected, found, strict=True):
        assert torch.equal(before["image"], after["image"])
        assert before["skipped"] == after["skipped"]


@pytest.fixture
def cached(tmp_path: Path, crops: dict[str, Any]) -> dict[str, Any]:
    """The same crops, of decoded images."""
    labeled, unlabeled = crops["labeled"], crops["unlabeled"]
    samples = [*labeled.samples, *unlabeled.samples]
    kept = cache.open_cache(tmp_path / "cache", samples, CROP.kind, say=lambda text: None)
    return {
        "labeled": LabeledCrops(labeled.samples, labeled.classes, CROP, cache=kept),
        "unlabeled": UnlabeledCrops(unlabeled.samples, CROP, cache=kept),
    }


@needs_fifo
@needs_preadv
@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_a_cache_that_never_answers(silent: Path, cached: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.os, "preadv", lambda *_: silent.read_bytes())
    monkeypatch.setattr(patience, "_WAITS", (0.1, 0.2))  # nothing is read whose answer would come later
    with pytest.raises(AwayError, match=r"\.images.* cannot be read \(no answer for 0\.3 seconds\); look whether its drive is"):
        cached[part][Draw(0, 5)]


@needs_preadv
@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_a_cache_whose_errors_pass(cached: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, read, calls = cached[part][Draw(0, 5)], os.preadv, [0]

    def away(*arguments: Any) -> int:
        calls[0] += 1
        if calls[0] <= 2:
            raise OSError(errno.EIO, "away")
        return read(*arguments)

    monkeypatch.setattr(cache.os, "preadv", away)
    monkeypatch.setattr(patience, "_PAUSES", (0, 0))
    crop = cached[part][Draw(0, 5)]
    assert torch.equal(crop["image"], expected["image"])
    assert (calls[0], crop.get("skipped", [])) == (3, [])


@needs_fifo
@pytest.mark.usefixtures("impatient")
def test_a_drive_that_never_answers(silent: Path, crops: dict[str, Crops], opening: Callable[..., None]) -> None:
    """Not one image after the other is waited for."""
    asked = list[Path]()
    opening(lambda path: (asked.append(path), silent.read_bytes()))
    with pytest.raises(AwayError):
        crops["unlabeled"][Draw(0, 5)]
    assert [asked.count(path) for path in dict.fromkeys(asked)] == [2, 2]


@needs_fifo
def test_the_first_try_may_still_answer(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that a drive finishes when it is there again, whatever becomes of the second."""
    monkeypatch.setattr(patience, "_WAITS", (0.1, 30))
    second, end = threading.Event(), threading.Event()
    answers = iter([lambda: second.wait(20) and "first", lambda: (second.set(), end.wait(20))])
    assert patiently(lambda: next(answers)(), "x") == "first"
    end.set()


@needs_fifo
def test_a_process_does_not_wait_at_its_end(silent: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from protoseg.data import patience; patience._WAITS = (0.1, 0.1)\n"
        "try: patience.patiently(Path(sys.argv[1]).read_bytes, 'x')\n"
        "except patience.AwayError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(silent)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("x cannot be read (no answer for 0.2 seconds)")
