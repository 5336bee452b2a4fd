"""Cells run in order, none twice, and one that fails does not end the others."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder

from protoseg.bench import running, store
from protoseg.bench.cells import Cell
from protoseg.bench.running import Environment, run_cells, slots
from protoseg.engine.tally import TALLY, make_tally

CELLS = [
    Cell({"method": method, "seed": seed, "recipe": "r"}, ("data", method), f"{method}-{seed}")
    for seed in (0, 1)
    for method in "xyz"
]
METRICS = "step,seconds,images_per_second,miou\n5,1,10,0.25\n10,2,20,\n15,3,40,0.75\n20,4,60,0.5\n"


class Trainer:
    """Stands in for the process of a training: leaves a run folder."""

    def __init__(self, broken: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.broken, self.ran, self.places, self.lock = broken, list[str](), list[Environment](), threading.Lock()

    def __call__(self, words: tuple[str, ...], folder: Path, log: Path, environment: Environment) -> None:
        with self.lock:
            self.ran.append(folder.name)
            self.places.append(environment)
        folder.mkdir(parents=True)
        log.write_text(f"first line\nlast line of {folder.name}\n")
        if folder.name in self.broken:
            raise ValueError("protoseg train ended with status 1")
        result: dict[str, Any] = dict.fromkeys(("steps", "labeled", "unlabeled", "evaluated"), 1)
        result |= {"miou": 0.5, "seconds": 90.0, "peak_bytes": 7, "iou": {"a": 0.5}, "versions": {}}
        result["split"] = {"labels": "/far/away/23.txt", "hash": "aa", "evaluation": "test"}
        if "unscored" in folder.name:
            del result["miou"]
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "metrics.csv").write_text(METRICS)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    def make(*broken: str) -> Trainer:
        made = Trainer(set(broken))
        monkeypatch.setattr(running, "train", made)
        return made

    return make


def test_runs_in_order_and_keeps_what_came_out(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ran, said, seen = trainer(), list[str](), list[int]()
    results = tmp_path / "new" / "results.jsonl"
    hide = {"data": "DATA"}
    assert run_cells(CELLS, results, say=said.append, hide=hide, after=lambda: seen.append(len(store.read(results)))) == []
    assert ran.ran == [cell.folder for cell in CELLS]
    assert seen == [1, 2, 3, 4, 5, 6]
    rows = store.read(results)
    assert [(row["method"], row["seed"]) for row in rows] == [(c.identity["method"], c.identity["seed"]) for c in CELLS]
    assert (rows[0]["split"]["labels"], rows[0]["command"]) == ("23.txt", "protoseg train DATA x")
    assert rows[0]["curve"] == [[5, 0.25], [15, 0.75], [20, 0.5]]
    assert rows[0]["images_per_second"] == 50  # of steps 15 and 20
    assert rows[0]["peak_bytes"] == 7
    assert said[1] == "[1/6] x, seed 0: mIoU 50.0 after 90 s of training"


def test_a_run_is_looked_at_before_its_row_and_its_folder_go(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer()
    results, said, seen = tmp_path / "results.jsonl", list[str](), list[tuple[int, bool]]()
    runs, left = tmp_path / "runs", list[int]()

    def look(cell: Cell, folder: Path) -> None:
        seen.append((len(store.read(results)), (folder / "result.json").is_file()))
        if cell.folder == "y-0":
            raise ValueError("an image is gone")

    def after() -> None:
        left.append(len(list(runs.iterdir())))

    assert run_cells(CELLS[:3], results, say=said.append, runs=runs, keep=False, look=look, after=after) == []
    assert seen == [(0, True), (1, True), (2, True)]
    assert len(store.read(results)) == 3  # the number stands
    assert left == [0, 0, 0]  # a page that is written now links to no folder that goes
    assert "[2/3] y, seed 0: the page will lack something of it, an image is gone" in said


def test_of_several_at_a_time_each_is_looked_at_when_those_before_have_their_rows(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer()
    results, seen, inside = tmp_path / "results.jsonl", list[int](), list[int]()

    def look(cell: Cell, folder: Path) -> None:
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.02)
        seen.append(len(store.read(results)))
        inside.pop()

    run_cells(CELLS, results, say=lambda _: None, look=look, places=[{}, {}, {}])
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_row_tells_of_alarms(tmp_path: Path) -> None:
    Trainer()((), tmp_path / "run", tmp_path / "run.log", {})
    assert "alarms" not in store.row_of({}, (), tmp_path / "run", hide={})
    file = tmp_path / "run/result.json"
    events = [{"step": 3, "alarm": "one class takes all"}, {"step": 5, "alarm": "none is left", "back_to": 1}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"events": events}))
    expected = ["step 3: one class takes all", "step 5: none is left"]
    assert store.row_of({}, (), tmp_path / "run", hide={})["alarms"] == expected


@pytest.mark.parametrize("damage", ["[", "[]", "[" * 100_000, {"iou": None}, {"steps": "many"}, {"split": {}}, {"events": [3]}])
def test_a_damaged_result_is_named(tmp_path: Path, damage: Any) -> None:
    Trainer()((), tmp_path / "run", tmp_path / "run.log", {})
    file = tmp_path / "run/result.json"
    file.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} is damaged .*; remove .*run, and the training runs again"):
        store.row_of({}, (), tmp_path / "run", hide={})


@pytest.mark.parametrize("classes", [2, 65])
def test_a_row_holds_the_confusions_of_a_few_classes(classes: int, tmp_path: Path) -> None:
    Trainer()((), tmp_path / "run", tmp_path / "run.log", {})
    images = torch.randint(0, 9, (3, classes, classes), generator=torch.Generator().manual_seed(0))
    make_tally(classes, [(str(i), image) for i, image in enumerate(images)]).save(tmp_path / "run" / TALLY)
    row = store.row_of({}, (), tmp_path / "run", hide={})
    assert row.get("confusion") == (images.sum(0).tolist() if classes == 2 else None)
    (tmp_path / "run" / TALLY).unlink()  # as earlier versions left it
    assert "confusion" not in store.row_of({}, (), tmp_path / "run", hide={})


def test_finished_cells_are_skipped(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer()
    results = tmp_path / "results.jsonl"
    run_cells(CELLS[:4], results, say=lambda _: None)
    ran = trainer()
    run_cells(CELLS, results, say=lambda _: None)
    assert ran.ran == ["y-1", "z-1"]
    assert len(store.read(results)) == 6


def test_what_another_benchmark_finished_meanwhile_is_skipped_too(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ran, results = trainer(), tmp_path / "results.jsonl"

    def other(*_: object) -> None:
        if len(store.read(results)) == 1:
            store.append(results, CELLS[1].identity)

    run_cells(CELLS[:3], results, say=lambda _: None, after=other)
    assert ran.ran == ["x-0", "z-0"]


def test_a_cell_that_fails_is_reported_and_the_others_go_on(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ran, said = trainer("y-0"), list[str]()
    (failed,) = run_cells(CELLS, tmp_path / "results.jsonl", say=said.append, runs=tmp_path / "runs")
    assert (failed.cell, failed.reason) == (CELLS[1], "protoseg train ended with status 1")
    assert len(ran.ran) == 6
    assert len(store.read(tmp_path / "results.jsonl")) == 5
    assert any("[2/6] y, seed 0: FAILED" in line and "last line of y-0" in line for line in said)


def test_a_run_without_a_score_has_failed(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer()
    (failed,) = run_cells([Cell({"method": "x", "seed": 0}, (), "unscored")], tmp_path / "r.jsonl", say=lambda _: None)
    assert "keep labelled images back with --holdout" in failed.reason


def test_an_unfinished_run_goes_on_wherever_its_images_lie_now(tmp_path: Path) -> None:
    """As benchmarks/demo.py has it, whose images are written anew into another folder each time."""
    first, second = (make_folder(tmp_path / name, train=4, labeled=2, test=1) for name in ("first", "second"))
    folder, log = tmp_path / "runs/run", tmp_path / "runs/run.log"
    running.train([str(first), *TINY, "--no-evaluate"], folder, log, {})
    for name in ("result.json", "model.safetensors"):  # as if it had been stopped
        (folder / name).unlink()
    shutil.rmtree(first)
    running.train([str(second), *TINY, "--no-evaluate"], folder, log, {})
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(("keep", "left"), [(True, {"x-0", "x-0.log"}), (False, set())])
def test_run_folders(keep: bool, left: set[str], trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer()
    run_cells(CELLS[:1], tmp_path / "r.jsonl", say=lambda _: None, runs=tmp_path / "runs", keep=keep)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == left


def test_each_place_has_one_cell_at_a_time(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ran = trainer()
    places = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    barrier, train = threading.Barrier(2, timeout=60), ran.__call__

    def both(*arguments: Any) -> None:
        barrier.wait()  # passes only while two cells run at once
        train(*arguments)

    running.train = both  # type: ignore[assignment]  # the fixture puts the real one back
    run_cells(CELLS, tmp_path / "r.jsonl", say=lambda _: None, places=places)
    assert len(store.read(tmp_path / "r.jsonl")) == 6
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in ran.places) == ["0"] * 3 + ["1"] * 3


def test_ctrl_c_starts_no_further_cell(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ran = trainer()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(CELLS, tmp_path / "r.jsonl", say=lambda _: None, after=stop)
    assert len(ran.ran) < len(CELLS)


class TestSlots:
    def test_each_gpu_has_its_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
        assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(2, cuda=True)] == ["2", "5", "2", "5"]

    def test_processes_share_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        assert slots(1, cuda=False) == [{}]
        assert slots(3, cuda=False) == [{"OMP_NUM_THREADS": "2"}] * 3
        share = {"OMP_NUM_THREADS": "2"}
        assert slots(2, cuda=True) == [{"CUDA_VISIBLE_DEVICES": device} | share for device in "0101"]
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert slots(3, cuda=False) == [{}] * 3


@pytest.mark.parametrize("line", ['{"a": ', "3", "[" * 100_000])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.jsonl").write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl, line 2 is damaged .*; take it out"):
        store.read(tmp_path / "r.jsonl")
    assert store.read(tmp_path / "nothing.jsonl") == []
